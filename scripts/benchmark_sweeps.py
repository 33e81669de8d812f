"""Measure what large sweeps cost beside training: to plan one, and to look at one.

    python scripts/benchmark_sweeps.py [--runs 1000,10000]

Each line is a command of its own, from its start to its end, with the most memory that it took. The runs that
status.py looks at are made: nine of ten are finished, the others were lost on the way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = 200  # train records of a made run
CONFIGURATIONS = 200  # of a made sweep


def measured(*command: str) -> tuple[float, float]:
    """Seconds and MiB that a command of this project takes. Raises RuntimeError if it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as shown:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=shown, stderr=shown)
        _, status, usage = os.wait4(process.pid, 0)
        shown.seek(0)
        if status:
            raise RuntimeError(f"{' '.join(command)}: {shown.read()}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def plan(runs: int, folder: Path) -> tuple[float, float]:
    """Compose, check and pack so many runs of the embedded default; nothing is submitted."""
    grid = ["algorithm.tau=0.5,0.6,0.7,0.8,0.9", "algorithm.beta=1.0,3.0,10.0,30.0", f"seed=range(0,{runs // 20})"]
    return measured("sweep.py", *grid, f"runs={folder}", "--dry-run")


def make_runs(runs: int, sweep: Path) -> None:
    """Directories as training leaves them."""
    settings = {"updates": RECORDS * 100, "env": {"name": "made"}, "filler": "x" * 3000}
    record = {"kind": "train", "update": 0, "value_loss": 0.1, "updates_per_second": 100.0}
    names = ("q_loss", "policy_loss", "value", "q", "advantage_q50", "capped_share", "effective_sample_size")
    record |= dict.fromkeys(names, 0.123456789)
    metrics = "".join(json.dumps({**record, "update": 100 * k}) + "\n" for k in range(1, RECORDS + 1))
    for number in range(runs):
        directory = sweep / "made" / f"tau={number % CONFIGURATIONS}" / f"seed={number // CONFIGURATIONS}"
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text(json.dumps({"settings": settings}))
        (directory / "metrics.jsonl").write_text(metrics)
        if number % 10:
            summary = {"updates": settings["updates"], "updates_per_second": 100.0, "score": 50.0}
            (directory / "summary.json").write_text(json.dumps(summary))
    (sweep / ".sweep").mkdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=lambda text: [int(part) for part in text.split(",")], default=[1000, 10_000])
    options = parser.parse_args()
    print("runs    what                                        seconds    MiB")
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            rows = [("sweep.py --dry-run", plan(runs, folder / "planned"))]
            make_runs(runs, folder / "made")
            status = ("scripts/status.py", str(folder / "made"))
            rows.append(("status.py, directories never read before", measured(*status)))
            rows.append(("status.py again", measured(*status)))
        for what, (seconds, mib) in rows:
            print(f"{runs:<7} {what:<42} {seconds:8.1f} {mib:6.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
