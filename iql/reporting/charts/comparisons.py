"""Charts that compare configurations: performance profiles and probabilities of improvement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from iql.reporting import statistics
from iql.reporting.charts.chart import Chart, Omission, Style, axes, by_task, category, measured
from iql.reporting.results import MIN_SEEDS, Table

PROFILE_POINTS = 101
"""Thresholds of a performance profile."""

MAX_NAME_LENGTH = 16
"""Characters of a configuration's name that fit beside an axis; longer names are replaced by numbers."""

MIN_RUNS = 2
"""Runs that a performance profile needs: with one run it is a single step."""


def profiles(table: Table, style: Style) -> Iterator[Chart | Omission]:
    """For each configuration, the share of its runs that score above a threshold."""
    scores = {label: [result.scores for result in table.by_label[label].values()] for label in table.compared}
    enough = {label: own for label, own in scores.items() if sum(map(len, own)) >= MIN_RUNS}
    if len(enough) < len(scores):
        why = f"A performance profile needs {MIN_RUNS} runs; without one"
        yield Omission("compare", why, f"{len(scores) - len(enough)} of {len(scores)} configurations, {_over(table)}")
    every = np.concatenate([own for tasks in enough.values() for own in tasks]) if enough else np.empty(0)
    if not len(every) or every.min() == every.max():
        return
    thresholds = np.linspace(every.min(), every.max(), PROFILE_POINTS)
    traces: list[dict[str, Any]] = []
    for label, own in enough.items():
        shares, interval = statistics.profile(own, thresholds)
        if interval is not None:
            traces.append(style.band(label, thresholds.tolist(), interval[0].tolist(), interval[1].tolist()))
        hover = "%{y:.0%} of runs above %{x:.1f}"
        traces.append(style.line(label, thresholds.tolist(), shares.tolist(), hovertemplate=hover))
    layout = axes(measured(table), "share of runs above it")
    layout["yaxis"] |= {"range": [-0.02, 1.02], "tickformat": ".0%"}
    alternative = f"Performance profiles of {', '.join(enough)}"
    yield Chart("compare", "", f"Performance profile: {_over(table)}", alternative, traces, layout)


def improvements(table: Table) -> Iterator[Chart | Omission]:
    """P(row scores higher than column) for every pair of configurations that have MIN_SEEDS seeds each."""
    labels = table.compared
    pairs = math.comb(len(labels), 2)
    if lacking := pairs - len(table.comparisons):
        why = f"The probability of improvement needs {MIN_SEEDS} seeds of both configurations on one task; without one"
        yield Omission("compare", why, f"{lacking} of {pairs} pair{'s' * (pairs != 1)}, {_over(table)}")
    compared = {label for each in table.comparisons for label in (each.better, each.worse)}
    labels = [label for label in labels if label in compared]
    if not labels:
        return
    z: list[list[float | None]] = [[None] * len(labels) for _ in labels]
    text = [[""] * len(labels) for _ in labels]
    exact = [[""] * len(labels) for _ in labels]
    hover = [["not compared"] * len(labels) for _ in labels]
    for each in table.comparisons:
        over = f"over {len(each.tasks)} tasks" if len(each.tasks) > 1 else f"on {each.tasks[0]}"
        low, high = each.interval
        sides = (
            (each.better, each.worse, each.seeds, each.probability, (low, high)),
            (each.worse, each.better, each.seeds[::-1], 1 - each.probability, (1 - high, 1 - low)),
        )
        for one, other, seeds, probability, (bottom, top) in sides:
            i, j = labels.index(one), labels.index(other)
            z[i][j], text[i][j] = probability, f"{probability:.2f}"
            exact[i][j] = f"{probability:.2f} [{bottom:.2f}, {top:.2f}]"
            hover[i][j] = f"P({one} > {other}) = {exact[i][j]}, {seeds[0]} against {seeds[1]} seeds {over}"
    key = labels if max(map(len, labels)) > MAX_NAME_LENGTH else []
    names = [str(number) for number in range(1, len(labels) + 1)] if key else labels
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": z,
        "zmin": 0,
        "zmax": 1,
        "text": text,
        "texttemplate": "%{text}",
        "hovertext": exact,  # what the page's "As a table" shows
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": "RdBu",
        "colorbar": {"title": {"text": "P"}, "thickness": 12},
    }
    layout = axes("than this", "this scores higher")
    layout["xaxis"] |= category(names)
    layout["yaxis"] |= category(names) | {"autorange": "reversed"}
    title = f"Probability of improvement: {_over(table)}, {_seeds(table)}"
    strongest = max(table.comparisons, key=lambda each: abs(each.probability - 0.5))
    better, worse, probability = strongest.better, strongest.worse, strongest.probability
    if probability < 0.5:
        better, worse, probability = worse, better, 1 - probability
    alternative = f"P({better} scores higher than {worse}) is {probability:.2f}"
    yield Chart("compare", "", title, alternative, [trace], layout, key)


def _seeds(table: Table) -> str:
    """How many seeds of each side the probabilities of improvement were computed from."""
    counts = [count for each in table.comparisons for count in each.seeds]
    return " to ".join(str(count) for count in dict.fromkeys((min(counts), max(counts)))) + " seeds a side"


def _over(table: Table) -> str:
    """The subject of a chart: its task or their number, its protocol, and how many configurations are left out."""
    tasks = by_task(table.scored)
    left = len(table.by_label) - len(table.compared)
    over = next(iter(tasks)) if len(tasks) == 1 else f"{len(tasks)} tasks"
    over += f", protocol {table.letter}" if table.letter else ""
    return over + (f", the best {len(table.compared)} configurations; {left} left out" if left > 0 else "")
