"""The runs that one process trains side by side: taken up, recorded, saved, failed and closed together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from iql import checkpoints
from iql.errors import UserError
from iql.learner import IQL
from iql.leases import Leases
from iql.membership import continued
from iql.metrics import Record
from iql.provenance import differences, this_life
from iql.runs import Run
from iql.storage import remove_temporaries
from iql.tracking import Leavings, RunInfo, Tracker

log = logging.getLogger(__name__)

_ADVICE = "Put a sound one back, or delete the runs' directories to train them anew"


@dataclass
class Member:
    """A run in its place of the pack. idle: it is computed with the others and nothing of it is kept."""

    run: Run
    place: int
    trackers: list[Tracker]
    idle: bool = False


@dataclass
class Position:
    """How far a pack is, besides the learner's own state.

    evaluated      the last update whose evaluation is done
    train_seconds  spent in updates, over all lives
    wall_seconds   spent in all, over all lives
    """

    evaluated: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0


class Pack:
    """The members with the learner that trains them. What is written is checked against the leases first."""

    def __init__(self, runs: Sequence[Run], trackers: Sequence[list[Tracker]], learner: IQL, leases: Leases):
        self.members = [
            Member(run, place, own, idle=run.summary is not None)
            for place, (run, own) in enumerate(zip(runs, trackers, strict=True))
        ]
        self.learner = learner
        self.leases = leases

    @property
    def live(self) -> list[Member]:
        """The members whose numbers are kept."""
        return [member for member in self.members if not member.idle]

    def take_up(self, facts: dict[str, Any]) -> tuple[Position, dict[int, dict[str, Any]]]:
        """Put the learner where the newest checkpoint that all live members have left it, or at update 0.

        Begins a life of each live run and starts its trackers. Returns the position and, by place, the
        members' evaluations that were under way. Raises UserError if damaged or lost checkpoints leave none in
        common: nothing is restarted silently.
        """
        states, damaged = {}, []
        for member in self.live:
            states[member.place], lines = checkpoints.sound(member.run.checkpoints, member.run.settings["updates"])
            damaged += lines
        self._set_failed_aside()
        update = self._in_common({member.run: set(states[member.place]) for member in self.live}, damaged)
        for line in damaged:
            log.warning("%s; going on from %s", line, f"update {update}" if update else "the start")
        for member in self.live:  # all are looked at before anything of one is changed
            self._resume(member, states[member.place].get(update))
        position, under_way = Position(), {}
        for member in self.members:
            if member.idle:
                self._keep_company(member)
                continue
            state = states[member.place].get(update)
            self._begin(member, state, update, facts)
            if state is not None:
                position = Position(**state["position"])
                if state.get("evaluation") is not None:
                    under_way[member.place] = state["evaluation"]
        self.learner.update_count = update
        return position, under_way

    def record(self, member: Member, record: Record) -> None:
        """Keep a record of a live member, and mirror it."""
        if member.idle:
            return
        member.run.metrics.append(record)
        if member.run.metrics.due:
            self.leases.check(member.run.directory)
            member.run.metrics.flush()
        for tracker in member.trackers:
            tracker.log(record)

    def save(
        self,
        position: Position,
        evaluation: Callable[[int], dict[str, Any] | None],
        inputs: Callable[[Run], dict[str, Any]],
        keep: int,
    ) -> None:
        """A checkpoint of every live member, then the pruning of all: a kill in between leaves one in common.

        evaluation: what of the evaluation under way belongs to the member at a place; inputs: what it takes to use
        a run's policy.
        """
        update = self.learner.update_count
        self.fail_not_finite()
        for member in self.live:
            self.leases.check(member.run.directory)
            length, digest = member.run.metrics.flush(sync=True)
            state = {
                "learner": self.learner.state(member.place),
                "metrics_bytes": length,
                "metrics_sha256": digest,
                "position": asdict(position),
                "evaluation": evaluation(member.place),
                **inputs(member.run),
            }
            checkpoints.write(checkpoints.path_of(member.run.checkpoints, update), state)
        for member in self.live:
            written = checkpoints.updates_in(member.run.checkpoints)
            # One of a later update is of an earlier life that went further than all of its pack.
            checkpoints.prune(member.run.checkpoints, [each for each in written if each <= update][:keep])

    def fail_not_finite(self) -> None:
        """Stop the live members with a weight that is not finite; the others go on."""
        for member, finite in zip(self.members, self.learner.finite(), strict=True):
            if not member.idle and not finite:
                self.fail(member, "a weight is not finite (NaN or infinite)")

    def fail(self, member: Member, reason: str) -> None:
        """Stop one member for good and keep its last checkpoint; the others go on."""
        update = self.learner.update_count
        self.leases.check(member.run.directory)
        member.run.metrics.flush(sync=True)
        member.run.fail(update, reason)
        member.idle = True
        log.error("%s stops at update %d: %s; its last checkpoint is kept", member.run.id, update, reason)
        self.close(member, None, exit_code=1)

    def close(self, member: Member, summary: Record | None, exit_code: int, leavings: Leavings | None = None) -> None:
        """End a member's trackers; doing so again does nothing."""
        for tracker in member.trackers:
            if leavings is not None and hasattr(tracker, "attach"):
                tracker.attach(leavings)
            tracker.finish(summary, exit_code)
        member.trackers = []

    def _in_common(self, kept: dict[Run, set[int]], damaged: list[str]) -> int:
        """The newest update that all of these runs have a checkpoint of; 0 if some were stopped before their first."""
        common = set.intersection(*kept.values())
        lost = [run for run, updates in kept.items() if not updates and run.was_saved]
        if common or not (lost or all(kept.values())):
            return max(common, default=0)
        if len(kept) == 1:
            raise UserError(f"{lost[0].checkpoints}: no checkpoint is left, though there were some. {_ADVICE}")
        have = [f"{run.id}: {', '.join(map(str, sorted(updates))) or 'none'}" for run, updates in kept.items()]
        lines = "; ".join([*have, *damaged])
        raise UserError(f"the pack's runs have no sound checkpoint in common: {lines}. {_ADVICE}")

    def _set_failed_aside(self) -> None:
        # A failed member must not hold the others back; when only failed ones are left, they are tried again.
        sound = [member for member in self.live if member.run.failure is None]
        if sound:
            for member in self.live:
                member.idle = member not in sound

    def _keep_company(self, member: Member) -> None:
        # An idle member's numbers go nowhere; finite ones keep the simulators calm.
        try:
            saved = checkpoints.read(member.run.directory / "networks.ckpt")
            self.learner.load_networks(member.place, saved["networks"])
        except (OSError, checkpoints.Damaged, KeyError, TypeError, ValueError):
            return

    def _resume(self, member: Member, state: dict[str, Any] | None) -> None:
        """Put a member's state into the learner. Raises UserError where it or its records are not this run's."""
        run = member.run
        if state is None:
            run.metrics.check(0, None)
            return
        try:
            policy = state.get("policy") or {}
            for name, own in (("seed", run.seed), ("task", run.settings["env"]["name"])):
                if policy.get(name, own) != own:
                    raise ValueError(f"its {name} is {policy[name]}, not {own}")
            Position(**state["position"])
            if (under_way := state.get("evaluation")) is not None and not {"update", "weights", "held"} <= set(
                under_way
            ):
                raise ValueError("its evaluation under way is none")
            self.learner.load(member.place, state["learner"])
            covered = int(state["metrics_bytes"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            path = checkpoints.path_of(run.checkpoints, state["learner"]["update"])
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: not a checkpoint of this run ({type(error).__name__}: {reason}). {_ADVICE}"
            ) from error
        run.metrics.check(covered, state.get("metrics_sha256"))

    def _begin(
        self,
        member: Member,
        state: dict[str, Any] | None,
        update: int,
        facts: dict[str, Any],
    ) -> None:
        run = member.run
        life = this_life(
            [other.run.id for other in self.members],
            update,
            str(self.learner.device),
            self.learner.threads,
            self.learner.code_path,
            torch.backends.cpu.get_cpu_capability(),
        )
        if state is None:
            run.metrics.cut(0)
        else:
            for difference in differences(run.lives[-1], life) if run.lives else ():
                log.warning("%s: %s; the last bits may differ from an undisturbed run's", run.id, difference)
            run.metrics.cut(state["metrics_bytes"])
        (run.directory / "failed.json").unlink(missing_ok=True)
        remove_temporaries(run.directory)
        tracking_id = run.begin_life(life, facts)
        info = RunInfo(
            directory=run.directory,
            id=tracking_id,
            name=run.id,
            group=run.group,
            job_type=run.env,
            tags=(run.env, run.settings["sweep"]["name"]),
            config=run.tracked_settings,
            metrics=run.metrics.path,
            resumed=update > 0,
        )
        for tracker in member.trackers:
            tracker.start(info)


def packs_of(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that are to be trained, as the packs that must be trained together.

    Runs that began as one pack go on as it (see `continued`), the finished ones of it idle; runs that have
    checkpoints and no pack go on alone; the fresh ones make one pack.
    """
    by_id = {run.id: run for run in runs}
    unfinished = [run for run in runs if run.summary is None]
    together = continued(unfinished, by_id, lambda run: by_id[run].summary is not None)
    left = [run for run in unfinished if not any(run in pack for pack in together)]
    alone = [run for run in left if checkpoints.updates_in(run.checkpoints)]
    fresh = [run for run in left if run not in alone]
    return together + [[run] for run in alone] + [fresh] * bool(fresh)


def code_path(runs: Sequence[Run]) -> str:
    """The code path for a pack: that on which its unfinished runs began, else what the settings say.

    Raises UserError where the settings ask for another one: a run never changes its path half-way.
    """
    asked = runs[0].settings["code_path"]
    began = {
        run.lives[-1]["code_path"] for run in runs if run.summary is None and checkpoints.updates_in(run.checkpoints)
    }
    kept = {"fused" if path == "graphs" else path for path in began}
    if not kept:
        return asked
    if len(kept) > 1 or asked not in ("auto", *kept):
        raise UserError(
            f"code_path={asked}: the run began as {' and '.join(sorted(kept))}, and a run never changes its path; "
            "leave code_path out, or choose another sweep.name= to train it anew"
        )
    return kept.pop()
