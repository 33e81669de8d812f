"""A chart of a report as the data that Plotly draws: traces and layout in plain dictionaries."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from iql.reporting.results import Report, Result, Table

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
"""Okabe and Ito's, told apart by the colour-blind too, and legible on white and on black; then dashes."""

DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Chart:
    """One chart of a section; task is "" where it is about several.

    alternative  what it shows, in words
    key          what the numbers 1, 2, … on both axes stand for, where names would not fit
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
    """A chart that a section does not have, and why; subject: what it would be of."""

    section: str
    why: str
    subject: str


class Style:
    """A configuration has one colour and dash in all charts."""

    def __init__(self, report: Report):
        labels = dict.fromkeys(label for table in report.tables for label in table.by_label)
        labels |= dict.fromkeys(result.label for table in report.tables for result in table.results)
        self.order = {label: index for index, label in enumerate(labels)}

    def colour(self, label: str) -> str:
        """As #rrggbb."""
        return COLOURS[self.order[label] % len(COLOURS)]

    def dash(self, label: str) -> str:
        """As Plotly names it; beyond the last colour the colours begin again with the next dash."""
        return DASHES[self.order[label] // len(COLOURS) % len(DASHES)]

    def line(self, label: str, x: Sequence[float], y: Sequence[float], **more: Any) -> dict[str, Any]:
        """The trace of a configuration's values y [N] at x [N]; its meta is what the page's filter looks at."""
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
    """In the order that all charts have them: the best configuration first."""
    return sorted(results, key=lambda each: style.order[each.label])


def axes(x: str, y: str) -> dict[str, Any]:
    """A layout with titles for both axes."""
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}


def category(texts: list[str]) -> dict[str, Any]:
    """An axis of texts in this order, also where they look like numbers, and each with a tick."""
    return {"type": "category", "categoryorder": "array", "categoryarray": texts, "dtick": 1}


def measured(table: Table) -> str:
    """What the scores of a table are called on an axis."""
    return "return" if table.protocol.measure == "return" else "score"


def title_of(env: str, table: Table, report: Report) -> str:
    """The task; where it stands in several tables, the protocol's letter too."""
    several = sum(any(result.env == env for result in each.results) for each in report.tables) > 1
    return f"{env}, protocol {table.letter}" if several else env


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Nine significant digits, enough for a label that rounds them once more; null for what is no number."""
    return [None if value is None or not math.isfinite(value) else _short(value) for value in values]


def _short(value: float) -> float:
    return int(value) if value == int(value) else float(f"{value:.9g}")
