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
from iql.evaluation.rollout import first_step
from iql.evaluation.workers import RolloutWorkers
from iql.execution.paths import Execution
from iql.learner.learner import Learner, Metrics
from iql.runs.leases import Leases
from iql.runs.metrics_file import Record
from iql.runs.policy_description import description
from iql.runs.run import Run
from iql.tasks.task import Task
from iql.tracking import Tracker
from iql.training.finish import finish
from iql.training.online_phase import OnlinePhase, check
from iql.training.pack import Member, Pack
from iql.training.progress import Progress
from iql.training.resume import resume
from iql.training.signals import Stopped, StopSignals
from iql.training.summary import evaluation_record

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
            self.evaluator = self._new_evaluator()
            self.position, evaluations, online = resume(self.pack, self.task.facts())
            self._entered = time.monotonic() - self.position.wall_seconds
            labels = [run.label for run in self.runs]
            self.progress = Progress(
                self.phases.total, self.learner.update_count, labels, self.learner.algorithm.networks
            )
            try:
                if self.evaluator is not None:
                    self.evaluator.resume(evaluations)
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
        workers = RolloutWorkers(self.task, evaluation["workers"], len(self.runs), evaluation["episodes"])
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
        self._evaluate_if_due()
        if self.signals.received:  # the checkpoint already holds what is due or pending
            raise Stopped(self.signals.received, self.learner.update_count)
        since, counted = time.monotonic(), self.learner.update_count
        while self.learner.update_count < updates:
            stop = self._next_stop()
            metrics = self._advance(stop, measure=stop % log_every == 0)
            number = self.learner.update_count  # less than `stop` where a signal or an environment came between
            due = self._evaluation_due(number)
            save = number % checkpoint["every"] == 0 or number in (self.phases.offline, updates)
            failing = self.online is not None and len(self.online.exploration.failures) > 0
            if metrics is not None or due or save or failing or self.signals.received:
                now = time.monotonic()
                self.position.train_seconds += now - since
                failure = self._collection_failure(self._keep_waiting if due else lambda: False)
                self._log_episodes()
                if metrics is not None:
                    speed = (number - counted) / max(now - since, 1e-9)
                    self._log(number, metrics, speed)
                if failure is not None:  # what was trained since the last checkpoint is kept
                    self._save()
                    raise failure
                self._evaluate_if_due()
                if save or self.signals.received:
                    self._save()
                if self.signals.received:
                    raise Stopped(self.signals.received, number)
                since, counted = time.monotonic(), number
            if not self.pack.live:
                failures = [(run.id, run.failure) for run in self.runs if run.failure]
                reasons = "; ".join(f"{name}: {failure['reason']}" for name, failure in failures)
                raise UserError(f"no run of the pack can go on: {reasons}")
        self._collect(self._keep_waiting)
        if self.evaluator is not None and self.evaluator.pending is not None:
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
            self._record(self.pack.members[place], record)
        if exploration.failures:
            self._collect(lambda: True)  # as in _log: runs end here
        for place, why in exploration.failures.items():
            self.pack.fail(self.pack.members[place], why)
        exploration.finished.clear()
        exploration.failures.clear()

    def _log(self, update: int, metrics: dict[str, torch.Tensor], speed: float) -> None:
        columns = {name: tensor.tolist() for name, tensor in metrics.items()}
        records, failing = [], []
        for member in self.pack.members:
            numbers = {name: column[member.place] for name, column in columns.items()}
            record = {"kind": "train", "update": update, **self._phase(update), **numbers}
            record |= {"seconds": round(self._wall(), 3), "updates_per_second": round(speed, 2)}
            records.append(record)
            losses = [record[f"{name}_loss"] for name in self.learner.algorithm.networks]
            if not member.idle and not np.isfinite(losses).all():
                failing.append(member)
        if failing:
            self._collect(lambda: True)  # the records of a run that ends here must not depend on timing
        for member, record in zip(self.pack.members, records, strict=True):
            self._record(member, record)
            if member in failing:
                self.pack.fail(member, "a loss is not finite (NaN or infinite)")
        self.progress.train(update, records)

    def _phase(self, update: int) -> dict[str, Any]:
        """What records of a finetuned run say besides: the phase, and in the online one the steps so far."""
        if not self.phases.steps:
            return {}
        if update <= self.phases.offline:
            return {"phase": "offline"}
        return {"phase": "online", "step": self.phases.steps_after(update)}

    def _record(self, member: Member, record: Record) -> None:
        """Write a record, or defer it until the pending evaluation of an earlier update is written."""
        if self.evaluator is None or not self.evaluator.defer(member.place, record):
            self.pack.record(member, record)

    def _save(self) -> None:
        if not all(self.learner.finite()):
            self._collect(lambda: True)  # as in _log: a run ends here
        self.position.wall_seconds = self._wall()
        pending = self.evaluator.state if self.evaluator is not None else lambda place: None
        online = self.online.exploration.state if self.online is not None else lambda place: None
        self.pack.save(self.position, pending, online, self._inputs, self.settings["checkpoint"]["keep"])

    def _inputs(self, run: Run) -> dict[str, Any]:
        """What the use of a run's policy takes besides its weights."""
        return {
            "policy": description(run.settings, self.task.observation_dim, self.task.action_dim),
            "observation_mean": torch.from_numpy(self.observation_mean),
            "observation_std": torch.from_numpy(self.observation_std),
        }

    def _evaluation_due(self, update: int) -> bool:
        every, offline = self.settings["evaluation"]["every"], self.phases.offline
        if every is None or update > offline:
            return every is not None and self.phases.evaluation_due(update)
        return update % every == 0 or update == offline

    def _evaluate_if_due(self) -> None:
        """Begin an evaluation of the policies as they are, unless it is done or pending or an earlier one is."""
        update = self.learner.update_count
        if self.evaluator is None or not self._evaluation_due(update) or update == self.position.evaluated:
            return
        if self.evaluator.pending is None or self.evaluator.pending.update < update:
            self._collect(self._keep_waiting)
        if self.evaluator.pending is not None or self.signals.received:
            return
        self.pack.fail_not_finite()  # else an environment is blamed for the actions of such a policy
        if self.pack.live:
            self.evaluator.begin(update, [member.place for member in self.pack.live])

    def _keep_waiting(self) -> bool:
        return not self.signals.received

    def _collection_failure(self, keep_waiting: Callable[[], bool]) -> UserError | None:
        """As _collect, but returns the error of an evaluation that could not be played; it stays pending."""
        try:
            self._collect(keep_waiting)
        except UserError as error:
            return error
        return None

    def _collect(self, keep_waiting: Callable[[], bool]) -> None:
        """Write the pending evaluation and the records deferred for it, if it is played while `keep_waiting()`."""
        collected = self.evaluator.collect(keep_waiting) if self.evaluator is not None else None
        if collected is None:
            return
        evaluation, played = collected
        update, phase = evaluation.update, self._phase(evaluation.update)
        records = {
            place: evaluation_record(update, phase, self.task.score(episodes.returns), episodes, evaluation.seconds)
            for place, episodes in played.items()
        }
        for place, record in records.items():
            for each in (record, *evaluation.deferred[place]):
                self.pack.record(self.pack.members[place], each)
        self.position.evaluated = evaluation.update
        self.progress.evaluated(evaluation.update, [records.get(member.place, {}) for member in self.pack.members])

    def _finish(self) -> None:
        """Finish every live run; in a maze with the paths of one more evaluation, for its picture."""
        update, played = self.learner.update_count, None
        if self.task.maze is not None and self.evaluator is not None:
            self.evaluator.begin(update, [member.place for member in self.pack.live], keep_observations=True)
            collected = self.evaluator.collect(self._keep_waiting)
            if collected is None:
                raise Stopped(self.signals.received or 0, update)
            _, played = collected
        facts = {
            "pack": len(self.runs),
            "device": str(self.learner.device),
            "wall_seconds": round(self._wall(), 3),
            "updates_per_second": round(update / max(self.position.train_seconds, 1e-9), 2),
        }
        online = self.online.exploration.facts if self.online is not None else None
        finish(self.pack, self.task, played, self._inputs, facts, online, self.draw)

    def _wall(self) -> float:
        return time.monotonic() - self._entered
