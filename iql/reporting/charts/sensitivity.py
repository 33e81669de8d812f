"""Charts of the settings that a sweep varied: score by tau and beta, and by every setting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from iql.reporting import statistics
from iql.reporting.charts.chart import Chart, axes, by_task, category, measured, rounded, title_of
from iql.reporting.figure_style import BLUE, GREY
from iql.reporting.labels import ALGORITHM, canonical
from iql.reporting.report import Report
from iql.reporting.results import Result, Table

MAX_TICKS = 10
"""Up to this number of values, each has a tick of its own."""

LOG_AXIS_RATIO = 50
"""If the largest value exceeds the smallest by more than this factor, the axis is logarithmic."""


def heat_maps(report: Report, table: Table) -> Iterator[Chart]:
    """Mean score by tau and beta, for tasks on which both were varied; averaged over other swept settings."""
    labels, tau, beta = report.labels, "algorithm.tau", "algorithm.beta"
    for env, results in by_task(table.results).items():
        rows, columns = _values(report, results, beta), _values(report, results, tau)
        if len(rows) < 2 or len(columns) < 2:
            continue
        scored = [result for result in results if len(result.scores)]
        cells = [[where(report, scored, {beta: row, tau: column}) for column in columns] for row in rows]
        means = [[mean_of(cell) for cell in row] for row in cells]
        if sum(mean is not None for row in means for mean in row) < 2:
            continue
        x, y = [labels.text(tau, value) for value in columns], [labels.text(beta, value) for value in rows]
        others = [labels.names[key] for key in labels.swept[env] if key not in (tau, beta)]
        title = title_of(env, table, report) + (f", mean over {', '.join(others)}" if others else "")
        trace = {
            "type": "heatmap",
            "x": x,
            "y": y,
            "z": [rounded(row) for row in means],
            "text": [["" if mean is None else f"{mean:.1f}" for mean in row] for row in means],
            "texttemplate": "%{text}",
            "customdata": [[_runs(cell) for cell in row] for row in cells],
            "hovertemplate": "tau %{x}, beta %{y}: %{text} (%{customdata})<extra></extra>",
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": measured(table)}, "thickness": 12},
        }
        layout = axes("tau", "beta")
        layout["xaxis"] |= category(x)
        layout["yaxis"] |= category(y)
        known = [(mean, x[j], y[i]) for i, row in enumerate(means) for j, mean in enumerate(row) if mean is not None]
        best = max(known, key=lambda each: each[0])
        alternative = f"Score by tau and beta: best {best[0]:.1f} at tau {best[1]}, beta {best[2]}"
        yield Chart("sweep", env, title, alternative, [trace], layout)


def sensitivities(report: Report, table: Table) -> Iterator[Chart]:
    """For each swept setting, every configuration's score, and for each of its values the mean over the other settings.

    A setting is left out if only one of its values has a score: there is nothing to compare. So is the algorithm, which
    the tables compare.
    """
    for env, results in by_task(table.scored).items():
        for key in report.labels.swept[env]:
            values = _values(report, results, key)
            if len(values) > 1 and key != ALGORITHM:
                yield _sensitivity(report, table, env, results, key, values)


def _sensitivity(report: Report, table: Table, env: str, results: list[Result], key: str, values: list[Any]) -> Chart:
    name = report.labels.names[key]
    texts = [report.labels.text(key, value) for value in values]
    at = [where(report, results, {key: value}) for value in values]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    x = values if numbers and all(map(math.isfinite, values)) else texts
    traces = [_dots(x, at)]
    if shared_results := _with_shared_settings(report, at, key):
        traces.append(_line(x, texts, shared_results))
    layout = axes(name, f"mean {measured(table)}")
    layout["xaxis"] |= category(texts) if x is texts else _ticks(values, texts)
    means = "; ".join(f"{text}: {mean_of(found):.1f}" for text, found in zip(texts, at, strict=True))
    title = f"{name}, {title_of(env, table, report)}"
    return Chart("sweep", env, title, f"Mean score by {name}: {means}", traces, layout)


def _dots(x: list[Any], at: list[list[Result]]) -> dict[str, Any]:
    """Every configuration's mean at its value."""
    points = [(place, result) for place, found in zip(x, at, strict=True) for result in found]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "configurations",
        "x": [place for place, _ in points],
        "y": rounded([result.mean for _, result in points]),
        "text": [result.label for _, result in points],
        "hovertemplate": "%{text}: %{y:.1f}<extra></extra>",
        "marker": {"color": GREY, "opacity": 0.6, "size": 7},
    }


def _line(x: list[Any], texts: list[str], shared_results: list[list[Result]]) -> dict[str, Any]:
    """The mean over the other settings at each value, with its interval where every result has several seeds."""
    scores = [[result.scores for result in found] for found in shared_results]
    means = [statistics.mean(own) for own in scores]
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "mean over the other settings",
        "x": x,
        "y": rounded(means),
        "text": texts,
        "line": {"color": BLUE, "width": 2},
        "hovertemplate": "%{text}: %{y:.1f}<extra></extra>",
    }
    intervals = [statistics.interval(statistics.MEAN, own) for own in scores]
    known = [interval for interval in intervals if interval is not None]
    if len(known) == len(intervals):
        line["name"] += ", 95 %"
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": rounded([high - mean for (_, high), mean in zip(known, means, strict=True)]),
            "arrayminus": rounded([mean - low for (low, _), mean in zip(known, means, strict=True)]),
        }
    return line


def _ticks(values: list[Any], texts: list[str]) -> dict[str, Any]:
    """A numeric axis whose ticks are the values themselves, formatted as in the tables."""
    axis: dict[str, Any] = {"exponentformat": "e"}  # not 100μ
    if len(values) <= MAX_TICKS:
        axis |= {"tickmode": "array", "tickvals": values, "ticktext": texts}
    if values[0] > 0 and values[-1] / values[0] > LOG_AXIS_RATIO:
        axis["type"] = "log"
    return axis


def _values(report: Report, results: list[Result], key: str) -> list[Any]:
    """The values of a setting that these results have, in order; none where it was not varied."""
    swept = report.labels.swept[results[0].env].get(key, [])
    return [value for value in swept if where(report, results, {key: value})]


def _with_shared_settings(report: Report, at: list[list[Result]], key: str) -> list[list[Result]] | None:
    """For each value of a setting, the results whose other settings occur with every value; None if there are none."""

    def others(result: Result) -> str:
        values = report.labels.values[result.env, result.runs[0].configuration]
        return str([(name, value) for name, value in values.items() if name != key])

    shared = set.intersection(*({others(result) for result in found} for found in at))
    if not shared:
        return None
    return [sorted((each for each in found if others(each) in shared), key=others) for found in at]


def where(report: Report, results: list[Result], wanted: dict[str, Any]) -> list[Result]:
    """The results whose configuration has the wanted values of these keys."""
    texts = {key: canonical(value) for key, value in wanted.items()}

    def fits(result: Result) -> bool:
        values = report.labels.values[result.env, result.runs[0].configuration]
        return all(values.get(key) == text for key, text in texts.items())

    return [result for result in results if fits(result)]


def mean_of(results: list[Result]) -> float | None:
    """The mean of the configurations' means; None without results."""
    return float(np.mean([result.mean for result in results])) if results else None


def _runs(results: list[Result]) -> str:
    count = sum(len(result.scores) for result in results)
    return f"{count} run{'s' * (count != 1)}"
