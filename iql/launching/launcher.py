"""What a launcher must do: bring jobs to where they run, and say what its queue knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from iql.launching.ledger import Place, Submission

PAYING = 32
"""Runs that a GPU trains side by side unless told otherwise."""


@dataclass(frozen=True)
class Queued:
    """A job that its queue has: running or waiting; detail: on which host, or for what."""

    running: bool
    detail: str
    job: str


class Silent(Exception):
    """The queue does not answer; the message says why. What it holds is unknown."""


class Launcher(Protocol):
    """conf/launcher names one as its _target_."""

    chunk: int
    """Jobs that are submitted as one."""

    def check(self) -> None:
        """Raises UserError where nothing can be submitted from this machine."""

    def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
        """Runs that one job trains side by side, each of so many bytes beside the data's."""

    def submit(self, submission: Submission) -> None:
        """Hand all jobs over. Raises UserError for what the queue refuses."""

    def queue(self, submissions: Sequence[Submission]) -> dict[Place, Queued]:
        """What waits or runs. Raises Silent."""

    def ended(self, submissions: Sequence[Submission]) -> dict[Place, str]:
        """How jobs ended that the queue no longer has, as far as anybody kept count."""

    def cancel(self, submissions: Sequence[Submission]) -> None:
        """Take back what waits and stop what runs. Raises UserError where that cannot be done from here."""


def fitting(member_bytes: int, data_bytes: int, memory_gb: float) -> int:
    """Runs that a GPU of so much memory trains side by side: at least one, at most PAYING."""
    free = 0.9 * memory_gb * 1e9 - data_bytes  # a tenth is CUDA's own
    return max(1, min(PAYING, int(free / member_bytes)))
