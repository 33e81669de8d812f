"""A report's tables as GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Collection

from tabulate import tabulate

from iql.reporting.report import Report
from iql.reporting.tables.cells import METHOD, counted
from iql.reporting.tables.grids import Grid, grids, lines
from iql.reporting.tables.rows import TEXT_COLUMNS, filled


def markdown(report: Report) -> str:
    """The tables and notes."""
    text = [f"# {report.title}", "", counted(report), ""]
    for table in report.tables:
        text += [f"## {table.heading}", ""]
        for grid in grids(table):
            text += [f"{grid.caption}. {grid.note}", "", _grid(grid), ""]
        for header, rows in filled(table):
            text += [piped(header, rows, TEXT_COLUMNS), ""]
        text += [f"- {source.name}: {source.protocol}" for source in table.sources]
        text += [""] * bool(table.sources)
    text += [METHOD, ""]
    if report.notes:
        text += ["## Notes", "", *(f"- {note}" for note in report.notes), ""]
    return "\n".join(text)


def _grid(grid: Grid) -> str:
    rows = [
        [f"**{text}**" if best else text for text, best in zip(texts, bold, strict=True)] for texts, bold in lines(grid)
    ]
    return piped([*grid.heads, *grid.columns], rows, grid.heads[:1])


def piped(header: list[str], rows: list[list[str]], left: Collection[str]) -> str:
    """A table; left: the titles of the columns that are aligned to the left."""
    header, *rows = [[cell.replace("|", r"\|") for cell in row] for row in (header, *rows)]
    aligned = ["left" if name in left else "right" for name in header]
    return tabulate(rows, header, tablefmt="pipe", colalign=aligned, disable_numparse=True)
