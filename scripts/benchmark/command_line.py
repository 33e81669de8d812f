"""Measure how fast this machine trains: updates/s against the limit of its products, and what else a run costs.

    python scripts/benchmark.py                                        # packs, threads, precisions; costs; families
    python scripts/benchmark.py --packs 1 --threads 1 --precisions float32 --only speed
    python scripts/benchmark.py --only speed --builds native,avx2,x86-64  # the update in C, also for less than the CPU
    python scripts/benchmark.py --only speed --settings algorithm=iql_fql --hidden 512,512,512,512  # FQL-IQL
    python scripts/benchmark.py --only scaling --plot scaling.png      # against pack, width, batch and rows
    python scripts/benchmark.py --only algorithms --corl CORL          # every algorithm, beside CORL's code of it
    python scripts/benchmark.py --only online --packs 1,4              # finetuning: steps in hopper with their updates
    python scripts/benchmark.py --only speed,costs,paper               # on a GPU: ten seeds with their evaluations, too

The limit is what the products of an update alone take, at their shapes, into preallocated outputs, with as many
threads as the measured run. Limit and rate are each the fastest of five times in the same process: neighbours on a
machine slow both. Rates are summed over the pack.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark import algorithms, costs, families, online, scaling, speed
from benchmark.measurement import random_transitions
from iql.commands.exit_codes import exit_code_of
from iql.execution.devices import choose, has_bf16


def main() -> int:
    options = parsed()
    return exit_code_of(lambda: measure_and_write(options))


def measure_and_write(options: argparse.Namespace) -> None:
    """Measure, and write the figures to --out. Raises UserError."""
    figures = measure(options)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nfigures in {options.out}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers(int), default=[11, 3], help="observation and action entries (hopper's)")
    parser.add_argument("--hidden", type=numbers(int), default=[256, 256], help="widths of the hidden layers")
    parser.add_argument(
        "--settings",
        type=numbers(str),
        default=[],
        help="of the runs whose speed is measured, of IQL's kind: algorithm=iql_fql,network=ogbench",
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the dataset")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured for each line")
    parser.add_argument("--packs", type=numbers(int), default=[1, 2, 4, 8, 16, 32])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=numbers(int), default=sorted({1, min(2, cores), cores}))
    parser.add_argument("--precisions", type=numbers(str), help="default: float32, and bf16 where the device has it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--path", default="auto", choices=("auto", "plain", "fused", "native"), help="code path")
    parts = ("speed", "costs", "families", "scaling", "paper", "algorithms", "online")
    names = "iql,xql,sql,eql,bc,td3_bc,awac,rebrac"
    parser.add_argument("--algorithms", type=numbers(str), default=names.split(","), help=f"default: {names}")
    parser.add_argument("--corl", type=Path, help="a checkout of tinkoff-ai/CORL, measured beside them on a CPU")
    parser.add_argument(
        "--builds",
        type=numbers(str),
        help=f"of {', '.join(speed.BUILDS)}; default: native, and avx2 where the CPU has AVX-512",
    )
    parser.add_argument("--only", type=numbers(str), default=list(parts[:3]), help=f"of {', '.join(parts)}")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where a picture of the scaling goes")
    options = parser.parse_args()
    if unknown := set(options.only) - set(parts):
        parser.error(f"--only knows {', '.join(parts)}, not {', '.join(sorted(unknown))}")
    if unknown := set(options.builds or ()) - set(speed.BUILDS):
        parser.error(f"--builds knows {', '.join(speed.BUILDS)}, not {', '.join(sorted(unknown))}")
    if len(options.sizes) != 2 or min([*options.sizes, *options.hidden, options.batch, *options.packs]) < 1:
        parser.error(
            "--sizes takes two whole numbers >= 1, e.g. 11,3; --hidden, --batch and --packs whole numbers >= 1"
        )
    return options


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A parser of comma-separated values."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = "comma-separated list"
    return parse


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every part that was asked for, and print each when it is done."""
    figures: dict[str, Any] = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}}
    device = choose(options.device)
    if device.type == "cuda":
        options.threads = options.threads[:1]
    options.precisions = options.precisions or ["float32"] + ["bf16"] * has_bf16(device)
    in_c = device.type == "cpu" and options.path in ("auto", "native")
    avx512 = in_c and torch.backends.cpu.get_cpu_capability() == "AVX512"
    builds = (options.builds or ["native"] + ["avx2"] * avx512) if in_c else ["native"]
    data = random_transitions(options.rows, *options.sizes)
    for part in options.only:
        if part == "speed":
            figures[part] = []
            for precision in options.precisions if "native" in builds else ():
                for threads in options.threads:
                    for pack in options.packs:
                        figures[part].append(speed.speed_row(options, data, pack, threads, precision))
                        print(figures[part][-1], file=sys.stderr)
            for build in builds:
                if build != "native":
                    figures[part] += speed.rows_of_build(options, build)
            print(table(figures[part]))
        elif part == "costs":
            figures[part] = costs.costs(options, data)
            print("\n".join(f"{name}: {value:,}" for name, value in figures[part].items()))
        elif part == "families":
            figures[part] = families.family_rows(rate=300.0)
            print(table(figures[part]))
        elif part == "scaling":
            figures[part] = scaling.scaling(options)
            print(table(figures[part]))
            if options.plot:
                scaling.plot_scaling(figures[part], options.plot)
        elif part == "algorithms":
            figures[part] = algorithms.algorithm_rows(options, data)
            print(table(figures[part]))
        elif part == "online":
            figures[part] = [
                online.online_row(options, data, pack, threads) for threads in options.threads for pack in options.packs
            ]
            print(table(figures[part]))
        elif part == "paper":
            figures[part] = speed.paper_rate(options)
            print("\n".join(f"{name}: {value:,}" for name, value in figures[part].items()))
    return figures


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [
        " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) for row in rows
    ]
    return "\n".join(f"| {line} |" for line in lines)


def machine() -> dict[str, Any]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "cores": len(os.sched_getaffinity(0))}
    found["cpu"] = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
