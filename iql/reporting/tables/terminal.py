"""A report's tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from iql.reporting.report import Report
from iql.reporting.tables.cells import METHOD, counted
from iql.reporting.tables.grids import Grid, grids, lines
from iql.reporting.tables.rows import TEXT_COLUMNS, filled

MAX_NOTES = 40
"""Notes shown in a terminal; the other formats have all."""

GAP = 2
"""Columns between two cells."""


def terminal(report: Report, width: int) -> RenderableType:
    """The tables and notes, coloured where the terminal allows it.

    Of a table with a row for each configuration, columns that do not fit into `width` are left out; a table with a
    column for each is continued below.
    """
    parts: list[RenderableType] = [Text(f"{report.title}: {counted(report)}", "bold")]
    for table in report.tables:
        parts.append(Text(f"\n{table.heading}", "italic"))
        for header, rows in filled(table):
            shown = _fitting(header, rows, width)
            parts.append(_rich([header[index] for index in shown], [[row[index] for index in shown] for row in rows]))
            if left := [header[index] for index in range(len(header)) if index not in shown]:
                parts.append(Text(f"no room for {', '.join(left)}; --out FILE has them", "dim"))
        for grid in grids(table):
            parts += [Text(f"\n{grid.caption}. {grid.note}", "italic"), *_blocks(grid, width)]
    protocols = {source.name: source.protocol for table in report.tables for source in table.sources}
    parts += [Text(f"{name}: {protocol}", "dim") for name, protocol in protocols.items()]
    parts.append(Text(METHOD, "dim"))
    parts += [Text(note, "yellow") for note in report.notes[:MAX_NOTES]]
    if len(report.notes) > MAX_NOTES:
        parts.append(Text(f"and {len(report.notes) - MAX_NOTES} more notes; --out FILE has them all", "yellow"))
    return Group(*parts)


def _blocks(grid: Grid, width: int) -> Iterator[RichTable]:
    """The grid as tables of as many of its columns as fit, at least one."""
    header, body = [*grid.heads, *grid.columns], list(lines(grid))
    texts = [header, *(row for row, _ in body)]
    widths = [max(map(len, cells)) + GAP for cells in zip(*texts, strict=True)]
    fixed = len(grid.heads)
    blocks: list[list[int]] = []
    room = 0
    for column in range(fixed, len(header)):
        if not blocks or widths[column] > room:
            blocks.append([])
            room = width - sum(widths[:fixed])
        blocks[-1].append(column)
        room -= widths[column]
    for block in blocks:
        shown = [*range(fixed), *block]
        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for index in shown:
            table.add_column(header[index], justify="right" if index else "left", overflow="fold", no_wrap=index > 0)
        for row, bold in body:
            style = "dim" if row[0] == "published" else ""
            table.add_row(*(Text(row[index], "bold" if bold[index] else style) for index in shown))
        yield table


def _fitting(header: list[str], rows: list[list[str]], width: int) -> list[int]:
    """The columns that fit: published ones are dropped first, from the right, then medians and intervals."""
    widths = [max(map(len, cells)) + GAP for cells in zip(header, *rows, strict=True)]
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
        is_text = name in TEXT_COLUMNS
        table.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
