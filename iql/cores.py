"""The CPU cores that this process may use."""

from __future__ import annotations

import os


def usable() -> int:
    """As many as it is pinned to; in a SLURM job no more than it was given, which not every cluster pins it to."""
    pinned = len(os.sched_getaffinity(0))
    return min(pinned, int(os.environ.get("SLURM_CPUS_PER_TASK", pinned)))
