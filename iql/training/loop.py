"""The training loop: updates, evaluations, records and checkpoints, from update 0 or a checkpoint to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iql.config.phases import Phases
from iql.data.sampling import Batches
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.evaluation.pending import Evaluator, episode_seeds
from iql.evaluation.rollout import Episodes, first_step
from iql.evaluation.workers import RolloutWorkers
from iql.execution import devices
from iql.execution.paths import Execution
from iql.learner.learner import Learner, Metrics
from iql.runs.leases import Leases
from iql.runs.run import Run
from iql.runs.saved_networks import description
from iql.tasks.task import Task
from iql.tracking import Tracker
from iql.training.evaluations import Evaluations, phase_of
from iql.training.finish import finish
from iql.training.online_phase import OnlinePhase, check
from iql.training.pack import Pack
from iql.training.progress import Progress
from iql.training.resume import resume
from iql.training.signals import Stopped, StopSignals

BLOCK = 64
"""Updates at most, summed over the pack, between two checks for a signal; but 16 of each member."""


class Training:
    """One pack on one device, until its runs are finished; `draw` makes a finished run's pictures."""

    def __init__(
        self,
        *,
        runs: Sequence[Run],
        trackers: Sequence[list[Tracker]],
        learner: Learner,
        execution: Execution,
        task: Task,
        data: Transitions,
        draw: Callable[[Path], dict[str, Path]],
    ):
        self.settings = runs[0].settings
        self.runs, self.trackers = list(runs), list(trackers)
        self.learner = learner
        self.execution = execution
        self.task = task
        self.draw = draw
        self.phases = Phases.of(self.settings)
        self.online: OnlinePhase | None = None
        self.observation_mean, self.observation_std = data.observation_mean, data.observation_std
        self.data = dataclasses.replace(data, rows=learner.algorithm.rows(data))
        self.batches = Batches(
            self.data,
            [run.seed for run in runs],
            self.settings["batch_size"],
            learner.device,
            learner.algorithm.next_actions,
        )
        if self.phases.steps:
            check(self.settings, task, learner, self.data)
        if self.settings["evaluation"]["every"] is not None:
            envs = task.make_envs(1)  # an error in them is reported before anything is written
            try:
                first_step(envs, episode_seeds(runs[0].seed, 0, 1, getattr(task, "run_seeded", False))[0])
            finally:
                envs.close()

    def run(self) -> None:
        """Train to the end. Raises Stopped on a signal, UserError if no member could finish."""
        unfinished = [run.directory for run in self.runs if run.summary is None]
        with StopSignals() as self.signals, Leases(unfinished) as leases, contextlib.ExitStack() as self._closing:
            self.pack = Pack(self.runs, self.trackers, self.learner, self.execution, leases)
            if not self.pack.live:  # finished by their owner while we waited for the leases
                return
            evaluator = self._new_evaluator()
            self.position, evaluations, online = resume(self.pack, self.task.facts())
            self._entered = time.monotonic() - self.position.wall_seconds
            labels = [run.label for run in self.runs]
            self.progress = Progress(
                self.phases.total, self.learner.update_count, labels, self.learner.algorithm.networks
            )
            self.evaluations = Evaluations(
                evaluator,
                self.task,
                self.pack,
                self.phases,
                self.settings["evaluation"]["every"],
                self.position,
                self.progress,
                lambda: not self.signals.received,
            )
            try:
                if evaluator is not None:
                    evaluator.resume(evaluations)
                if online:
                    self._begin_online().exploration.resume(online)
                self._train()
                self._finish()
            finally:
                self.progress.close()
                for member in self.pack.live:
                    self.pack.close(member, None, exit_code=1)

    def _new_evaluator(self) -> Evaluator | None:
        """The pack's evaluator, whose rollout workers start while training does; None where nothing is evaluated."""
        evaluation = self.settings["evaluation"]
        if evaluation["every"] is None:
            return None
        most = max(evaluation["episodes"], self._final_episodes)
        workers = RolloutWorkers(self.task, evaluation["workers"], len(self.runs), most)
        self._closing.callback(workers.close)
        return Evaluator(
            workers,
            self.learner.networks["policy"],
            self.observation_mean,
            self.observation_std,
            [run.seed for run in self.runs],
            evaluation["episodes"],
            getattr(self.task, "run_seeded", False),
        )

    def _train(self) -> None:
        log_every, updates = self.settings["log_every"], self.phases.total
        checkpoint = self.settings["checkpoint"]
        self.evaluations.begin_if_due()
        if self.signals.received:  # the checkpoint already holds what is due or pending
            raise Stopped(self.signals.received, self.learner.update_count)
        since, counted = time.monotonic(), self.learner.update_count
        while self.learner.update_count < updates:
            stop = self._next_stop()
            metrics = self._advance(stop, measure=stop % log_every == 0)
            number = self.learner.update_count  # less than `stop` where a signal or an environment came between
            due = self.evaluations.due(number)
            save = number % checkpoint["every"] == 0 or number in (self.phases.offline, updates)
            failing = self.online is not None and len(self.online.exploration.failures) > 0
            if metrics is not None or due or save or failing or self.signals.received:
                devices.wait(self.learner.device)  # on CUDA the updates have only been given to it
                now = time.monotonic()
                self.position.train_seconds += now - since
                failure = self.evaluations.failure(wait=due)
                self._log_episodes()
                if metrics is not None:
                    speed = (number - counted) / max(now - since, 1e-9)
                    self._log(number, metrics, speed)
                if failure is not None:  # what was trained since the last checkpoint is kept
                    self._save()
                    raise failure
                self.evaluations.begin_if_due()
                if save or self.signals.received:
                    self._save()
                if self.signals.received:
                    raise Stopped(self.signals.received, number)
                since, counted = time.monotonic(), number
            if not self.pack.live:
                failures = [(run.id, run.failure) for run in self.runs if run.failure]
                reasons = "; ".join(f"{name}: {failure['reason']}" for name, failure in failures)
                raise UserError(f"no run of the pack can go on: {reasons}")
        self.evaluations.collect(self.evaluations.keep_waiting)
        if self.evaluations.pending:
            raise Stopped(self.signals.received or 0, updates)  # the last checkpoint holds it

    def _next_stop(self) -> int:
        """The update after which something is due, or signals are checked."""
        number, settings, block = self.learner.update_count, self.settings, max(BLOCK // len(self.runs), 16)
        everies = [settings["log_every"], settings["checkpoint"]["every"]]
        if self.phases.online(number):
            end = self.phases.next_evaluation(number)
        else:
            end = self.phases.offline
            everies.append(settings["evaluation"]["every"] or block)
        return min(number + block, end, *(number - number % every + every for every in everies))

    def _advance(self, stop: int, measure: bool) -> Metrics | None:
        """Updates up to `stop`, or to where a signal or a failing environment ends them; the last one's metrics."""
        number = self.learner.update_count
        if not self.phases.online(number):
            return self.execution.advance(self.batches, stop - number, measure)
        online = self.online or self._begin_online()
        return online.advance(
            stop, measure, lambda: [member.place for member in self.pack.live], lambda: bool(self.signals.received)
        )

    def _begin_online(self) -> OnlinePhase:
        self.online = OnlinePhase(self.runs, self.task, self.data, self.learner, self.execution, self.phases)
        self._closing.callback(self.online.exploration.close)
        return self.online

    def _log_episodes(self) -> None:
        """Write the records of the episodes that the policies have played, and stop members that cannot go on."""
        if self.online is None:
            return
        exploration = self.online.exploration
        for place, record in exploration.finished:
            self.evaluations.record(self.pack.members[place], record)
        if exploration.failures:
            self.evaluations.collect_all()
        for place, why in exploration.failures.items():
            self.pack.fail(self.pack.members[place], why)
        exploration.finished.clear()
        exploration.failures.clear()

    def _log(self, update: int, metrics: dict[str, torch.Tensor], speed: float) -> None:
        columns = {name: tensor.tolist() for name, tensor in metrics.items()}
        records, failing = [], []
        for member in self.pack.members:
            numbers = {name: column[member.place] for name, column in columns.items()}
            record = {"kind": "train", "update": update, **phase_of(self.phases, update), **numbers}
            record |= {"seconds": round(self._wall(), 3), "updates_per_second": round(speed, 2)}
            records.append(record)
            losses = [record[f"{name}_loss"] for name in self.learner.algorithm.networks]
            if not member.idle and not np.isfinite(losses).all():
                failing.append(member)
        if failing:
            self.evaluations.collect_all()
        for member, record in zip(self.pack.members, records, strict=True):
            self.evaluations.record(member, record)
            if member in failing:
                self.pack.fail(member, "a loss is not finite (NaN or infinite)")
        self.progress.train(update, records)

    def _save(self) -> None:
        if not all(self.learner.finite()):
            self.evaluations.collect_all()
        self.position.wall_seconds = self._wall()
        online = self.online.exploration.state if self.online is not None else lambda place: None
        self.pack.save(self.position, self.evaluations.state, online, self._inputs, self.settings["checkpoint"]["keep"])

    def _inputs(self, run: Run) -> dict[str, Any]:
        """What the use of a run's policy takes besides its weights."""
        return {
            "policy": description(run.settings, self.task.observation_dim, self.task.action_dim),
            "observation_mean": torch.from_numpy(self.observation_mean),
            "observation_std": torch.from_numpy(self.observation_std),
        }

    def _finish(self) -> None:
        """Finish every live run; in a maze with the paths of one more evaluation, for its picture."""
        update, maze = self.learner.update_count, self.task.maze
        played = None if maze is None else self._played(keep_observations=True)
        final = self._final_episodes
        kept = self._played(maze is not None and maze.dense, final) if final else None
        facts = {
            "pack": len(self.runs),
            "device": str(self.learner.device),
            "wall_seconds": round(self._wall(), 3),
            "updates_per_second": round(update / max(self.position.train_seconds, 1e-9), 2),
        }
        online = self.online.exploration.facts if self.online is not None else None
        finish(self.pack, self.task, played, kept, self._inputs, facts, online, self.draw)

    @property
    def _final_episodes(self) -> int:
        return self.settings["evaluation"].get("final_episodes", 0)  # jobs that version 0.1 submitted have none

    def _played(self, keep_observations: bool, kept: int | None = None) -> dict[int, Episodes] | None:
        """Episodes of the final policies by place, as in `Evaluator.begin`; None where nothing is evaluated.

        Raises Stopped on a signal; they are then played again, from the first, by the same command.
        """
        if self.settings["evaluation"]["every"] is None:
            return None
        played = self.evaluations.of_final_policies(keep_observations, kept)
        if played is None:
            raise Stopped(self.signals.received or 0, self.learner.update_count)
        return played

    def _wall(self) -> float:
        return time.monotonic() - self._entered
