"""Steps per second of finetuning, each with one update, beside the updates per second of the offline phase."""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from hydra.utils import instantiate

from benchmark.measurement import make_learner, now, settings
from iql.config.phases import Phases
from iql.config.schema import constructor_arguments
from iql.data.sampling import Batches
from iql.runs.run import Run
from iql.training.online_phase import OnlinePhase

ROUNDS = 20
STEPS = 100_000  # at most, in all rounds


def online_row(options: argparse.Namespace, data: Any, pack: int, threads: int) -> dict[str, Any]:
    """A line for a pack on hopper: both rates, summed over the pack, the fastest of twenty rounds that take turns."""
    offline, execution = make_learner(options, pack, threads, "float32")
    batches = Batches(data, offline.seeds, options.batch, offline.device)
    learner, online_execution = make_learner(options, pack, threads, "float32")
    members = settings("finetune=online", f"finetune.steps={STEPS}", "updates=0", f"seed={list(range(pack))}")
    task = instantiate(constructor_arguments("env", members[0]["env"]), _convert_="all")
    with tempfile.TemporaryDirectory() as folder:
        runs = [Run({**each, "runs": folder, "batch_size": options.batch}, each, "") for each in members]
        for run in runs:
            run.directory.mkdir(parents=True)
        online = OnlinePhase(runs, task, data, learner, online_execution, Phases.of(members[0]))
        rates = {"offline": 0.0, "online": 0.0}
        for _ in range(ROUNDS):
            for name, updated in (("offline", offline), ("online", learner)):
                began, first = now(updated.device), updated.update_count
                while (taken := now(updated.device) - began) < options.seconds / ROUNDS:
                    if name == "offline":
                        execution.advance(batches, 16)
                    else:
                        online.advance(learner.update_count + 16, False, lambda: range(pack), lambda: False)
                rates[name] = max(rates[name], pack * (updated.update_count - first) / taken)
        stepping = _milliseconds_a_step(online, pack)
        online.exploration.close()
    return {
        "device": str(learner.device),
        "path": online_execution.name,
        "threads": threads,
        "pack": pack,
        "offline updates/s": round(rates["offline"], 1),
        "online steps/s": round(rates["online"], 1),
        "share": round(rates["online"] / rates["offline"], 3),
        "ms a step without its update, a member": round(stepping / pack, 3),
    }


def _milliseconds_a_step(online: OnlinePhase, pack: int) -> float:
    """What acting, the simulator and the new row take for the whole pack: the least mean of twenty rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(100):
            online.exploration.step(range(pack))
        best = min(best, (time.perf_counter() - began) * 10)
    return best
