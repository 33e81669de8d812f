"""The CPU cores that this process may use."""

from __future__ import annotations

import os

from iql.system import control_groups


def pinned() -> list[int]:
    """The cores that this process is pinned to; all cores on a system without pinning (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable() -> int:
    """The number of cores to use: those it is pinned to, at most its container's quota of CPU time, rounded down.

    Nor more than a SLURM job was given, which not every cluster pins, or than IQL_CORES says.
    """
    given = [int(os.environ[name]) for name in ("SLURM_CPUS_PER_TASK", "IQL_CORES") if os.environ.get(name)]
    return max(1, min([len(pinned()), *given, int(min(control_groups.cores(), 1e6))]))
