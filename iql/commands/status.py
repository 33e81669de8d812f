"""The state of every run of a sweep (done, running, waiting, failed, lost), from its directories and the queue.

    python scripts/status.py runs/locomotion [--watch] [--retry] [--cancel]

It works for any folder of runs, while accounting is missing and while SLURM cannot be reached.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live

from iql.commands.exit_codes import exit_code_of
from iql.commands.usage import usage
from iql.errors import UserError
from iql.launching import status_tables
from iql.launching.ledger import Ledger, Submission, check_job
from iql.launching.status import FAILED, LOST, RUNNING, UNKNOWN, WAITING, RunStatus, StatusReader, by_launcher
from iql.launching.submission import submit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="the folder of the sweep, runs/NAME")
    parser.add_argument("--watch", action="store_true", help="keep the table current until every run has ended")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between two updates (default 10)")
    parser.add_argument("--retry", action="store_true", help="submit the failed and the lost runs again, as they were")
    parser.add_argument("--cancel", action="store_true", help="remove waiting jobs and stop running ones; all is saved")
    parser.add_argument("--trust", action="store_true", help="run classes and commands that the folder names")
    options = parser.parse_args()
    return exit_code_of(lambda: follow(options))


def follow(options: argparse.Namespace) -> None:
    """Cancel or retry if asked to, then show the state of the runs. Raises UserError."""
    if options.every <= 0:
        raise UserError(f"--every {options.every:g}: must be above 0")
    if not options.sweep.is_dir():
        raise UserError(f"{options.sweep}: no such folder; a sweep's is runs/NAME")
    ledger = Ledger(options.sweep)
    if options.cancel:
        cancel(StatusReader(ledger, trust=options.trust))
    if options.retry:
        retry(StatusReader(ledger, trust=options.trust))
    watch(StatusReader(ledger, trust=options.trust), options.sweep, options.every if options.watch else None)


def overview(statuses: Mapping[str, RunStatus], notes: list[str], sweep: Path) -> RenderableType:
    """The tables of a sweep's state. Raises UserError for a folder without runs."""
    if not statuses:
        raise UserError(f"{sweep}: there are no runs in it")
    parts: list[RenderableType | None] = [
        status_tables.configurations(statuses, list(statuses)),
        status_tables.running(statuses),
    ]
    parts += [*status_tables.troubles(statuses), *notes, status_tables.totals(statuses, list(statuses))]
    if line := status_tables.advice(statuses, str(sweep)):
        parts.append(usage(line))
    return Group(*(part for part in parts if part is not None))


def watch(reader: StatusReader, sweep: Path, every: float | None) -> None:
    """Print the overview once, or again every so many seconds until every run has ended; a log keeps all of them."""
    if every is None:
        status_tables.console().print(overview(reader.statuses(), reader.notes, sweep))
        return
    console = status_tables.console()
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            statuses = reader.statuses()
            now = overview(statuses, reader.notes, sweep)
            console.print(now) if live is None else live.update(now, refresh=True)
            if not any(each.state in (RUNNING, WAITING, UNKNOWN) for each in statuses.values()):
                return
            time.sleep(every)


def cancel(reader: StatusReader) -> None:
    """Cancel every submission that still has something to do."""
    ledger = reader.ledger
    with ledger.lock():
        kinds = by_launcher(each for each in ledger.submissions() if not each.cancelled)
        launchers = [reader.launcher(own[-1]) for own in kinds]  # before anything is marked
        for submission in itertools.chain.from_iterable(kinds):
            ledger.mark_cancelled(submission)
    for launcher, own in zip(launchers, kinds, strict=True):
        launcher.cancel(own)


def retry(reader: StatusReader) -> None:
    """Submit the jobs of failed and lost runs anew, through the launcher that had them, with the code as it is now.

    Raises UserError for a sweep that names code or commands, unless it is trusted.
    """
    ledger = reader.ledger
    with ledger.lock():
        statuses = reader.statuses(use_cache=False)
        latest = {
            run: (submission, index)
            for submission in ledger.submissions()
            for index, runs in enumerate(submission.jobs)
            for run in runs
        }
        again = {
            (submission.folder, index): submission
            for run, (submission, index) in latest.items()
            if statuses[run].state in (FAILED, LOST)
            and not any(statuses[other].state in (RUNNING, WAITING, UNKNOWN) for other in submission.jobs[index])
        }
        for (_, index), submission in again.items() if not reader.trust else ():
            check_job(submission, submission.line(index))
        launchers: dict[str, list[tuple[Submission, int]]] = {}
        for (_, index), submission in again.items():
            launchers.setdefault(str(submission.launcher), []).append((submission, index))
        for own in launchers.values():
            submit(ledger, own[0][0].launcher, ((each.jobs[index], each.line(index)) for each, index in own))
    print(f"submitted again: {len(again)} jobs")
