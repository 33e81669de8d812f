"""The tables of a report for a terminal, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from iql.reporting.published import numbers
from iql.reporting.report import Report
from iql.reporting.results import Aggregate, Interval, Result, Table

MAX_NOTES = 40
"""Notes shown in a terminal; the other formats have all."""

METHOD = (
    "Mean ± standard deviation over seeds; IQM is the interquartile mean; in brackets 95 % stratified bootstrap "
    "intervals over seeds."
)


def results(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row for each configuration of a task."""
    header = ["task", "configuration", "seeds", "mean", "95 %", "median", "IQM", "95 %"]
    header += [source.name for source in table.sources]
    rows = []
    for result in sorted(table.results, key=lambda each: (each.env, -each.mean if len(each.scores) else 0)):
        row = [result.env, result.label, seeds(result)]
        if len(result.scores):
            row += [
                spread(result.mean, result.std),
                brackets(result.mean_interval),
                number(result.median),
                number(result.iqm),
                brackets(result.iqm_interval),
            ]
        else:
            row += [""] * 5
        rows.append([*row, *(result.published(source) or "" for source in table.sources)])
    return header, rows


def aggregates(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row for each configuration that several tasks have."""
    header = ["configuration", "tasks", "sum", "mean", "95 %", "median", "95 %", "IQM", "95 %"]
    header += [f"{source.name}, sum" for source in table.sources]
    rows = []
    for each in table.aggregates:
        row = [each.label, str(len(each.tasks)), number(each.total)]
        for value, interval in each.summaries.values():
            row += [number(value), brackets(interval)]
        rows.append([*row, *(number(total) for total in _totals(each, table))])
    return header, rows


def terminal(report: Report, width: int) -> RenderableType:
    """The tables and notes, coloured where the terminal allows it, without the columns that do not fit into `width`."""
    parts: list[RenderableType] = [Text(f"{report.title}: {counted(report)}", "bold")]
    for table in report.tables:
        parts.append(Text(f"\n{table.heading}", "italic"))
        for header, rows in _filled(table):
            shown = _fitting(header, rows, width)
            parts.append(_rich([header[index] for index in shown], [[row[index] for index in shown] for row in rows]))
            if left := [header[index] for index in range(len(header)) if index not in shown]:
                parts.append(Text(f"no room for {', '.join(left)}; --out FILE has them", "dim"))
    protocols = {source.name: source.protocol for table in report.tables for source in table.sources}
    parts += [Text(f"{name}: {protocol}", "dim") for name, protocol in protocols.items()]
    parts.append(Text(METHOD, "dim"))
    parts += [Text(note, "yellow") for note in report.notes[:MAX_NOTES]]
    if len(report.notes) > MAX_NOTES:
        parts.append(Text(f"and {len(report.notes) - MAX_NOTES} more notes; --out FILE has them all", "yellow"))
    return Group(*parts)


def markdown(report: Report) -> str:
    """The tables and notes as GitHub's Markdown."""
    lines = [f"# {report.title}", "", counted(report), ""]
    for table in report.tables:
        lines += [f"## {table.heading}", ""]
        for header, rows in _filled(table):
            lines += [_plain(header, rows, "pipe"), ""]
        lines += [f"- {source.name}: {source.protocol}" for source in table.sources]
        lines += [""] * bool(table.sources)
    lines += [METHOD, ""]
    if report.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in report.notes), ""]
    return "\n".join(lines)


def latex(report: Report) -> str:
    r"""Tables for \usepackage{booktabs}; notes are comments."""
    lines = [f"% {' '.join(line.split())}" for line in (f"{report.title}: {counted(report)}", METHOD, *report.notes)]
    for table in report.tables:
        for header, rows in _filled(table):
            body = _plain(header, rows, "latex_booktabs")
            lines += [r"\begin{table}", r"\centering", body, f"\\caption{{{_escaped(table.heading)}.}}"]
            lines += [f"% {source.name}: {source.protocol}" for source in table.sources]
            lines += [r"\end{table}"]
    return "\n".join([*lines, ""])


def comma_separated(report: Report) -> str:
    """One line for each configuration of a task, every number unrounded in a column of its own."""
    names = dict.fromkeys(source.name for table in report.tables for source in table.sources)
    buffer = io.StringIO()
    writer: csv.DictWriter | None = None
    for table in report.tables:
        for result in table.results:
            line = dict(_fields(result))
            published = {source.name: result.published(source) for source in table.sources}
            for name in names:
                mean, std = numbers(score) if (score := published.get(name)) else (None, None)
                line |= {f"{name}_mean": mean, f"{name}_std": std}
            if writer is None:
                writer = csv.DictWriter(buffer, list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow({key: _no_formula(value) for key, value in line.items()})
    return buffer.getvalue()


def counted(report: Report) -> str:
    """A phrase that says how many runs are in each state."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(report.counts.items()))
    return f"{len(report.runs)} run{'s' * (len(report.runs) > 1)}: {states}"


def seeds(result: Result) -> str:
    """How many seeds have a score, and how many there should be if those are more."""
    wanted = len(result.runs) + len(result.missing)
    return str(wanted) if len(result.scores) == wanted else f"{len(result.scores)} of {wanted}"


def spread(mean: float, std: float | None) -> str:
    return number(mean) if std is None else f"{mean:.1f} ± {std:.1f}"


def brackets(interval: Interval) -> str:
    return "" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


_TEXT_COLUMNS = ("task", "configuration")


def _filled(table: Table) -> Iterator[tuple[list[str], list[list[str]]]]:
    yield results(table)
    if table.aggregates:
        yield aggregates(table)


def _totals(aggregate: Aggregate, table: Table) -> list[float | None]:
    return [
        source.total(aggregate.tasks) if all(result.published(source) for result in aggregate.results) else None
        for source in table.sources
    ]


def _plain(header: list[str], rows: list[list[str]], form: str) -> str:
    if form == "pipe":
        header, *rows = [[cell.replace("|", r"\|") for cell in row] for row in (header, *rows)]
    aligned = ["left" if name in _TEXT_COLUMNS else "right" for name in header]
    return tabulate(rows, header, tablefmt=form, colalign=aligned, disable_numparse=True)


def _escaped(text: str) -> str:
    """Text escaped for LaTeX; tabulate does the same for cells."""
    return "".join(_LATEX.get(character, character) for character in text)


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"},
}


def _no_formula(value: object) -> object:
    """The value of a cell, quoted if a spreadsheet would take it for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _fitting(header: list[str], rows: list[list[str]], width: int) -> list[int]:
    """The columns that fit: published ones are dropped first, from the right, then medians and intervals."""
    widths = [max(map(len, cells)) + 2 for cells in zip(header, *rows, strict=True)]
    shown = list(range(len(header)))
    median, iqm_interval = header.index("median"), header.index("IQM") + 1
    medians = range(median, header.index("IQM"))  # over tasks with their interval
    published = shown[iqm_interval + 1 :]
    for column in (*([index] for index in reversed(published[1:])), medians, [iqm_interval], published[:1]):
        if sum(widths[index] for index in shown) <= width:
            break
        shown = [index for index in shown if index not in column]
    return shown


def _rich(header: list[str], rows: list[list[str]]) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for name in header:
        is_text = name in _TEXT_COLUMNS
        table.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _fields(result: Result) -> Iterator[tuple[str, object]]:
    protocol, scored = result.protocol, len(result.scores) > 0
    low, high = (result.mean_interval if scored else None) or (None, None)
    iqm_low, iqm_high = (result.iqm_interval if scored else None) or (None, None)
    yield from (("task", result.env), ("configuration", result.label))
    yield "id", result.runs[0].configuration
    yield from (("measure", protocol.measure), ("updates", protocol.updates), ("headline", protocol.headline))
    yield from (("evaluated_every", protocol.every), ("episodes", protocol.episodes))
    yield from (("physics", protocol.physics), ("mujoco", protocol.mujoco), ("exact_physics", protocol.exact))
    yield "own_data", result.own_data
    yield "seeds", len(result.scores)
    yield "seeds_wanted", len(result.runs) + len(result.missing)
    yield from (("mean", result.mean if scored else None), ("std", result.std if scored else None))
    yield from (("mean_low", low), ("mean_high", high))
    yield from (("median", result.median if scored else None), ("iqm", result.iqm if scored else None))
    yield from (("iqm_low", iqm_low), ("iqm_high", iqm_high))
    yield "scores", " ".join(f"{run.seed}:{run.score!r}" for run in result.runs if run.score is not None)
