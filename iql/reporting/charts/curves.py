"""Charts over updates: learning curves and diagnostics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from iql.config.phases import Phases
from iql.reporting import statistics
from iql.reporting.charts.chart import Chart, Omission, Style, axes, by_task, ordered, title_of
from iql.reporting.protocols import MEASURES
from iql.reporting.report import Report
from iql.reporting.results import Result, Table
from iql.reporting.run_records import RunRecord

BINS = 50
"""Parts of the online phase over which the scores of its episodes are averaged."""

DIAGNOSTICS = {
    "capped_share": "share of weights at the cap",
    "effective_sample_size": "effective sample size of the weights",
    "v": "mean V",
    "q": "mean Q",
    "advantage_p10": "advantage, 10th percentile",
    "advantage_p90": "advantage, 90th percentile",
    "log_std": "mean log std of the policy",
    "entropy": "mean entropy of the policy",
    "value_loss": "value loss",
    "q_loss": "Q loss",
    "policy_loss": "policy loss",
    "grad_norm_policy": "gradient norm of the policy",
    "updates_per_second": "updates per second",
}
"""The quantities of train records that are drawn, with the names that charts give them."""


def learning_curves(report: Report, table: Table, style: Style) -> Iterator[Chart | Omission]:
    """Each task's scores over updates: each configuration's mean over seeds, with its interval as a band."""
    for env, results in by_task(table.results).items():
        traces, ends = [], []
        for result in ordered(results, style):
            points = _curve(result.runs)
            if points is None:
                continue
            updates, mean, counts, shared, interval = points
            if interval is not None:
                traces.append(style.band(result.label, updates[shared].tolist(), *map(np.ndarray.tolist, interval)))
            hover = "%{y:.1f} after %{x:,} (mean of %{customdata} seeds)"
            traces.append(
                style.line(result.label, updates.tolist(), mean.tolist(), customdata=counts, hovertemplate=hover)
            )
            ends.append(f"{result.label} ends at {mean[-1]:.1f}")
        if traces and not _is_curve(traces):
            yield Omission("curves", "Evaluated once, so there is no curve", title_of(env, table, report))
        elif traces:
            layout = axes("updates", MEASURES[table.protocol.measure]) | _border(results)
            alternative = f"Learning curves of {env}: {'; '.join(ends[:12])}"
            yield Chart("curves", env, title_of(env, table, report), alternative, traces, layout)


def exploration(report: Report, table: Table, style: Style) -> Iterator[Chart]:
    """Each task's scores of the episodes that policies explored with, mean over seeds in BINS parts of the updates."""
    for env, results in by_task(table.results).items():
        traces = []
        for result in ordered(results, style):
            points = np.concatenate([run.episodes for run in result.runs])
            if len(points):
                edges = np.linspace(points[:, 0].min(), points[:, 0].max(), BINS + 1)
                part = np.clip(np.searchsorted(edges, points[:, 0], "right") - 1, 0, BINS - 1)
                filled = np.unique(part)
                means = [float(points[part == each, 1].mean()) for each in filled]
                middles = ((edges[:-1] + edges[1:]) / 2)[filled]
                hover = "%{y:.1f} about update %{x:,.0f}"
                traces.append(style.line(result.label, middles.tolist(), means, hovertemplate=hover))
        if traces and _is_curve(traces):
            kind = MEASURES[table.protocol.measure]
            title = f"episodes of exploration, {title_of(env, table, report)}"
            ends = "; ".join(f"{trace['name']} ends at {trace['y'][-1]:.1f}" for trace in traces[:12])
            yield Chart("curves", env, title, f"{title}: {ends}", traces, axes("updates", kind))


def _border(results: Sequence[Result]) -> dict[str, Any]:
    """The lines between the offline and the online phase of finetuned runs, for a layout."""
    phases = {Phases.of(run.settings) for result in results for run in result.runs}
    borders = sorted({each.offline for each in phases if each.steps and each.offline})
    line = {
        "type": "line",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"dash": "dot", "width": 1.5, "color": "#8b949e"},
    }
    text = {"yref": "paper", "y": 1, "yanchor": "bottom", "xanchor": "left", "showarrow": False, "text": "online →"}
    return (
        {
            "shapes": [{**line, "x0": border, "x1": border} for border in borders],
            "annotations": [{**text, "x": border} for border in borders],
        }
        if borders
        else {}
    )


def _curve(runs: Sequence[RunRecord]) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray, Any] | None:
    """Updates [T], mean [T] over the runs evaluated there and their number [T], where all were, and there the interval.

    None without an evaluation.
    """
    curves = [dict(run.evaluations.tolist()) for run in runs if len(run.evaluations)]
    if not curves:
        return None
    updates = np.array(sorted({update for curve in curves for update in curve}))
    scores = np.array([[curve.get(update, math.nan) for update in updates] for curve in curves])
    shared = np.isfinite(scores).all(0)
    counts = np.isfinite(scores).sum(0).tolist()
    interval = statistics.band(scores[:, shared]) if shared.any() else None
    return updates, np.nanmean(scores, 0), counts, shared, interval


def _is_curve(traces: Sequence[dict[str, Any]]) -> bool:
    """Whether any of these traces has a second point."""
    return any(len(trace["x"]) > 1 for trace in traces)


def diagnostics(report: Report, table: Table, style: Style) -> Iterator[Chart | Omission]:
    """Train records, mean over seeds, of each task and quantity."""
    for env, results in by_task(table.results).items():
        quantities = {result.label: _quantities(result.runs) for result in ordered(results, style)}
        for key, name in DIAGNOSTICS.items():
            traces = []
            for label, found in quantities.items():
                if values := found[key]:
                    updates = sorted(values)
                    means = [sum(values[update]) / len(values[update]) for update in updates]
                    traces.append(style.line(label, updates, means, hovertemplate="%{y:.4g} after %{x:,}"))
            if traces and not _is_curve(traces):
                yield Omission("diagnostics", "One train record, so there is no curve", title_of(env, table, report))
            elif traces:
                title = f"{name}, {title_of(env, table, report)}"
                ends = "; ".join(f"{trace['name']} ends at {trace['y'][-1]:.4g}" for trace in traces[:12])
                yield Chart("diagnostics", env, title, f"{name}: {ends}", traces, axes("updates", ""))


def _quantities(runs: Sequence[RunRecord]) -> dict[str, dict[int, list[float]]]:
    """The values of each quantity that is drawn in the runs' train records, by update."""
    found: dict[str, dict[int, list[float]]] = {key: defaultdict(list) for key in DIAGNOSTICS}
    for record in (record for run in runs for record in run.train):
        update = record["update"]
        for key, values in found.items():
            if (value := record.get(key)) is not None:
                values[update].append(value)
    return found
