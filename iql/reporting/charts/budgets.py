"""Charts of evaluation under a budget: the score of the chosen policy against the episodes that were spent."""

from __future__ import annotations

from collections.abc import Iterator

from iql.reporting.charts.chart import Chart, Omission, Style, axes, by_task, measured, title_of
from iql.reporting.report import Report
from iql.reporting.results import Table


def budgets(report: Report, table: Table, style: Style) -> Iterator[Chart | Omission]:
    """A chart for each task with a curve for each algorithm; no filter hides a curve, as it is of no configuration."""
    for env in by_task(table.scored):
        own = [method for method in table.methods if method.env == env]
        own.sort(key=lambda method: table.algorithms.index(method.algorithm))
        if not own:
            continue
        traces, ends = [], []
        for method in own:
            curve, looks = method.curve, style.algorithms[method.algorithm]
            episodes = list(range(1, len(curve.mean) + 1))
            look = {"name": method.algorithm, "meta": ""}
            traces.append(style.band(looks, episodes, curve.low.tolist(), curve.high.tolist()) | look)
            hover = f"%{{y:.1f}} after %{{x}} episodes ({method.drawn} of {method.policies} policies)"
            traces.append(style.line(looks, episodes, curve.mean.tolist(), hovertemplate=hover) | look)
            ends.append(f"{method.algorithm} ends at {curve.mean[-1]:.1f}")
        layout = axes("episodes", measured(table))
        alternative = f"Score of the chosen policy by episodes, {env}: {'; '.join(ends)}"
        yield Chart("budget", env, title_of(env, table, report), alternative, traces, layout)
