"""A chart as data for Plotly: traces and layout in plain dictionaries, and the style that all charts share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from iql.reporting.figure_style import COLOURS
from iql.reporting.report import Report
from iql.reporting.results import Result, Table

DASHES = ("solid", "dash", "dot", "dashdot")
"""Line styles by Plotly's names. Configurations beyond the last colour take the colours again with the next style."""


@dataclass(frozen=True)
class Chart:
    """One chart of a section of the page.

    task         "" where it is about several tasks
    alternative  a text that says what the chart shows, for readers who cannot see it
    key          the names that the numbers 1, 2, … on both axes replace, where names would not fit
    """

    section: str
    task: str
    title: str
    alternative: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    key: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Omission:
    """A chart that is left out of a section, and why; subject: the task or the tasks that it would show."""

    section: str
    why: str
    subject: str


class Style:
    """A configuration has one colour and dash in all charts.

    algorithms  the configuration whose look a line of a whole algorithm has: its best
    """

    def __init__(self, report: Report):
        labels = dict.fromkeys(label for table in report.tables for label in table.by_label)
        labels |= dict.fromkeys(result.label for table in report.tables for result in table.results)
        self.order = {label: index for index, label in enumerate(labels)}
        self.algorithms: dict[str, str] = {}
        for label, tasks in (each for table in report.tables for each in table.by_label.items()):
            self.algorithms.setdefault(next(iter(tasks.values())).algorithm, label)

    def colour(self, label: str) -> str:
        """As #rrggbb."""
        return COLOURS[self.order[label] % len(COLOURS)]

    def dash(self, label: str) -> str:
        """One of DASHES."""
        return DASHES[self.order[label] // len(COLOURS) % len(DASHES)]

    def line(self, label: str, x: Sequence[float], y: Sequence[float], **more: Any) -> dict[str, Any]:
        """The trace of a configuration's values y [N] at x [N]; the page filters traces by their meta."""
        return {
            "type": "scatter",
            "mode": "lines" if len(x) > 1 else "markers",
            "name": label,
            "meta": label,
            "x": rounded(x),
            "y": rounded(y),
            "line": {"color": self.colour(label), "dash": self.dash(label), "width": 2},
            **more,
        }

    def band(self, label: str, x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> dict[str, Any]:
        """The trace of a configuration's interval, low [N] to high [N] at x [N]."""
        return {
            "type": "scatter",
            "mode": "lines",
            "name": f"{label}, 95 %",
            "meta": label,
            "x": rounded([*x, *reversed(x)]),
            "y": rounded([*low, *reversed(high)]),
            "fill": "toself",
            "fillcolor": self.colour(label) + "2e",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }


def by_task(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each task, in order of their names."""
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        found[result.env].append(result)
    return dict(sorted(found.items()))


def ordered(results: list[Result], style: Style) -> list[Result]:
    """The results in the order that all charts share: the best configuration first."""
    return sorted(results, key=lambda each: style.order[each.label])


def axes(x: str, y: str) -> dict[str, Any]:
    """A layout with titles for both axes."""
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}


def category(texts: list[str]) -> dict[str, Any]:
    """An axis of texts in this order, each with a tick; texts that look like numbers stay texts."""
    return {"type": "category", "categoryorder": "array", "categoryarray": texts, "dtick": 1}


def measured(table: Table) -> str:
    """What the scores of a table are called on an axis."""
    return {"return": "return", "success": "success in %"}.get(table.protocol.measure, "score")


def title_of(env: str, table: Table, report: Report) -> str:
    """The task; if it is in several tables, with the protocol's letter."""
    several = sum(any(result.env == env for result in each.results) for each in report.tables) > 1
    return f"{env}, protocol {table.letter}" if several else env


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Values rounded to nine significant digits, enough for labels that round further; None for NaN and infinity."""
    return [None if value is None or not math.isfinite(value) else _nine_digits(value) for value in values]


def _nine_digits(value: float) -> float:
    return int(value) if value == int(value) else float(f"{value:.9g}")
