"""Charts of configurations against each other: performance profiles and probabilities of improvement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from iql.reporting import statistics
from iql.reporting.chart import Chart, Style, axes, by_task
from iql.reporting.results import PAIRS, Table

THRESHOLDS = 101
"""Points of a performance profile."""


def profiles(table: Table, style: Style) -> Iterator[Chart]:
    """Which share of runs scores above a threshold, for each configuration."""
    if not table.scored:
        return
    every = np.concatenate([result.scores for result in table.scored])
    if len(every) < 2 or every.min() == every.max():
        return
    thresholds = np.linspace(every.min(), every.max(), THRESHOLDS)
    traces: list[dict[str, Any]] = []
    for label, tasks in list(table.by_label.items())[:PAIRS]:
        shares, interval = statistics.profile([result.scores for result in tasks.values()], thresholds)
        if interval is not None:
            traces.append(style.band(label, thresholds.tolist(), interval[0].tolist(), interval[1].tolist()))
        hover = "%{y:.0%} of runs above %{x:.1f}"
        traces.append(style.line(label, thresholds.tolist(), shares.tolist(), hovertemplate=hover))
    layout = axes("score", "share of runs above it")
    layout["yaxis"] |= {"range": [-0.02, 1.02], "tickformat": ".0%"}
    alternative = f"Performance profiles of {', '.join(list(table.by_label)[:PAIRS])}"
    yield Chart("compare", "", f"Performance profile: {_over(table)}", alternative, traces, layout)


def improvements(table: Table) -> Iterator[Chart]:
    """P(row scores higher than column) for every pair of configurations."""
    if not table.comparisons:
        return
    labels = list(table.by_label)[:PAIRS]
    z: list[list[float | None]] = [[None] * len(labels) for _ in labels]
    hover = [[""] * len(labels) for _ in labels]
    for each in table.comparisons:
        i, j = labels.index(each.better), labels.index(each.worse)
        z[i][j], z[j][i] = each.probability, 1 - each.probability
        over = f"over {len(each.tasks)} tasks" if len(each.tasks) > 1 else f"on {each.tasks[0]}"
        low, high = each.interval or (math.nan, math.nan)
        told = f" [{low:.2f}, {high:.2f}]", f" [{1 - high:.2f}, {1 - low:.2f}]"
        shown = told if each.interval else (", one seed", ", one seed")
        hover[i][j] = f"P({each.better} > {each.worse}) = {z[i][j]:.2f}{shown[0]} {over}"
        hover[j][i] = f"P({each.worse} > {each.better}) = {z[j][i]:.2f}{shown[1]} {over}"
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": z,
        "zmin": 0,
        "zmax": 1,
        "text": [["" if value is None else f"{value:.2f}" for value in row] for row in z],
        "texttemplate": "%{text}",
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": "RdBu",
        "colorbar": {"title": {"text": "P"}, "thickness": 12},
    }
    layout = {
        "xaxis": {"title": {"text": "than this"}, "type": "category"},
        "yaxis": {"title": {"text": "this scores higher"}, "type": "category", "autorange": "reversed"},
    }
    title = f"Probability of improvement: {_over(table)}"
    strongest = max(table.comparisons, key=lambda each: each.probability)
    alternative = f"P({strongest.better} scores higher than {strongest.worse}) is {strongest.probability:.2f}"
    yield Chart("compare", "", title, alternative, [trace], layout)


def _over(table: Table) -> str:
    """Of what a chart is: its task, or how many there are, and whether configurations are left out."""
    tasks = by_task(table.scored)
    left = len(table.by_label) - PAIRS
    over = next(iter(tasks)) if len(tasks) == 1 else f"{len(tasks)} tasks"
    return over + (f", the best {PAIRS} configurations; {left} left out" if left > 0 else "")
