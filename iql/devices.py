"""The device that a job trains on."""

from __future__ import annotations

import os

import torch

from iql.errors import UserError


def choose(device: str, threads: int | None) -> torch.device:
    """The device by name, auto being cuda where there is one; sets the CPU threads (None: all cores).

    Raises UserError for a device that this machine lacks.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        count = torch.cuda.device_count()
        index = int(device.partition(":")[2] or 0)
        if index >= count:
            raise UserError(f"device={device}: this machine has {count} CUDA devices; use device=cpu or auto")
    return torch.device(device)
