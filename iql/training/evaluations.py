"""The evaluations of a pack while it trains: when one is due, what is recorded of it, and what waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iql.config.phases import Phases
from iql.errors import UserError
from iql.evaluation.pending import Evaluator
from iql.evaluation.rollout import Episodes
from iql.runs.metrics_file import Record
from iql.tasks.task import Task
from iql.training.pack import Member, Pack, Position
from iql.training.progress import Progress
from iql.training.summary import evaluation_record


def phase_of(phases: Phases, update: int) -> dict[str, Any]:
    """What records of a finetuned run say besides: the phase, and in the online one the steps so far."""
    if not phases.steps:
        return {}
    if update <= phases.offline:
        return {"phase": "offline"}
    return {"phase": "online", "step": phases.steps_after(update)}


class Evaluations:
    """One evaluation at a time is played beside training; records of later updates are written after its own.

    evaluator     None where nothing is evaluated
    every         updates between two evaluations of the offline phase
    keep_waiting  whether to go on waiting for episodes: not once a signal was received
    """

    def __init__(
        self,
        evaluator: Evaluator | None,
        task: Task,
        pack: Pack,
        phases: Phases,
        every: int | None,
        position: Position,
        progress: Progress,
        keep_waiting: Callable[[], bool],
    ):
        self._evaluator, self._task, self._pack = evaluator, task, pack
        self._phases, self._every = phases, every
        self._position, self._progress, self.keep_waiting = position, progress, keep_waiting

    @property
    def pending(self) -> bool:
        """Whether one is in progress."""
        return self._evaluator is not None and self._evaluator.pending is not None

    def due(self, update: int) -> bool:
        """Whether the policies are evaluated after so many updates."""
        if self._every is None or update > self._phases.offline:
            return self._every is not None and self._phases.evaluation_due(update)
        return update % self._every == 0 or update == self._phases.offline

    def begin_if_due(self) -> None:
        """Begin one of the policies as they are, unless it is done or pending or an earlier one is."""
        update = self._pack.learner.update_count
        if self._evaluator is None or not self.due(update) or update == self._position.evaluated:
            return
        if self._evaluator.pending is None or self._evaluator.pending.update < update:
            self.collect(self.keep_waiting)
        if self._evaluator.pending is not None or not self.keep_waiting():
            return
        self._pack.fail_not_finite()  # else an environment is blamed for the actions of such a policy
        if self._pack.live:
            self._evaluator.begin(update, [member.place for member in self._pack.live])

    def collect(self, keep_waiting: Callable[[], bool]) -> None:
        """Write the pending one and the records deferred for it, if it is played while `keep_waiting()`."""
        collected = self._evaluator.collect(keep_waiting) if self._evaluator is not None else None
        if collected is None:
            return
        evaluation, played = collected
        update, phase = evaluation.update, phase_of(self._phases, evaluation.update)
        records = {
            place: evaluation_record(update, phase, self._task.score(episodes.returns), episodes, evaluation.seconds)
            for place, episodes in played.items()
        }
        for place, record in records.items():
            for each in (record, *evaluation.deferred[place]):
                self._pack.record(self._pack.members[place], each)
        self._position.evaluated = update
        self._progress.evaluated(update, [records.get(member.place, {}) for member in self._pack.members])

    def collect_all(self) -> None:
        """As collect, however long it takes: what a run that ends here has recorded must not depend on timing."""
        self.collect(lambda: True)

    def failure(self, wait: bool) -> UserError | None:
        """As collect, waiting or not, but returns the error of one that could not be played; it stays pending."""
        try:
            self.collect(self.keep_waiting if wait else lambda: False)
        except UserError as error:
            return error
        return None

    def record(self, member: Member, record: Record) -> None:
        """Write a member's record, or defer it until the pending evaluation of an earlier update is written."""
        if self._evaluator is None or not self._evaluator.defer(member.place, record):
            self._pack.record(member, record)

    def state(self, place: int) -> dict[str, Any] | None:
        """The part of the pending one that belongs to a member's checkpoint."""
        return None if self._evaluator is None else self._evaluator.state(place)

    def of_final_policies(self, keep_observations: bool, kept: int | None = None) -> dict[int, Episodes] | None:
        """Episodes of the final policies by place, as in `Evaluator.begin`; None on a signal."""
        assert self._evaluator is not None
        update, live = self._pack.learner.update_count, [member.place for member in self._pack.live]
        self._evaluator.begin(update, live, keep_observations, kept)
        collected = self._evaluator.collect(self.keep_waiting)
        return None if collected is None else collected[1]
