"""The online phase of a pack: steps in the environment, and updates on what they and the data give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iql.config.phases import Phases
from iql.config.settings import Settings
from iql.data.replay_buffer import ReplayBuffer
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.execution.paths import Execution
from iql.learner.learner import Learner, Metrics
from iql.runs.run import Run
from iql.tasks.task import Task
from iql.training.exploration import Exploration


def check(settings: Settings, task: Task, learner: Learner, data: Transitions) -> None:
    """Raise UserError where task, algorithm or data cannot have the online phase that the settings ask for."""
    finetune, name = settings["finetune"], type(learner.algorithm).__name__
    if getattr(task, "gym_id", "") is None:
        raise UserError(f"env={task.name}: finetune=online needs an environment; give env.gym_id=ID")
    if learner.algorithm.next_actions:
        raise UserError(f"finetune=online: {name} learns from the data's next actions, which steps do not give yet")
    if finetune["offline_share"] is None and finetune["capacity"] < len(data):
        raise UserError(
            f"finetune.capacity={finetune['capacity']}: is less than the data's {len(data):,} transitions, which are "
            "the first in the buffer; give more"
        )


class OnlinePhase:
    """A pack's environments and its replay buffer, from the first step on."""

    def __init__(
        self, runs: Sequence[Run], task: Task, data: Transitions, learner: Learner, execution: Execution, phases: Phases
    ):
        finetune, batch_size = runs[0].settings["finetune"], runs[0].settings["batch_size"]
        self._learner, self._execution, self._phases = learner, execution, phases
        self._buffer = ReplayBuffer(
            data,
            learner.seeds,
            batch_size,
            learner.device,
            capacity=finetune["capacity"],
            steps=finetune["steps"],
            offline_share=finetune["offline_share"],
        )
        files = [run.online_rows for run in runs]
        self.exploration = Exploration(task, learner, self._buffer, files, data, **finetune["exploration"])

    def advance(
        self, stop: int, measure: bool, live: Callable[[], Sequence[int]], interrupted: Callable[[], bool]
    ) -> Metrics | None:
        """Updates up to `stop`, and before each the steps that are due; returns the last one's metrics, if `measure`.

        live: the places of the members that step. Ends earlier, without metrics, where a member's environment failed,
        or where `interrupted()` is true between two steps.
        """
        metrics = None
        while (number := self._learner.update_count) < stop:
            steps = self._phases.steps_before(number)
            while self.exploration.steps < steps:
                self.exploration.step(live())
                if self.exploration.failures or interrupted():
                    return None
            last = number + 1
            while last < stop and self._phases.steps_before(last) == steps:
                last += 1
            metrics = self._execution.advance(self._buffer, last - number, measure and last == stop)
        return metrics
