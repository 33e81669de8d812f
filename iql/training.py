"""The loop: train, evaluate, checkpoint, track; from update 0 or wherever the pack was left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from iql.progress import Progress
from iql.provenance import differences, this_life
from iql.records import evaluation_record, summary, value_map
from iql.runs import Run
from iql.signals import Stopped, StopSignals
from iql.storage import remove_temporaries, replace_file
from iql.tasks import Task
from iql.tracking import RunInfo, Tracker
from iql.transitions import Transitions

log = logging.getLogger(__name__)


@dataclass
class Member:
    """A run in its place of the pack. idle: it is computed with the others and nothing of it is kept."""

    run: Run
    trackers: list[Tracker]
    idle: bool = False


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
        self.members = [Member(run, own, idle=run.summary is not None) for run, own in zip(runs, trackers, strict=True)]
        self.learner = learner
        self.task = task
        self.overrides = overrides
        self.observation_mean, self.observation_std = data.observation_mean, data.observation_std
        seeds = [run.seed for run in runs]
        self.batches = Batches(data, seeds, self.settings["batch_size"], learner.device)
        evaluation = self.settings["evaluation"]
        num_envs = evaluation["num_envs"] or len(runs) * evaluation["episodes"]
        self.envs = task.make_envs(min(num_envs, len(runs) * evaluation["episodes"]))
        self.evaluated = 0  # the last update whose evaluation is done
        self.train_seconds = 0.0
        self.wall_seconds = 0.0

    def run(self) -> None:
        """Train to the end. Raises Stopped on a signal, UserError if no member could finish."""
        with StopSignals() as signals, Leases([member.run.directory for member in self._live()]) as leases:
            self.signals, self.leases = signals, leases
            for member in self._live():
                member.idle = member.run.summary is not None  # finished by its owner while we waited for the lease
            if not self._live():
                return
            self._resume()
            self.progress = Progress(self.settings["updates"], self.learner.update_count, self._names())
            self._entered = time.monotonic() - self.wall_seconds
            try:
                self._train()
                self._finish()
            finally:
                self.progress.close()
                self.envs.close()
                for member in self._live():
                    if member.run.summary is None:
                        self._close_trackers(member, None, exit_code=1)

    def _live(self) -> list[Member]:
        return [member for member in self.members if not member.idle]

    def _names(self) -> list[str]:
        return [member.run.label for member in self.members]

    def _resume(self) -> None:
        """Put the learner where the newest checkpoint that all live members have left it, or at 0."""
        states, notes = {}, []
        for place, member in enumerate(self.members):
            if not member.idle:
                states[place], lines = checkpoints.sound(member.run.checkpoints)
                notes += lines
        live = self._without_failed(states)
        common = set.intersection(*(set(states[place]) for place in live)) if live else set()
        update = max(common, default=0)
        for line in notes:
            log.warning("%s; going on from %s", line, f"update {update}" if update else "the start")
        for place, member in enumerate(self.members):
            if place in live:
                self._take_up(place, member, states[place].get(update), update)
            elif (kept := self._final_networks(member)) is not None:
                self.learner.load_networks(place, kept)
        self.learner.update_count = update

    def _without_failed(self, states: dict[int, Any]) -> list[int]:
        # A failed member must not hold the others back; when only failed ones are left, they are tried again.
        live = [place for place in states if self.members[place].run.failure is None]
        for place in states:
            if live and place not in live:
                self.members[place].idle = True
        return live or list(states)

    def _take_up(self, place: int, member: Member, state: dict[str, Any] | None, update: int) -> None:
        run = member.run
        life = this_life(
            [other.run.id for other in self.members],
            update,
            str(self.learner.device),
            torch.get_num_threads(),
            torch.backends.cpu.get_cpu_capability(),
        )
        if state is not None:
            for difference in differences(run.lives[-1], life) if run.lives else ():
                log.warning("%s: %s; the last bits may differ from an undisturbed run's", run.id, difference)
            self.learner.load(place, state["learner"])
            run.metrics.cut(state["metrics_bytes"])
            self.evaluated = state["evaluated"]
            self.train_seconds, self.wall_seconds = state["train_seconds"], state["wall_seconds"]
        else:
            run.metrics.cut(0)
        (run.directory / "failed.json").unlink(missing_ok=True)
        remove_temporaries(run.directory)
        run.begin_life(life, self.overrides, self.task.facts())
        settings = run.settings
        info = RunInfo(
            directory=run.directory,
            id=run.tracking_id,
            name=run.id,
            group=run.group,
            job_type=settings["env"]["name"],
            tags=(settings["env"]["name"], settings["sweep"]),
            config=settings,
            metrics=run.metrics.path,
            resumed=update > 0,
        )
        for tracker in member.trackers:
            tracker.start(info)

    def _final_networks(self, member: Member) -> dict[str, dict[str, torch.Tensor]] | None:
        path = member.run.directory / "networks.ckpt"
        try:
            return checkpoints.read(path)["networks"]
        except (OSError, checkpoints.Damaged):
            return None  # an idle member's numbers go nowhere

    def _train(self) -> None:
        settings = self.settings
        log_every, updates = settings["log_every"], settings["updates"]
        evaluation, checkpoint = settings["evaluation"], settings["checkpoint"]
        since, counted = time.monotonic(), self.learner.update_count
        self._evaluate_if_due()
        if self.signals.received:  # the evaluation is due still, and the checkpoint says so
            raise Stopped(self.signals.received, self.learner.update_count)
        while self.learner.update_count < updates:
            number = self.learner.update_count
            metrics = self.learner.update(self.batches.at(number), measure=(number + 1) % log_every == 0)
            number += 1
            due = number % evaluation["every"] == 0 or number == updates
            save = number % checkpoint["every"] == 0 or number == updates
            if metrics is not None or due or save or self.signals.received:
                now = time.monotonic()
                self.train_seconds += now - since
                if metrics is not None:
                    speed = (number - counted) / max(now - since, 1e-9) if number > counted else 0.0
                    self._log(number, metrics, speed)
                self._evaluate_if_due()
                if save or self.signals.received:
                    self._save()
                if self.signals.received:
                    raise Stopped(self.signals.received, number)
                since, counted = time.monotonic(), number
            if not self._live():
                reasons = "; ".join(f"{m.run.id}: {(m.run.failure or {}).get('reason')}" for m in self.members)
                raise UserError(f"no run of the pack can go on: {reasons}")

    def _log(self, update: int, metrics: dict[str, torch.Tensor], speed: float) -> None:
        columns = {name: tensor.tolist() for name, tensor in metrics.items()}
        records = []
        for place, member in enumerate(self.members):
            record = {
                "kind": "train",
                "update": update,
                **{name: column[place] for name, column in columns.items()},
            }
            record |= {"seconds": round(self._wall(), 3), "updates_per_second": round(speed, 2)}
            records.append(record)
            losses = [record[name] for name in ("value_loss", "q_loss", "policy_loss")]
            self._record(member, record)
            if not member.idle and not np.isfinite(losses).all():
                self._fail(member, update, "a loss is not finite (NaN or infinite)")
        self.progress.train(update, records)

    def _evaluate_if_due(self) -> None:
        update = self.learner.update_count
        due = update % self.settings["evaluation"]["every"] == 0 or update == self.settings["updates"]
        if not due or update == self.evaluated:
            return
        began = time.monotonic()
        try:
            played = self._rollouts(update)
        except Interrupted:
            return  # the checkpoint says that it is due still: a resumed run begins with it
        seconds = time.monotonic() - began
        records = [evaluation_record(update, self.task.score(e.returns), e, seconds) for e in played]
        for member, record in zip(self.members, records, strict=True):
            self._record(member, record)
        self.evaluated = update
        self.progress.evaluated(update, records)

    def _rollouts(self, update: int, keep_observations: bool = False) -> list[Episodes]:
        episodes = self.settings["evaluation"]["episodes"]
        seeds = [episode_seeds(member.run.seed, update, episodes) for member in self.members]
        return evaluate(self._act, self.envs, seeds, lambda: bool(self.signals.received), keep_observations)

    def _act(self, observations: np.ndarray) -> np.ndarray:
        return self.learner.mean_actions(self._network_input(observations)).cpu().numpy()

    def _network_input(self, observations: np.ndarray) -> torch.Tensor:
        normalized = (observations - self.observation_mean) / self.observation_std
        return torch.from_numpy(normalized).to(self.learner.device)

    def _record(self, member: Member, record: dict[str, Any]) -> None:
        if member.idle:
            return
        member.run.metrics.append(record)
        if member.run.metrics.due:
            self.leases.check(member.run.directory)
            member.run.metrics.flush()
        for tracker in member.trackers:
            tracker.log(record)

    def _save(self) -> None:
        """A checkpoint of every live member, then the pruning of all: a kill in between leaves one in common."""
        finite = self.learner.finite()
        update = self.learner.update_count
        for place, member in enumerate(self.members):
            if not member.idle and not finite[place]:
                self._fail(member, update, "a weight is not finite (NaN or infinite)")
        for place, member in enumerate(self.members):
            if not member.idle:
                self.leases.check(member.run.directory)
                state = {
                    "learner": self.learner.state(place),
                    "metrics_bytes": member.run.metrics.flush(sync=True),
                    "evaluated": self.evaluated,
                    "train_seconds": self.train_seconds,
                    "wall_seconds": self._wall(),
                }
                checkpoints.write(checkpoints.path_of(member.run.checkpoints, update), state)
        for member in self._live():
            newest = checkpoints.updates_in(member.run.checkpoints)
            checkpoints.prune(member.run.checkpoints, newest[: self.settings["checkpoint"]["keep"]])

    def _finish(self) -> None:
        """Every live run's end: final networks, a maze's map, summary (which makes it done), trackers."""
        update = self.learner.update_count
        played: list[Episodes] = []
        if self.task.maze is not None:
            try:
                played = self._rollouts(update, keep_observations=True)
            except Interrupted:
                raise Stopped(self.signals.received or 0, update) from None
        for place, member in enumerate(self.members):
            if member.idle:
                continue
            run = member.run
            self.leases.check(run.directory)
            run.metrics.flush(sync=True)
            networks = {
                "update": update,
                "networks": self.learner.network_state(place),
                "observation_mean": torch.from_numpy(self.observation_mean),
                "observation_std": torch.from_numpy(self.observation_std),
            }
            checkpoints.write(run.directory / "networks.ckpt", networks)
            if self.task.maze is not None:
                content = value_map(self.task.maze, self._values(place), played[place])
                replace_file(run.directory / "map.npz", content)
            outcome = self._summary(run)
            self.leases.check(run.directory)
            run.finish(outcome)
            self._close_trackers(member, outcome, exit_code=0)

    def _values(self, place: int) -> Callable[[np.ndarray], np.ndarray]:
        """The member's V of observations [G, observation_dim]."""

        def values(observations: np.ndarray) -> np.ndarray:
            inputs = self._network_input(observations).expand(len(self.members), -1, -1)
            with torch.no_grad():
                return self.learner.value(inputs)[place].cpu().numpy()

        return values

    def _summary(self, run: Run) -> dict[str, Any]:
        facts = {
            "pack": len(self.members),
            "device": str(self.learner.device),
            "wall_seconds": round(self._wall(), 3),
            "updates_per_second": round(self.learner.update_count / max(self.train_seconds, 1e-9), 2),
        }
        _, evaluations = read_metrics(run.directory)
        return summary(run.settings, evaluations, self.task, facts)

    def _fail(self, member: Member, update: int, reason: str) -> None:
        self.leases.check(member.run.directory)
        member.run.metrics.flush(sync=True)
        member.run.fail(update, reason)
        member.idle = True
        log.error("%s stops at update %d: %s; its last checkpoint is kept", member.run.id, update, reason)
        self._close_trackers(member, None, exit_code=1)

    def _close_trackers(self, member: Member, summary: dict[str, Any] | None, exit_code: int) -> None:
        for tracker in member.trackers:
            tracker.finish(summary, exit_code)
        member.trackers = []

    def _wall(self) -> float:
        return time.monotonic() - self._entered
