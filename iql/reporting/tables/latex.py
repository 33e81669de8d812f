r"""A report's tables as LaTeX, for \usepackage{booktabs}."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from iql.reporting.report import Report
from iql.reporting.tables.cells import METHOD, counted
from iql.reporting.tables.grids import Grid, grids, lines
from iql.reporting.tables.rows import TEXT_COLUMNS, filled


def latex(report: Report) -> str:
    """The tables; notes are comments."""
    text = [f"% {' '.join(line.split())}" for line in (f"{report.title}: {counted(report)}", METHOD, *report.notes)]
    for table in report.tables:
        found = [(_grid(grid), f"{grid.caption}. {grid.note} {table.heading}") for grid in grids(table)]
        found += [(_plain(header, rows), table.heading) for header, rows in filled(table)]
        for body, caption in found:
            text += [r"\begin{table}", r"\centering", body, f"\\caption{{{escaped(caption)}.}}"]
            text += [f"% {source.name}: {source.protocol}" for source in table.sources]
            text += [r"\end{table}"]
    return "\n".join([*text, ""])


def escaped(text: str) -> str:
    """Text escaped for LaTeX; tabulate does the same for cells."""
    return "".join(_LATEX.get(character, character) for character in text)


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"},
}


def _plain(header: list[str], rows: list[list[str]]) -> str:
    aligned = ["left" if name in TEXT_COLUMNS else "right" for name in header]
    return tabulate(rows, header, tablefmt="latex_booktabs", colalign=aligned, disable_numparse=True)


def _grid(grid: Grid) -> str:
    """A tabular of its own, as tabulate would escape the commands for bold text too."""
    header = [*grid.heads, *grid.columns]
    shape = "l" + "r" * (len(header) - 1)
    rows = [
        _row([rf"\textbf{{{escaped(text)}}}" if best else escaped(text) for text, best in zip(*row, strict=True)])
        for row in lines(grid)
    ]
    head = _row([escaped(name) for name in header])
    parts = [rf"\begin{{tabular}}{{{shape}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
