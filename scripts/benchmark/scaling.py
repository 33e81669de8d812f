"""Updates per second as pack, width, batch and dataset grow, as a table and as a figure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmark.measurement import make_learner, random_transitions, updates_per_second
from benchmark.products import limit
from iql.data.sampling import Batches

SCALING = {
    "pack": ("runs in a pack", (1, 2, 4, 8, 16, 32)),
    "hidden": ("width of both hidden layers", (64, 128, 256, 512, 1024)),
    "batch": ("batch size", (64, 128, 256, 512, 1024)),
    "rows": ("rows of the dataset", (100_000, 1_000_000, 10_000_000)),
}


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Updates/s as one of pack, width, batch and rows grows and the others stay."""
    found = []
    for what, (_, values) in SCALING.items():
        for value in values:
            own = argparse.Namespace(**vars(options))
            pack = value if what == "pack" else 1
            own.hidden = [value] * 2 if what == "hidden" else options.hidden
            own.batch = value if what == "batch" else options.batch
            data = random_transitions(value if what == "rows" else options.rows, *options.sizes)
            for threads in options.threads:
                learner, execution = make_learner(own, pack, threads, "float32")
                batches = Batches(data, learner.seeds, own.batch, learner.device)
                bound = limit(own.sizes, own.hidden, own.batch, pack, threads, "float32", learner.device)
                learner, execution = make_learner(own, pack, threads, "float32")
                rate = updates_per_second(learner, execution, batches, options.seconds)
                row = {"what": what, "value": value, "threads": threads, "updates_per_second": round(rate, 1)}
                found.append({**row, "limit": round(bound, 1), "device": str(learner.device)})
                print(found[-1], file=sys.stderr)
    return found


def plot_scaling(rows: list[dict[str, Any]], path: Path) -> None:
    """The four curves with their limits; logarithmic where they are steep."""
    import matplotlib  # here, so that the memory that `speed` measures does not hold it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SCALING), figsize=(15, 3.8), layout="constrained")
    for axis, (what, (label, values)) in zip(axes, SCALING.items(), strict=True):
        for color, threads in enumerate(sorted({row["threads"] for row in rows})):
            own = [row for row in rows if row["what"] == what and row["threads"] == threads]
            x = [row["value"] for row in own]
            name = f"{threads} thread{'s' * (threads > 1)}" if own[0]["device"] == "cpu" else own[0]["device"]
            axis.plot(x, [row["updates_per_second"] for row in own], "o-", color=f"C{color}", label=name)
            axis.plot(x, [row["limit"] for row in own], "--", color=f"C{color}", alpha=0.6, label="its products alone")
        steep = what in ("hidden", "batch")
        axis.set(xscale="log", yscale="log" if steep else "linear", xlabel=label)
        if not steep:
            axis.set_ylim(bottom=0)
        axis.set_xticks(values, [f"{value:,}" for value in values])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("updates/s, summed over the pack")
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
