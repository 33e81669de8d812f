"""How the runs of a sweep stand: done, running, waiting, failed, lost; from their directories and the queue.

    python scripts/status.py runs/locomotion [--watch] [--retry] [--cancel]

It works for any folder of runs, while accounting is missing and while SLURM cannot be reached.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql import complaints
from iql.errors import UserError
from iql.launching import tables
from iql.launching.ledger import Ledger, Submission, check_job
from iql.launching.standing import FAILED, LOST, RUNNING, UNKNOWN, WAITING, Follower, Standing, by_kind
from iql.launching.submission import submit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="the folder of the sweep, runs/NAME")
    parser.add_argument("--watch", action="store_true", help="keep the table current until every run has ended")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between two looks (default 10)")
    parser.add_argument("--retry", action="store_true", help="submit the failed and the lost runs again, as they were")
    parser.add_argument("--cancel", action="store_true", help="take back what waits and stop what runs; all is saved")
    parser.add_argument("--trust", action="store_true", help="run classes and commands that the folder names")
    options = parser.parse_args()
    return complaints.exit_code_of(lambda: follow(options))


def follow(options: argparse.Namespace) -> None:
    """Cancel or retry if asked to, then show how the runs stand. Raises UserError."""
    if options.every <= 0:
        raise UserError(f"--every {options.every:g}: must be above 0")
    if not options.sweep.is_dir():
        raise UserError(f"{options.sweep}: no such folder; a sweep's is runs/NAME")
    ledger = Ledger(options.sweep)
    if options.cancel:
        cancel(Follower(ledger, trust=options.trust))
    if options.retry:
        retry(Follower(ledger, trust=options.trust))
    watch(Follower(ledger, trust=options.trust), options.sweep, options.every if options.watch else None)


def picture(standings: Mapping[str, Standing], notes: list[str], sweep: Path) -> RenderableType:
    """The tables of a sweep's standing. Raises UserError for a folder without runs."""
    if not standings:
        raise UserError(f"{sweep}: there are no runs in it")
    parts: list[RenderableType | None] = [tables.configurations(standings, list(standings)), tables.running(standings)]
    parts += [*tables.troubles(standings), *notes, tables.totals(standings, list(standings))]
    parts.append(tables.advice(standings, str(sweep)))
    return Group(*(part for part in parts if part is not None))


def watch(follower: Follower, sweep: Path, every: float | None) -> None:
    """Draw the picture once, or anew every so many seconds until every run has ended; in a log, one below the other."""
    if every is None:
        tables.console().print(picture(follower.standings(), follower.notes, sweep))
        return
    console = tables.console()
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            standings = follower.standings()
            now = picture(standings, follower.notes, sweep)
            console.print(now) if live is None else live.update(now, refresh=True)
            if not any(each.state in (RUNNING, WAITING, UNKNOWN) for each in standings.values()):
                return
            time.sleep(every)


def cancel(follower: Follower) -> None:
    """Cancel every submission that still has something to do."""
    ledger = follower.ledger
    with ledger.lock():
        kinds = by_kind(each for each in ledger.submissions() if not each.cancelled)
        launchers = [follower.launcher(own[-1]) for own in kinds]  # before anything is marked
        for submission in itertools.chain.from_iterable(kinds):
            ledger.mark_cancelled(submission)
    for launcher, own in zip(launchers, kinds, strict=True):
        launcher.cancel(own)


def retry(follower: Follower) -> None:
    """Submit the jobs of failed and lost runs anew, through the launcher that had them, with the code as it is now.

    Raises UserError for a sweep that names code or commands, unless it is trusted.
    """
    ledger = follower.ledger
    with ledger.lock():
        standings = follower.standings(trust=False)
        latest = {
            run: (submission, index)
            for submission in ledger.submissions()
            for index, runs in enumerate(submission.jobs)
            for run in runs
        }
        again = {
            (submission.folder, index): submission
            for run, (submission, index) in latest.items()
            if standings[run].state in (FAILED, LOST)
            and not any(standings[other].state in (RUNNING, WAITING, UNKNOWN) for other in submission.jobs[index])
        }
        for (_, index), submission in again.items() if not follower.trust else ():
            check_job(submission, submission.line(index))
        launchers: dict[str, list[tuple[Submission, int]]] = {}
        for (_, index), submission in again.items():
            launchers.setdefault(str(submission.launcher), []).append((submission, index))
        for own in launchers.values():
            submit(ledger, own[0][0].launcher, ((each.jobs[index], each.line(index)) for each, index in own))
    print(f"submitted again: {len(again)} jobs")


if __name__ == "__main__":
    sys.exit(main())
