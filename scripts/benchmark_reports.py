"""Measure what a report of many long runs costs: reading, statistics and the page.

    python scripts/benchmark_reports.py [--runs 1000] [--updates 1000000] [--keep FOLDER] [--algorithms]

The runs are made: the paper's nine locomotion tasks, tau × beta, ten seeds, or with --algorithms ten tasks of four
suites, five algorithms, 20 seeds and 1,000 kept episodes of each, with records and evaluations as often as by default
(7 GB for 1,000 runs of 1,000,000 updates). Their scores are drawn and mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_sweeps import measured

from iql.config import settings as configuration
from iql.config.folders import CONF
from iql.config.settings import Settings
from iql.runs import kept_episodes
from iql.runs.kept_episodes import KeptEpisodes
from iql.runs.run import FORMAT, Run

TASKS = [
    f"{robot}-{data}-v2"
    for data in ("medium", "medium-replay", "medium-expert")
    for robot in ("halfcheetah", "hopper", "walker2d")
]
SUITES = (*TASKS[:4], "antmaze-umaze-v2", "antmaze-medium-play-v2", "pen-human-v1", "door-human-v1")
SUITES = (*SUITES, "maze2d-umaze-v1", "kitchen-mixed-v0")
ALGORITHMS = ("iql", "bc", "td3_bc", "rebrac", "xql")
MUJOCO = "3.1.6"
TAUS, BETAS, SEEDS = (0.5, 0.7, 0.9), (1.0, 3.0, 6.0, 10.0), 10


@cache
def composed(env: str, *overrides: str) -> Settings:
    """The settings of a command line, as train.py reads them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return configuration.read(compose("config", [f"env={env}", *overrides]))[0]


def make_run(
    runs: Path,
    env: str,
    overrides: Sequence[str],
    seed: int,
    scores: Sequence[float],
    *,
    state: str = "done",
    facts: dict[str, Any] | None = None,
    sweep: str = "made",
) -> Path:
    """The directory of a run whose evaluations came to these scores, as training leaves it; returns it.

    state  done, failed, or unfinished: then the scores are those of its first evaluations
    facts  besides those of a run on D4RL's own file
    """
    own = copy.deepcopy(composed(env, *overrides)) | {
        "seed": seed,
        "runs": str(runs),
        "sweep": {"name": sweep, "grid": []},
    }
    choices = dict(override.split("=", 1) for override in overrides)
    run = Run(own, composed(env, *configuration.reference(own, choices)), digest="made")
    run.directory.mkdir(parents=True)
    evaluation = own["evaluation"]
    data = {"dataset": "/data/made.hdf5", "rows": 1, "custom": False, "scored": "normalised"}
    data |= {"mujoco": MUJOCO, "physics": own["env"].get("physics", "d4rl"), **(facts or {})}
    life = {"host": "node1", "pid": 1, "device": "cuda", "started": "2026-01-01T00:00:00+0000", "pack": [run.id]}
    manifest = {"format": FORMAT, "run": run.id, "settings": own, "overrides": list(overrides), "facts": data}
    manifest |= {"git": {"commit": "c0ffee" * 6, "dirty": False}, "packages": {}, "lives": [life]}
    (run.directory / "manifest.json").write_text(json.dumps(manifest))
    last = own["updates"] if state == "done" else len(scores) * evaluation["every"]
    lines = _train_lines(own["updates"], own["log_every"])[: last // own["log_every"]]
    for number, score in enumerate(scores, start=1):
        update = min(number * evaluation["every"], own["updates"])
        record = {"kind": "eval", "update": update, "score": score, "score_std": 1.0, "return_mean": score * 30}
        record |= {"returns": [score * 30] * evaluation["episodes"], "lengths": [1000] * evaluation["episodes"]}
        lines.insert(update // own["log_every"] + number - 1, json.dumps({**record, "seconds": 10.0}))
    (run.directory / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    if state == "failed":
        (run.directory / "failed.json").write_text(json.dumps({"update": last, "reason": "a loss is not finite"}))
    if state == "done":
        mujoco, physics = data.pop("mujoco"), data.pop("physics")
        lengths = {"last10": 10, "last3": 3, "final": 1}
        means = {name: float(np.mean(scores[-last:])) if len(scores) else None for name, last in lengths.items()}
        summary = {"env": env, "seed": seed, "updates": own["updates"], "headline": evaluation["headline"]}
        summary |= {"score": means[evaluation["headline"]], "final_score": means["final"]}
        summary |= {"last10_score": means["last10"], "best_score": max(scores, default=None), "success_rate": None}
        summary |= {"episodes": evaluation["episodes"], "evaluations": len(scores), "updates_per_second": 1000.0}
        summary |= {"mujoco": mujoco, "physics": physics, "data": data}
        (run.directory / "summary.json").write_text(json.dumps(summary))
    return run.directory


@cache
def _train_lines(updates: int, every: int) -> list[str]:
    lines = []
    for update in range(every, updates + 1, every):
        done = update / updates
        record = {
            "kind": "train",
            "update": update,
            "value_loss": 0.1 / (1 + done),
            "q_loss": 1.0,
            "policy_loss": -done,
        }
        record |= {"v": 100 * done, "q": 101 * done, "advantage_p10": -1.0, "advantage_p50": 0.0, "advantage_p90": 1.0}
        record |= {
            "capped_share": 0.1 * done,
            "effective_sample_size": 256 / (1 + done),
            "grad_norm_value": 0.123456789,
        }
        record |= {"grad_norm_q": 0.123456789, "grad_norm_policy": 0.123456789, "policy_lr": 3e-4 * (1 - done)}
        record |= {"log_std": -done, "seconds": update / 1000, "updates_per_second": 1000.0}
        lines.append(json.dumps(record))
    return lines


def keep(run: Path, scores: np.ndarray) -> None:
    """Give a made run these scores [E] as its kept episodes."""
    digest = hashlib.sha256(str(run).encode()).hexdigest()
    (run / "networks.ckpt").write_text(f"iql-checkpoint 1 sha256={digest}\n")
    lengths = np.full(len(scores), 1000)
    kept_episodes.write(run, KeptEpisodes(scores, 30 * scores, lengths, None, 0, "d4rl", MUJOCO))


def make_sweep(runs: int, updates: int, folder: Path, algorithms: bool) -> None:
    """So many runs in folder/made; algorithms: which differ in these and keep episodes."""
    random = np.random.default_rng(0)
    methods: list[tuple[tuple[str, ...], float]]
    if algorithms:
        methods = [((f"algorithm={name}",), 5.0 * number) for number, name in enumerate(ALGORITHMS)]
        grid = itertools.product(methods, SUITES, range(2 * SEEDS))
    else:
        swept = itertools.product(TAUS, BETAS)
        methods = [((f"algorithm.tau={tau}", f"algorithm.beta={beta}"), 20 * tau - beta) for tau, beta in swept]
        grid = itertools.product(methods, TASKS, range(SEEDS))
    for (words, height), env, seed in itertools.islice(grid, runs):
        evaluations = updates // 5000
        rise = 1 - np.exp(-np.arange(1, evaluations + 1) / (evaluations / 5))
        scores = 60 * rise + height + random.normal(0, 4) + random.normal(0, 3, evaluations)
        common = (f"updates={updates}", "evaluation.every=5000", "evaluation.episodes=10", "evaluation.headline=last10")
        run = make_run(folder, env, (*common, *words), seed, scores.tolist())
        if algorithms:
            keep(run, 60 + height + random.normal(0, 20, 1000))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=1_000_000)
    parser.add_argument("--algorithms", action="store_true", help="runs of five algorithms, which keep episodes")
    parser.add_argument("--keep", type=Path, help="make the runs here and leave them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        make_sweep(options.runs, options.updates, folder, options.algorithms)
        size = sum(path.stat().st_size for path in folder.rglob("metrics.jsonl")) / 1e9
        print(f"{options.runs} runs of {options.updates:,} updates: {size:.1f} GB")
        budget = ["--budget"] if options.algorithms else []
        for name in ("report.html", "report.csv"):
            out = Path(scratch) / name
            seconds, mib = measured("scripts/report.py", str(folder / "made"), *budget, "--out", str(out))
            print(
                f"report.py --out {name:<12} {seconds:6.1f} s {mib:6.0f} MiB, {out.stat().st_size / 1e6:.1f} MB written"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
