"""Updates per second against the limit of their products, for packs, threads, precisions and builds."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmark.measurement import make_learner, peak_mib, random_transitions, reset_peak, updates_per_second
from benchmark.products import limit
from iql.data.sampling import Batches

ROOT = Path(__file__).resolve().parents[2]

BUILDS = {"native": "", "avx2": "-mno-avx512f", "x86-64": "-march=x86-64"}
"""Options of the C compiler, so that native.c is compiled for this CPU, without AVX-512, or for any x86-64."""


def speed_row(options: argparse.Namespace, data: Any, pack: int, threads: int, precision: str) -> dict[str, Any]:
    """One line of the speed table."""
    learner, execution = make_learner(options, pack, threads, precision)
    reset_peak(learner.device)
    batches = Batches(data, learner.seeds, options.batch, learner.device)
    fresh = learner.algorithm.fresh_value
    bound = limit(options.sizes, options.hidden, options.batch, pack, threads, precision, learner.device, fresh)
    torch.set_num_threads(1)
    learner, execution = make_learner(options, pack, threads, precision)  # whose path sets the threads
    rate = updates_per_second(learner, execution, batches, options.seconds)
    return {
        "device": str(learner.device),
        "build": "native",
        "precision": precision,
        "path": execution.name,
        "threads": threads,
        "pack": pack,
        "updates_per_second": round(rate, 1),
        "limit": round(bound, 1),
        "fraction": round(rate / bound, 3),
        "peak_mib": peak_mib(learner.device),
    }


def rows_of_build(options: argparse.Namespace, build: str) -> list[dict[str, Any]]:
    """The speed table of another build, from a process of its own, with torch's products held to its instructions."""
    less = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    if build == "x86-64":
        less = {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
    compiler = f"{os.environ.get('CC') or 'cc'} {BUILDS[build]}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [
            sys.executable,
            str(ROOT / "scripts" / "benchmark.py"),
            "--only",
            "speed",
            "--builds",
            "native",
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        command += ["--path", options.path, "--precisions", "float32", "--seconds", str(options.seconds)]
        for name in ("batch", "rows"):
            command += [f"--{name}", str(getattr(options, name))]
        for name in ("sizes", "hidden", "packs", "threads", "settings"):
            if given := getattr(options, name):
                command += [f"--{name}", ",".join(map(str, given))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **less, "CC": compiler})
        return [{**row, "build": build} for row in json.loads(out.read_text())["speed"]]


def paper_rate(options: argparse.Namespace) -> dict[str, Any]:
    """Ten seeds of hopper with the paper's evaluations: 100,000 updates with 20 of them, extrapolated to 1,000,000."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.hdf5"
        data = random_transitions(1_000_000, 11, 3)
        with h5py.File(rows, "w") as file:
            for name in ("observations", "actions", "rewards"):
                file[name] = getattr(data, name)
            file["terminals"] = np.zeros(len(data.rewards), bool)
            file["timeouts"] = np.arange(1, len(data.rewards) + 1) % 1000 == 0
        command = [sys.executable, str(ROOT / "train.py"), "env=hopper-medium-v2", f"env.path={rows}", "updates=100000"]
        command += ["seed=[0,1,2,3,4,5,6,7,8,9]", f"device={options.device}", "tracker=none", f"runs={folder}/runs"]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        summaries = [json.loads(path.read_text()) for path in Path(folder).glob("runs/**/summary.json")]
    wall = max(summary["wall_seconds"] for summary in summaries)
    return {
        "seconds for 100,000 updates of 10 seeds, 20 evaluations": round(wall, 1),
        "with start and end": round(seconds, 1),
        "minutes for 1,000,000, extrapolated": round(wall * 10 / 60, 2),
    }
