"""The learning curves of a report, or its curves under a budget, as one image for a paper, PNG or SVG."""

from __future__ import annotations

import io
import math

from iql.errors import UserError
from iql.reporting.charts.budgets import budgets
from iql.reporting.charts.chart import Chart, Style
from iql.reporting.charts.curves import learning_curves
from iql.reporting.figure_style import Axes, Line2D, empty_figure, thousands
from iql.reporting.protocols import differences
from iql.reporting.report import Report

COLUMNS = 3
WIDTH, HEIGHT = 3.6, 2.6
"""Of one task's axes, in inches."""

DPI = 200
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def image(report: Report, form: str) -> bytes:
    """Every task's learning curves with their intervals, side by side; form: png or svg.

    Of a report with evaluation under a budget its curves instead.

    Raises UserError where nothing was evaluated.
    """
    style = Style(report)
    budget = any(table.methods for table in report.tables)
    of_task = budgets if budget else learning_curves
    drawn = [each for table in report.tables for each in of_task(report, table, style)]
    charts = [chart for chart in drawn if isinstance(chart, Chart)]
    if not charts:
        raise UserError("there are no learning curves to be drawn: no run has been evaluated twice yet")
    columns = min(COLUMNS, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = empty_figure(WIDTH * columns, HEIGHT * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    lines: dict[str, Line2D] = {}
    for axes, chart in zip(panels, charts, strict=False):
        lines |= _draw(axes, chart)
    for axes in panels[len(charts) :]:
        axes.set_visible(False)
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center", ncols=min(4, len(lines)), frameon=False
    )
    if protocols := differences({table.letter: table.protocol for table in report.tables if table.letter}):
        text = "; ".join(f"{letter}: {difference}" for letter, difference in protocols.items())
        figure.suptitle(f"Protocols {text}", fontsize=8, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=DPI)
    return buffer.getvalue()


def _draw(axes: Axes, chart: Chart) -> dict[str, Line2D]:
    """Draw the chart's traces and return its lines by configuration."""
    lines: dict[str, Line2D] = {}
    for trace in chart.data:
        if trace.get("fill"):
            axes.fill(trace["x"], trace["y"], color=trace["fillcolor"], lw=0)
        else:
            line = trace["line"]
            (lines[trace["name"]],) = axes.plot(
                trace["x"], trace["y"], color=line["color"], ls=_DASHES[line["dash"]], lw=1.3
            )
    axes.set_title(chart.title, fontsize=9)
    axes.set_xlabel(chart.layout["xaxis"]["title"]["text"], fontsize=8)
    axes.set_ylabel(chart.layout["yaxis"]["title"]["text"], fontsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: thousands(value))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return lines
