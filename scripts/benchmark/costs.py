"""The costs of a run besides its updates: sampling, checkpoints, loading, memory."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmark.measurement import make_learner, now, peak_mib
from iql.data.sampling import Batches
from iql.runs import checkpoints
from iql.tasks.file import FileTask


def costs(options: argparse.Namespace, data: Any) -> dict[str, float]:
    """Seconds, microseconds and MiB of what a run does besides its updates."""
    found: dict[str, float] = {}
    learner, execution = make_learner(options, 1, options.threads[0], "float32")
    batches = Batches(data, [0], options.batch, learner.device)
    execution.advance(batches, 8)
    began = now(learner.device)
    for update in range(1000):
        batches.at(update)
    found["sampling, µs an update"] = round((now(learner.device) - began) * 1e3, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoints.path_of(Path(folder), 8)
        path.parent.mkdir(exist_ok=True)
        began = time.perf_counter()
        for _ in range(5):
            checkpoints.write(path, {"learner": learner.state(0)})
        found["checkpoint, ms"] = round((time.perf_counter() - began) / 5 * 1e3, 1)
        found["checkpoint, MiB"] = round(path.stat().st_size / 2**20, 2)
        began = time.perf_counter()
        checkpoints.read(path)
        found["checkpoint read, ms"] = round((time.perf_counter() - began) * 1e3, 1)
        rows = Path(folder) / "rows.hdf5"
        with h5py.File(rows, "w") as file:
            for name in ("observations", "actions", "rewards"):
                file.create_dataset(name, data=getattr(data, name), compression="gzip", compression_opts=1)
            file["terminals"] = np.zeros(len(data.rewards), bool)
            file["timeouts"] = np.arange(1, len(data.rewards) + 1) % 1000 == 0
        began = time.perf_counter()
        task = FileTask(
            path=str(rows),
            gym_id=None,
            name="rows",
            horizon=1000,
            reward="none",
            ref_min=None,
            ref_max=None,
            normalize=False,
        )
        task.transitions()
        found[f"loading {len(data.rewards):,} rows (gzip), s"] = round(time.perf_counter() - began, 2)
    found["peak memory, MiB"] = peak_mib(torch.device("cpu"))
    return found
