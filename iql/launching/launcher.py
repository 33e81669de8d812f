"""The interface of a launcher: it submits jobs to a queue and says what the queue knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from iql.launching.ledger import JobKey, Submission

MAX_PACK_SIZE = 32
"""Runs that one GPU trains at a time, unless launcher.pack says otherwise."""


@dataclass(frozen=True)
class Queued:
    """A job in a queue, running or waiting; detail: the host that runs it, or what it waits for."""

    running: bool
    detail: str
    job: str


class QueueUnavailable(Exception):
    """The queue does not answer; the message says why. Its jobs are unknown."""


class Launcher(Protocol):
    """What the _target_ of a file in conf/launcher must implement."""

    chunk: int
    """The largest number of jobs that are submitted together."""

    def check(self) -> None:
        """Raise UserError if nothing can be submitted from this machine."""

    def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
        """How many runs one job trains at a time; each takes member_bytes, all share data_bytes."""

    def submit(self, submission: Submission) -> None:
        """Submit all jobs. Raises UserError for what the queue refuses."""

    def queue(self, submissions: Sequence[Submission]) -> dict[JobKey, Queued]:
        """The jobs that wait or run. Raises QueueUnavailable."""

    def ended(self, submissions: Sequence[Submission]) -> dict[JobKey, str]:
        """How jobs ended that the queue no longer has, as far as there is a record."""

    def cancel(self, submissions: Sequence[Submission]) -> None:
        """Remove waiting jobs and stop running ones. Raises UserError if that is not possible from this machine."""


def pack_size_for(member_bytes: int, data_bytes: int, memory_gb: float) -> int:
    """How many runs a GPU with this much memory trains at a time: at least one, at most MAX_PACK_SIZE."""
    free = 0.9 * memory_gb * 1e9 - data_bytes  # CUDA itself takes a tenth
    return max(1, min(MAX_PACK_SIZE, int(free / member_bytes)))
