"""The tables with a row for each configuration: by task, and over tasks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from iql.reporting import statistics
from iql.reporting.results import Table
from iql.reporting.tables.cells import brackets, number, seeds, spread

TEXT_COLUMNS = ("task", "configuration")


def results(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row for each configuration of a task."""
    finetuned = table.protocol.steps > 0
    header = ["task", "configuration", "seeds"]
    header += ["offline", "95 %", "online", "95 %", "regret", "95 %"] if finetuned else ["mean", "95 %"]
    header += ["median", "IQM", "95 %", *(source.name for source in table.sources)]
    rows = []
    for result in sorted(table.results, key=lambda each: (each.env, -each.mean if len(each.scores) else 0)):
        row = [result.env, result.label, seeds(result)]
        if len(result.scores):
            row += _mean(result.offline, 1) if finetuned else []
            row += [spread(result.mean, result.std), brackets(result.mean_interval)]
            row += _mean(result.regrets, 2) if finetuned else []
            row += [
                number(result.median),
                number(result.iqm),
                brackets(result.iqm_interval),
            ]
        else:
            row += [""] * (9 if finetuned else 5)
        rows.append([*row, *(result.published(source) or "" for source in table.sources)])
    return header, rows


def _mean(values: np.ndarray, digits: int) -> list[str]:
    """The mean of values [R] and its interval; nothing of none."""
    if not len(values):
        return ["", ""]
    interval = statistics.interval(statistics.MEAN, [values])
    return [f"{values.mean():.{digits}f}", brackets(interval, digits)]


def aggregates(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row for each configuration that several tasks have."""
    header = ["configuration", "tasks", "sum", "mean", "95 %", "median", "95 %", "IQM", "95 %"]
    header += [f"{source.name}, sum" for source in table.sources]
    rows = []
    for each in table.aggregates:
        row = [each.label, str(len(each.tasks)), number(each.total)]
        for value, interval in each.summaries.values():
            row += [number(value), brackets(interval)]
        rows.append([*row, *(number(each.published(source)) for source in table.sources)])
    return header, rows


def filled(table: Table) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Those of the two that have rows."""
    yield results(table)
    if table.aggregates:
        yield aggregates(table)
