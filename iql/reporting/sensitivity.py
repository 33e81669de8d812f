"""Charts of what a sweep varied: score by tau and beta, and by every setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from iql.reporting import statistics
from iql.reporting.chart import COLOURS, Chart, by_task, rounded, title_of
from iql.reporting.labels import short, text_of
from iql.reporting.results import Report, Result, Table


def heat_maps(report: Report, table: Table) -> Iterator[Chart]:
    """Mean score by tau and beta, for tasks where both were varied; other swept settings are averaged over."""
    tau, beta = "algorithm.tau", "algorithm.beta"
    for env, results in by_task(table.scored).items():
        swept = report.labels.swept[env]
        if tau not in swept or beta not in swept:
            continue
        rows, columns = swept[beta], swept[tau]
        cells = [[where(report, results, {beta: row, tau: column}) for column in columns] for row in rows]
        z = [[mean_of(cell) for cell in row] for row in cells]
        if sum(value is not None for row in z for value in row) < 2:
            continue
        others = [short(key) for key in swept if key not in (tau, beta)]
        title = title_of(env, table, report) + (f", mean over {', '.join(others)}" if others else "")
        runs = [[f"{sum(len(result.scores) for result in cell)} runs" for cell in row] for row in cells]
        trace = {
            "type": "heatmap",
            "x": [text_of(value) for value in columns],
            "y": [text_of(value) for value in rows],
            "z": z,
            "text": [["" if value is None else f"{value:.1f}" for value in row] for row in z],
            "texttemplate": "%{text}",
            "customdata": runs,
            "hovertemplate": "tau %{x}, beta %{y}: %{z:.1f} (%{customdata})<extra></extra>",
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": "score"}, "thickness": 12},
        }
        layout = {"xaxis": {"title": {"text": "tau"}, "type": "category"}}
        layout |= {"yaxis": {"title": {"text": "beta"}, "type": "category"}}
        known = [(value, f"tau {columns[j]}, beta {rows[i]}") for i, row in enumerate(z) for j, value in enumerate(row)]
        best = max((value, place) for value, place in known if value is not None)
        yield Chart("sweep", env, title, f"Score by tau and beta: best {best[0]:.1f} at {best[1]}", [trace], layout)


def sensitivities(report: Report, table: Table) -> Iterator[Chart]:
    """Of each swept setting: every configuration's score, and the mean over the others for each of its values."""
    for env, results in by_task(table.scored).items():
        for key, swept in report.labels.swept[env].items():
            scored = {
                index: found for index, value in enumerate(swept) if (found := where(report, results, {key: value}))
            }
            values, at = [swept[index] for index in scored], list(scored.values())
            if len(values) < 2:
                continue
            numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
            x = values if numbers else [text_of(value) for value in values]
            points = [(place, result) for place, found in zip(x, at, strict=True) for result in found]
            dots: dict[str, Any] = {
                "type": "scatter",
                "mode": "markers",
                "name": "configurations",
                "x": [place for place, _ in points],
                "y": rounded([result.mean for _, result in points]),
                "text": [result.label for _, result in points],
                "hovertemplate": "%{text}: %{y:.1f}<extra></extra>",
                "marker": {"color": COLOURS[7], "opacity": 0.6, "size": 7},
            }
            traces = [dots]
            alike = _alike(report, at, key)
            if alike:
                means = [[result.scores for result in found] for found in alike]
                intervals = [statistics.interval(statistics.MEAN, own) for own in means]
                line: dict[str, Any] = {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": "mean over the other settings, 95 %",
                    "x": x,
                    "y": rounded([statistics.mean(own) for own in means]),
                    "line": {"color": COLOURS[0], "width": 2},
                    "hovertemplate": "%{x}: %{y:.1f}<extra></extra>",
                }
                known = [interval for interval in intervals if interval is not None]
                if len(known) == len(intervals):
                    line["error_y"] = {
                        "type": "data",
                        "symmetric": False,
                        "array": rounded([high - y for (_, high), y in zip(known, line["y"], strict=True)]),
                        "arrayminus": rounded([y - low for (low, _), y in zip(known, line["y"], strict=True)]),
                    }
                traces.append(line)
            kind = {} if numbers else {"type": "category"}
            layout = {"xaxis": {"title": {"text": short(key)}, **kind}, "yaxis": {"title": {"text": "mean score"}}}
            told = "; ".join(f"{text_of(v)}: {mean_of(found):.1f}" for v, found in zip(values, at, strict=True))
            title = f"{short(key)}, {title_of(env, table, report)}"
            yield Chart("sweep", env, title, f"Mean score by {short(key)}: {told}", traces, layout)


def _alike(report: Report, at: list[list[Result]], key: str) -> list[list[Result]] | None:
    """Of each value of a setting the results whose other settings every value has; None where there are none."""

    def others(result: Result) -> str:
        values = report.labels.values[result.env, result.runs[0].configuration]
        return str([(name, value) for name, value in values.items() if name != key])

    shared = set.intersection(*({others(result) for result in found} for found in at))
    if not shared:
        return None
    return [sorted((each for each in found if others(each) in shared), key=others) for found in at]


def where(report: Report, results: list[Result], wanted: dict[str, Any]) -> list[Result]:
    """The results whose configuration set these keys so."""

    def fits(result: Result) -> bool:
        values = report.labels.values[result.env, result.runs[0].configuration]
        return all(values[key] == value for key, value in wanted.items())

    return [result for result in results if fits(result)]


def mean_of(results: list[Result]) -> float | None:
    return round(float(np.mean([result.mean for result in results])), 3) if results else None
