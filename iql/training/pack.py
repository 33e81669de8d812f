"""The runs that one process trains side by side: their records, checkpoints and trackers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from iql.execution.paths import Execution
from iql.learner.learner import Learner
from iql.runs import checkpoints
from iql.runs.leases import Leases
from iql.runs.metrics_file import Record
from iql.runs.run import Run
from iql.tracking import Artifacts, Tracker

log = logging.getLogger(__name__)


@dataclass
class Member:
    """A run in its place of the pack. idle: it is computed with the others, and nothing of it is written."""

    run: Run
    place: int
    trackers: list[Tracker]
    idle: bool = False


@dataclass
class Position:
    """How far a pack is, besides the learner's own state; the two durations are summed over all its processes.

    evaluated      the last update whose evaluation is done
    train_seconds  spent in updates
    wall_seconds   spent in all
    """

    evaluated: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0


class Pack:
    """The members with the learner that trains them. Before anything is written, its lease is checked."""

    def __init__(
        self,
        runs: Sequence[Run],
        trackers: Sequence[list[Tracker]],
        learner: Learner,
        execution: Execution,
        leases: Leases,
    ):
        self.members = [
            Member(run, place, own, idle=run.summary is not None)
            for place, (run, own) in enumerate(zip(runs, trackers, strict=True))
        ]
        self.learner = learner
        self.execution = execution
        self.leases = leases

    @property
    def live(self) -> list[Member]:
        """The members whose numbers are written."""
        return [member for member in self.members if not member.idle]

    def record(self, member: Member, record: Record) -> None:
        """Write a record of a live member, and send it to its trackers; one of an idle member is dropped."""
        if member.idle:
            return
        member.run.metrics.record(record)
        if member.run.metrics.due:
            self.leases.check(member.run.directory)
            member.run.metrics.flush()
        for tracker in member.trackers:
            tracker.log(record)

    def save(
        self,
        position: Position,
        evaluation: Callable[[int], dict[str, Any] | None],
        online: Callable[[int], dict[str, Any] | None],
        inputs: Callable[[Run], dict[str, Any]],
        keep: int,
    ) -> None:
        """Write a checkpoint of every live member, then prune all: after a kill in between they have one in common.

        evaluation: the part of the pending evaluation that belongs to the member at a place; online: the state of its
        exploration; inputs: what the use of a run's policy takes besides its weights.
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
                "online": online(member.place),
                **inputs(member.run),
            }
            checkpoints.write(checkpoints.path_of(member.run.checkpoints, update), state)
        for member in self.live:
            written = checkpoints.updates_in(member.run.checkpoints)
            # A checkpoint of a later update is of an earlier process, in which this run went further than its pack.
            checkpoints.prune(member.run.checkpoints, [each for each in written if each <= update][:keep])

    def fail_not_finite(self) -> None:
        """Stop the live members with a weight that is not finite; the others go on."""
        for member, finite in zip(self.members, self.learner.finite(), strict=True):
            if not member.idle and not finite:
                self.fail(member, "a weight is not finite (NaN or infinite)")

    def fail(self, member: Member, reason: str) -> None:
        """Stop one member and keep its last checkpoint; the others go on."""
        update = self.learner.update_count
        self.leases.check(member.run.directory)
        member.run.metrics.flush(sync=True)
        member.run.fail(update, reason)
        member.idle = True
        log.error("%s stops at update %d: %s; its last checkpoint is kept", member.run.id, update, reason)
        self.close(member, None, exit_code=1)

    def close(self, member: Member, summary: Record | None, exit_code: int, artifacts: Artifacts | None = None) -> None:
        """End a member's trackers; a second call does nothing."""
        for tracker in member.trackers:
            if artifacts is not None and hasattr(tracker, "attach"):
                tracker.attach(artifacts)
            tracker.finish(summary, exit_code)
        member.trackers = []
