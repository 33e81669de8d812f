"""The loop: train, evaluate, checkpoint, track; from update 0 or wherever the pack was left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iql import checkpoints
from iql.draws import Batches
from iql.errors import UserError
from iql.evaluation import Episodes, first_step
from iql.inflight import Evaluations, episode_seeds
from iql.learner import IQL, evaluating
from iql.leases import Leases
from iql.metrics import Record, read_metrics
from iql.packs import Member, Pack
from iql.players import Players
from iql.progress import Progress
from iql.records import evaluation_record, successes, summary, value_map
from iql.runs import Run
from iql.signals import Stopped, StopSignals
from iql.storage import replace_file
from iql.tasks import Task
from iql.tracking import Leavings, Tracker
from iql.trained import description
from iql.transitions import Transitions

BLOCK = 64
"""Updates at most, summed over the pack, between two looks at whether a signal came; but 16 of each member."""


class Training:
    """One pack on one device, from its directories' state to its end; `draw` makes a finished run's pictures."""

    def __init__(
        self,
        *,
        runs: Sequence[Run],
        trackers: Sequence[list[Tracker]],
        learner: IQL,
        task: Task,
        data: Transitions,
        draw: Callable[[Path], dict[str, Path]],
    ):
        self.settings = runs[0].settings
        self.runs, self.trackers = list(runs), list(trackers)
        self.learner = learner
        self.task = task
        self.draw = draw
        self.observation_mean, self.observation_std = data.observation_mean, data.observation_std
        self.batches = Batches(data, [run.seed for run in runs], self.settings["batch_size"], learner.device)
        if self.settings["evaluation"]["every"] is not None:
            envs = task.make_envs(1)  # what is wrong with them is said before anything is written
            try:
                first_step(envs, episode_seeds(runs[0].seed, 0, 1, getattr(task, "run_seeded", False))[0])
            finally:
                envs.close()

    def run(self) -> None:
        """Train to the end. Raises Stopped on a signal, UserError if no member could finish."""
        unfinished = [run.directory for run in self.runs if run.summary is None]
        with StopSignals() as self.signals, Leases(unfinished) as leases, contextlib.ExitStack() as self._closing:
            self.pack = Pack(self.runs, self.trackers, self.learner, leases)
            if not self.pack.live:  # finished by their owner while we waited for the leases
                return
            self.evaluations = self._evaluations()
            self.position, under_way = self.pack.take_up(self.task.facts())
            self._entered = time.monotonic() - self.position.wall_seconds
            labels = [run.label for run in self.runs]
            self.progress = Progress(self.settings["updates"], self.learner.update_count, labels)
            try:
                if self.evaluations is not None:
                    self.evaluations.take_up(under_way)
                self._train()
                self._finish()
            finally:
                self.progress.close()
                for member in self.pack.live:
                    self.pack.close(member, None, exit_code=1)

    def _evaluations(self) -> Evaluations | None:
        """The evaluations, with players that start while training does; None where nothing is evaluated."""
        evaluation = self.settings["evaluation"]
        if evaluation["every"] is None:
            return None
        players = Players(self.task, evaluation["workers"], len(self.runs), evaluation["episodes"])
        self._closing.callback(players.close)
        return Evaluations(
            players,
            self.learner.policy,
            self.observation_mean,
            self.observation_std,
            [run.seed for run in self.runs],
            evaluation["episodes"],
            getattr(self.task, "run_seeded", False),
        )

    def _train(self) -> None:
        log_every, updates = self.settings["log_every"], self.settings["updates"]
        checkpoint = self.settings["checkpoint"]
        self._evaluate_if_due()
        if self.signals.received:  # what is due or under way, the checkpoint has already
            raise Stopped(self.signals.received, self.learner.update_count)
        since, counted = time.monotonic(), self.learner.update_count
        while self.learner.update_count < updates:
            number = self._next_stop()
            count, measure = number - self.learner.update_count, number % log_every == 0
            metrics = self.learner.advance(self.batches, count, measure)
            due = self._evaluation_due(number)
            save = number % checkpoint["every"] == 0 or number == updates
            if metrics is not None or due or save or self.signals.received:
                now = time.monotonic()
                self.position.train_seconds += now - since
                failure = self._landing_failure(self._patience if due else lambda: False)
                if metrics is not None:
                    speed = (number - counted) / max(now - since, 1e-9)
                    self._log(number, metrics, speed)
                if failure is not None:  # what was trained since the last checkpoint is not lost to it
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
        self._land(self._patience)
        if self.evaluations is not None and self.evaluations.flight is not None:
            raise Stopped(self.signals.received or 0, updates)  # the last checkpoint holds it

    def _next_stop(self) -> int:
        """The update after which something is to be done, or a look is to be taken at the signals."""
        number, settings, block = self.learner.update_count, self.settings, max(BLOCK // len(self.runs), 16)
        everies = (settings["log_every"], settings["checkpoint"]["every"], settings["evaluation"]["every"] or block)
        return min(number + block, settings["updates"], *(number - number % every + every for every in everies))

    def _log(self, update: int, metrics: dict[str, torch.Tensor], speed: float) -> None:
        columns = {name: tensor.tolist() for name, tensor in metrics.items()}
        records, failing = [], []
        for member in self.pack.members:
            numbers = {name: column[member.place] for name, column in columns.items()}
            record = {"kind": "train", "update": update, **numbers}
            record |= {"seconds": round(self._wall(), 3), "updates_per_second": round(speed, 2)}
            records.append(record)
            losses = [record[name] for name in ("value_loss", "q_loss", "policy_loss")]
            if not member.idle and not np.isfinite(losses).all():
                failing.append(member)
        if failing:
            self._land(lambda: True)  # what is known of a run that ends here must not depend on when it is known
        for member, record in zip(self.pack.members, records, strict=True):
            self._record(member, record)
            if member in failing:
                self.pack.fail(member, "a loss is not finite (NaN or infinite)")
        self.progress.train(update, records)

    def _record(self, member: Member, record: Record) -> None:
        """Keep a record, after that of an evaluation under way."""
        if self.evaluations is None or not self.evaluations.hold(member.place, record):
            self.pack.record(member, record)

    def _save(self) -> None:
        if not all(self.learner.finite()):
            self._land(lambda: True)  # as in _log: a run ends here
        self.position.wall_seconds = self._wall()
        under_way = self.evaluations.state if self.evaluations is not None else lambda place: None
        self.pack.save(self.position, under_way, self._inputs, self.settings["checkpoint"]["keep"])

    def _inputs(self, run: Run) -> dict[str, Any]:
        """What it takes besides the weights to use a run's policy."""
        return {
            "policy": description(run.settings, self.task.observation_dim, self.task.action_dim),
            "observation_mean": torch.from_numpy(self.observation_mean),
            "observation_std": torch.from_numpy(self.observation_std),
        }

    def _evaluation_due(self, update: int) -> bool:
        every = self.settings["evaluation"]["every"]
        return every is not None and (update % every == 0 or update == self.settings["updates"])

    def _evaluate_if_due(self) -> None:
        """Begin an evaluation of the policies as they are, unless it is done, under way or waits for an earlier one."""
        update = self.learner.update_count
        if self.evaluations is None or not self._evaluation_due(update) or update == self.position.evaluated:
            return
        if self.evaluations.flight is None or self.evaluations.flight.update < update:
            self._land(self._patience)
        if self.evaluations.flight is not None or self.signals.received:
            return
        self.pack.fail_not_finite()  # an environment must not be blamed for what such a policy does in it
        if self.pack.live:
            self.evaluations.begin(update, [member.place for member in self.pack.live])

    def _patience(self) -> bool:
        return not self.signals.received

    def _landing_failure(self, patience: Callable[[], bool]) -> UserError | None:
        """What kept the evaluation under way from being played, which goes on being under way; else as _land."""
        try:
            self._land(patience)
        except UserError as error:
            return error
        return None

    def _land(self, patience: Callable[[], bool]) -> None:
        """Write the evaluation under way and what was held back for it, if it is played while `patience()`."""
        landed = self.evaluations.landed(patience) if self.evaluations is not None else None
        if landed is None:
            return
        flight, played = landed
        records = {
            place: evaluation_record(flight.update, self.task.score(episodes.returns), episodes, flight.seconds)
            for place, episodes in played.items()
        }
        for place, record in records.items():
            for each in (record, *flight.held[place]):
                self.pack.record(self.pack.members[place], each)
        self.position.evaluated = flight.update
        self.progress.evaluated(flight.update, [records.get(member.place, {}) for member in self.pack.members])

    def _finish(self) -> None:
        """Every live run's end: final networks, a maze's map, summary (which makes it done), trackers."""
        update = self.learner.update_count
        maze = self.task.maze if self.evaluations is not None else None
        played: dict[int, Episodes] = {}
        if maze is not None and self.evaluations is not None:
            self.evaluations.begin(update, [member.place for member in self.pack.live], keep_observations=True)
            landed = self.evaluations.landed(self._patience)
            if landed is None:
                raise Stopped(self.signals.received or 0, update)
            played = landed[1]
        finished = []
        for member in self.pack.live:
            run = member.run
            self.pack.leases.check(run.directory)
            run.metrics.flush(sync=True)
            networks = self.learner.network_state(member.place)
            state = {"update": update, "networks": networks, **self._inputs(run)}
            checkpoints.write(run.directory / "networks.ckpt", state)
            success = None
            if maze is not None:
                success = successes(maze, played[member.place])
                content = value_map(maze, self._values(member.place), played[member.place])
                replace_file(run.directory / "map.npz", content)
            outcome = self._summary(run, success)
            self.pack.leases.check(run.directory)
            run.finish(outcome)
            finished.append((member, outcome))
        for member, outcome in finished:
            leavings = Leavings(self.draw(member.run.directory), member.run.directory / "networks.ckpt")
            self.pack.close(member, outcome, 0, leavings)

    def _values(self, place: int) -> Callable[[np.ndarray], np.ndarray]:
        """The member's V of observations [G, observation_dim]."""

        def values(observations: np.ndarray) -> np.ndarray:
            normalized = (observations - self.observation_mean) / self.observation_std
            inputs = torch.from_numpy(normalized).to(self.learner.device).expand(len(self.runs), -1, -1)
            with torch.no_grad(), evaluating(self.learner.value):
                return self.learner.value(inputs)[place].cpu().numpy()

        return values

    def _summary(self, run: Run, success: np.ndarray | None) -> dict[str, Any]:
        facts = {
            "pack": len(self.runs),
            "device": str(self.learner.device),
            "wall_seconds": round(self._wall(), 3),
            "updates_per_second": round(self.learner.update_count / max(self.position.train_seconds, 1e-9), 2),
        }
        train, evaluations = read_metrics(run.directory)
        return summary(run.settings, train, evaluations, self.task, facts, success)

    def _wall(self) -> float:
        return time.monotonic() - self._entered
