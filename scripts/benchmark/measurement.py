"""What is measured, random data and a learner on it, and how: the clock, rates, peak memory."""

from __future__ import annotations

import argparse
import contextlib
import gc
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iql.data.transitions import Transitions


def random_transitions(rows: int, observation_dim: int, action_dim: int) -> Any:
    """Random transitions: speed does not depend on their values."""
    random = np.random.default_rng(0)
    return Transitions(
        observations=random.standard_normal((rows, observation_dim), np.float32),
        actions=random.uniform(-1, 1, (rows, action_dim)).astype(np.float32),
        rewards=random.standard_normal(rows, np.float32),
        masks=np.ones(rows, np.float32),
        rows=np.arange(rows - 1),
        observation_mean=np.zeros(observation_dim, np.float32),
        observation_std=np.ones(observation_dim, np.float32),
    )


def make_learner(
    options: argparse.Namespace, pack: int, threads: int, precision: str, algorithm: Sequence[str] = ()
) -> tuple[Any, Any]:
    """A pack of the authors' IQL of the asked shape, with other --settings, or of an algorithm that these overrides
    choose, and its updates."""
    from iql.execution.devices import choose, set_precision
    from iql.execution.paths import choose as choose_path
    from iql.training.build import build_learner

    device = choose(options.device)
    set_precision(precision, device)
    shape = [f"network.hidden_dims={options.hidden}", f"batch_size={options.batch}", *options.settings]
    words = algorithm or shape
    members = settings(*words, f"precision={precision}", f"seed={list(range(pack))}")
    learner = build_learner(members, options.sizes[0], options.sizes[1], device)
    return learner, choose_path(learner, members[0]["batch_size"], options.path, threads)


def settings(*overrides: str) -> list[dict[str, Any]]:
    """The settings of a pack on hopper-medium-v2."""
    from hydra import compose, initialize_config_dir

    from iql.config.settings import read
    from iql.config.task_configs import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return read(compose("config", ["env=hopper-medium-v2", *overrides]))


def updates_per_second(learner: Any, execution: Any, batches: Any, seconds: float) -> float:
    """Summed over the pack, in steady state: the fastest of five parts of the time, as the limit is."""
    block, best = 16, 0.0
    execution.advance(batches, 2 * block)
    for _ in range(5):
        done, began = 0, now(learner.device)
        while (taken := now(learner.device) - began) < seconds / 5:
            execution.advance(batches, block)
            done += block
        best = max(best, len(learner.seeds) * done / taken)
    return best


def now(device: Any) -> float:
    """The clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: Any) -> None:
    """Count the peak of memory anew from here, where the system lets us (Linux)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: Any) -> int:
    """Of this process since reset_peak, on CUDA of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
