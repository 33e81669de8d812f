"""The loop: train, evaluate, checkpoint, track; from update 0 or wherever the pack was left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from iql import checkpoints
from iql.draws import Batches
from iql.errors import UserError
from iql.evaluation import Episodes, Interrupted, episode_seeds, evaluate
from iql.learner import IQL
from iql.leases import Leases
from iql.metrics import read_metrics
from iql.packs import Pack
from iql.progress import Progress
from iql.records import evaluation_record, successes, summary, value_map
from iql.runs import Run
from iql.signals import Stopped, StopSignals
from iql.storage import replace_file
from iql.tasks import Task
from iql.tracking import Tracker
from iql.transitions import Transitions


class Training:
    """One pack on one device, from its directories' state to its end."""

    def __init__(
        self,
        *,
        runs: Sequence[Run],
        trackers: Sequence[list[Tracker]],
        learner: IQL,
        task: Task,
        data: Transitions,
        overrides: Sequence[str],
    ):
        self.settings = runs[0].settings
        self.runs, self.trackers = list(runs), list(trackers)
        self.learner = learner
        self.task = task
        self.overrides = overrides
        self.observation_mean, self.observation_std = data.observation_mean, data.observation_std
        self.batches = Batches(data, [run.seed for run in runs], self.settings["batch_size"], learner.device)
        evaluation = self.settings["evaluation"]
        episodes = len(runs) * evaluation["episodes"]
        self.envs = None
        if evaluation["every"] is not None:
            self.envs = task.make_envs(min(evaluation["num_envs"] or episodes, episodes))

    def run(self) -> None:
        """Train to the end. Raises Stopped on a signal, UserError if no member could finish."""
        unfinished = [run.directory for run in self.runs if run.summary is None]
        with StopSignals() as self.signals, Leases(unfinished) as leases:
            self.pack = Pack(self.runs, self.trackers, self.learner, leases)
            if not self.pack.live:  # finished by their owner while we waited for the leases
                return
            self.position = self.pack.take_up(self.overrides, self.task.facts())
            self._entered = time.monotonic() - self.position.wall_seconds
            labels = [run.label for run in self.runs]
            self.progress = Progress(self.settings["updates"], self.learner.update_count, labels)
            try:
                self._train()
                self._finish()
            finally:
                self.progress.close()
                if self.envs is not None:
                    self.envs.close()
                for member in self.pack.live:
                    self.pack.close(member, None, exit_code=1)

    def _train(self) -> None:
        settings = self.settings
        log_every, updates = settings["log_every"], settings["updates"]
        checkpoint = settings["checkpoint"]
        since, counted = time.monotonic(), self.learner.update_count
        self._evaluate_if_due()
        if self.signals.received:  # the evaluation is due still, and the checkpoint says so
            raise Stopped(self.signals.received, self.learner.update_count)
        while self.learner.update_count < updates:
            number = self.learner.update_count
            metrics = self.learner.update(self.batches.at(number), measure=(number + 1) % log_every == 0)
            number += 1
            due = self._evaluation_due(number)
            save = number % checkpoint["every"] == 0 or number == updates
            if metrics is not None or due or save or self.signals.received:
                now = time.monotonic()
                self.position.train_seconds += now - since
                if metrics is not None:
                    speed = (number - counted) / max(now - since, 1e-9) if number > counted else 0.0
                    self._log(number, metrics, speed)
                self._evaluate_if_due()
                if save or self.signals.received:
                    self.position.wall_seconds = self._wall()
                    self.pack.save(self.position, checkpoint["keep"])
                if self.signals.received:
                    raise Stopped(self.signals.received, number)
                since, counted = time.monotonic(), number
            if not self.pack.live:
                failures = [(run.id, run.failure) for run in self.runs if run.failure]
                reasons = "; ".join(f"{name}: {failure['reason']}" for name, failure in failures)
                raise UserError(f"no run of the pack can go on: {reasons}")

    def _log(self, update: int, metrics: dict[str, torch.Tensor], speed: float) -> None:
        columns = {name: tensor.tolist() for name, tensor in metrics.items()}
        records = []
        for member in self.pack.members:
            numbers = {name: column[member.place] for name, column in columns.items()}
            record = {"kind": "train", "update": update, **numbers}
            record |= {"seconds": round(self._wall(), 3), "updates_per_second": round(speed, 2)}
            records.append(record)
            losses = [record[name] for name in ("value_loss", "q_loss", "policy_loss")]
            self.pack.record(member, record)
            if not member.idle and not np.isfinite(losses).all():
                self.pack.fail(member, "a loss is not finite (NaN or infinite)")
        self.progress.train(update, records)

    def _evaluation_due(self, update: int) -> bool:
        every = self.settings["evaluation"]["every"]
        return every is not None and (update % every == 0 or update == self.settings["updates"])

    def _evaluate_if_due(self) -> None:
        update = self.learner.update_count
        if not self._evaluation_due(update) or update == self.position.evaluated:
            return
        began = time.monotonic()
        try:
            played = self._rollouts(update)
        except Interrupted:
            return  # the checkpoint says that it is due still: a resumed run begins with it
        seconds = time.monotonic() - began
        records = [evaluation_record(update, self.task.score(e.returns), e, seconds) for e in played]
        for member, record in zip(self.pack.members, records, strict=True):
            self.pack.record(member, record)
        self.position.evaluated = update
        self.progress.evaluated(update, records)

    def _rollouts(self, update: int, keep_observations: bool = False) -> list[Episodes]:
        episodes = self.settings["evaluation"]["episodes"]
        shared = getattr(self.task, "run_seeded", False)
        seeds = [episode_seeds(run.seed, update, episodes, shared) for run in self.runs]
        assert self.envs is not None
        return evaluate(self._act, self.envs, seeds, lambda: bool(self.signals.received), keep_observations)

    def _act(self, observations: np.ndarray) -> np.ndarray:
        return self.learner.mean_actions(self._network_input(observations)).cpu().numpy()

    def _network_input(self, observations: np.ndarray) -> torch.Tensor:
        normalized = (observations - self.observation_mean) / self.observation_std
        return torch.from_numpy(normalized).to(self.learner.device)

    def _finish(self) -> None:
        """Every live run's end: final networks, a maze's map, summary (which makes it done), trackers."""
        update = self.learner.update_count
        maze = self.task.maze if self.envs is not None else None
        played: list[Episodes] = []
        if maze is not None:
            try:
                played = self._rollouts(update, keep_observations=True)
            except Interrupted:
                raise Stopped(self.signals.received or 0, update) from None
        for member in self.pack.live:
            run = member.run
            self.pack.leases.check(run.directory)
            run.metrics.flush(sync=True)
            networks = {
                "update": update,
                "networks": self.learner.network_state(member.place),
                "observation_mean": torch.from_numpy(self.observation_mean),
                "observation_std": torch.from_numpy(self.observation_std),
            }
            checkpoints.write(run.directory / "networks.ckpt", networks)
            success = None
            if maze is not None:
                success = successes(maze, played[member.place])
                content = value_map(maze, self._values(member.place), played[member.place])
                replace_file(run.directory / "map.npz", content)
            outcome = self._summary(run, success)
            self.pack.leases.check(run.directory)
            run.finish(outcome)
            self.pack.close(member, outcome, exit_code=0)

    def _values(self, place: int) -> Callable[[np.ndarray], np.ndarray]:
        """The member's V of observations [G, observation_dim]."""

        def values(observations: np.ndarray) -> np.ndarray:
            inputs = self._network_input(observations).expand(len(self.runs), -1, -1)
            with torch.no_grad():
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
