"""The results of runs: tables with intervals beside the published numbers, and a page of charts.

python scripts/report.py runs/locomotion                              # tables in the terminal
python scripts/report.py runs/locomotion --out report.html table.tex  # a page that needs no network, and a table
python scripts/report.py runs/locomotion --out curves.svg             # every task's learning curves, for a paper
python scripts/report.py runs/smoke --out report.html --watch         # kept current until every run has ended
python scripts/report.py runs/budget --budget --out budget.svg        # policies chosen with few episodes, as curves

Reads run directories alone: finished, running and failed ones. Folders may be runs, sweeps or whatever holds them.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from iql.commands.exit_codes import exit_code_of
from iql.commands.usage import usage
from iql.errors import UserError
from iql.launching.ledger import Ledger
from iql.launching.status import UNKNOWN, WAITING, StatusReader
from iql.launching.status_tables import console
from iql.reporting.page import html
from iql.reporting.paper_figure import image
from iql.reporting.report import Report, compile_report
from iql.reporting.run_records import NoRuns, Reader
from iql.reporting.tables.comma_separated import budgets, comma_separated
from iql.reporting.tables.latex import latex
from iql.reporting.tables.markdown import markdown
from iql.reporting.tables.terminal import terminal
from iql.runs.run_state import RUNNING
from iql.system.atomic_files import replace_file
from iql.system.cpu_cores import usable

FORMATS: dict[str, Callable[[Report], str | bytes]] = {
    ".md": markdown,
    ".csv": comma_separated,
    ".tex": latex,
    ".png": lambda report: image(report, "png"),
    ".svg": lambda report: image(report, "svg"),
}

MAX_PROCESSES = 8
"""Processes that read runs; each takes some 100 MB."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=usage(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="run directories, or folders of them")
    parser.add_argument("--out", nargs="+", type=Path, default=[], metavar="FILE", help=f".html, {', '.join(FORMATS)}")
    parser.add_argument(
        "--budget",
        action="store_true",
        help="with evaluation under a budget, from kept episodes; its curves instead of scores in .csv, .png and .svg",
    )
    parser.add_argument("--watch", action="store_true", help="write it again until every run has ended")
    parser.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between two updates (default 30)")
    options = parser.parse_args()
    return exit_code_of(lambda: make(options))


def make(options: argparse.Namespace) -> None:
    """Make the report that the options ask for. Raises UserError."""
    if options.every <= 0:
        raise UserError(f"--every {options.every:g}: must be above 0")
    check(options.out)
    reader = Reader(options.folders, processes=min(usable(), MAX_PROCESSES))
    watch(reader, options.budget, options.out, options.every if options.watch else None)


def check(files: list[Path]) -> None:
    """Raises UserError for a file whose format or folder does not exist."""
    for file in files:
        if file.suffix not in (".html", *FORMATS):
            raise UserError(f"--out {file}: must end in .html, {', '.join(FORMATS)}")
        if not file.parent.is_dir():
            raise UserError(f"--out {file}: there is no folder {file.parent}; make it first")


def watch(reader: Reader, budget: bool, files: list[Path], every: float | None) -> None:
    """Report once, or every so many seconds until every run has ended; in a log, one report below the other."""
    screen = console()
    live = Live(console=screen, auto_refresh=False) if every is not None and screen.is_terminal else None
    with live or contextlib.nullcontext():
        while not update(reader, budget, files, every, screen, live):
            time.sleep(every or 0.0)
    for file in files:
        print(f"written: {file}")


def update(
    reader: Reader, budget: bool, files: list[Path], every: float | None, screen: Console, live: Live | None
) -> bool:
    """Write and show one report; whether it is the last. Before the first run of a sweep has begun there is none."""
    try:
        report = compile_report(reader, budget)
    except NoRuns:
        if every is None or not waiting(reader.folders):
            raise
        return False
    last = every is None or not (report.counts[RUNNING] or waiting(reader.folders))
    for file in files:
        write(report, file, None if last else every)
    shown = terminal(report, screen.width)
    screen.print(shown) if live is None else live.update(shown, refresh=True)
    return last


def waiting(folders: list[Path]) -> bool:
    """Whether a queue still has jobs of these sweeps, or does not answer."""
    statuses = (StatusReader(Ledger(folder)).statuses() for folder in folders if Ledger(folder).submissions())
    return any(each.state in (RUNNING, WAITING, UNKNOWN) for found in statuses for each in found.values())


def write(report: Report, file: Path, refresh: float | None) -> None:
    """Write the report in the format of the file's suffix, atomically."""
    formats = FORMATS | ({".csv": budgets} if any(table.methods for table in report.tables) else {})
    content = html(report, file, refresh) if file.suffix == ".html" else formats[file.suffix](report)
    replace_file(file, content.encode() if isinstance(content, str) else content)
