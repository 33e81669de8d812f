"""How the runs of a sweep stand: done, running, waiting, failed, lost; from their directories and the queue.

    python scripts/status.py runs/locomotion [--watch] [--retry] [--cancel]

It works for any folder of runs, while accounting is missing and while SLURM cannot be reached.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hydra.utils import instantiate
from rich.console import Group, RenderableType
from rich.live import Live

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql import complaints
from iql.errors import UserError
from iql.launching import tables
from iql.launching.ledger import Ledger, Submission
from iql.launching.standing import FAILED, LOST, RUNNING, UNKNOWN, WAITING, Follower, Standing
from iql.launching.submission import submit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="the folder of the sweep, runs/NAME")
    parser.add_argument("--watch", action="store_true", help="keep the table current until every run has ended")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between two looks (default 10)")
    parser.add_argument("--retry", action="store_true", help="submit the failed and the lost runs again, as they were")
    parser.add_argument("--cancel", action="store_true", help="take back what waits and stop what runs; all is saved")
    options = parser.parse_args()
    return complaints.exit_code_of(lambda: follow(options))


def follow(options: argparse.Namespace) -> None:
    """Cancel or retry if asked to, then show how the runs stand. Raises UserError."""
    if not options.sweep.is_dir():
        raise UserError(f"{options.sweep}: no such folder; a sweep's is runs/NAME")
    ledger = Ledger(options.sweep)
    if options.cancel:
        cancel(ledger)
    if options.retry:
        retry(ledger)
    watch(ledger, options.sweep, options.every if options.watch else None)


def picture(standings: Mapping[str, Standing], notes: list[str], sweep: Path) -> RenderableType:
    """The tables of a sweep's standing. Raises UserError for a folder without runs."""
    if not standings:
        raise UserError(f"{sweep}: there are no runs in it")
    parts: list[RenderableType | None] = [tables.configurations(standings, list(standings)), tables.running(standings)]
    parts += [*tables.troubles(standings), *notes, tables.totals(standings, list(standings))]
    parts.append(tables.advice(standings, str(sweep)))
    return Group(*(part for part in parts if part is not None))


def watch(ledger: Ledger, sweep: Path, every: float | None) -> None:
    """Draw the picture once, or anew every so many seconds until every run has ended; in a log, one below the other."""
    follower = Follower(ledger)
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


def cancel(ledger: Ledger) -> None:
    """Cancel every submission that still has something to do."""
    with ledger.lock():
        kinds: dict[str, list[Submission]] = {}
        for submission in ledger.submissions():
            if not submission.cancelled:
                ledger.mark_cancelled(submission)
                kinds.setdefault(submission.launcher["_target_"], []).append(submission)
    for own in kinds.values():
        instantiate(own[-1].launcher, _convert_="all").cancel(own)


def retry(ledger: Ledger) -> None:
    """Submit the jobs of failed and lost runs anew, through the launcher that had them, with the code as it is now."""
    with ledger.lock():
        follower = Follower(ledger)
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
        launchers: dict[str, list[tuple[Submission, int]]] = {}
        for (_, index), submission in again.items():
            launchers.setdefault(str(submission.launcher), []).append((submission, index))
        for own in launchers.values():
            submit(ledger, own[0][0].launcher, ((each.jobs[index], each.line(index)) for each, index in own))
    print(f"submitted again: {len(again)} jobs")


if __name__ == "__main__":
    sys.exit(main())
