"""Submit many runs: compose and check them all, pack them into jobs, hand the jobs to a launcher, return.

python sweep.py env=hopper-medium-v2,walker2d-medium-v2 algorithm.tau=0.5,0.7,0.9 'seed=range(0,10)' launcher=slurm
python sweep.py sweep=locomotion launcher=slurm launcher.partition=gpu --dry-run

The same command again submits what is neither done nor running nor waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from hydra.utils import instantiate

from iql import complaints
from iql.catalogue import CONF
from iql.errors import UserError
from iql.launching import command, grid, plan, tables
from iql.launching.ledger import Ledger
from iql.launching.standing import FAILED, UNKNOWN, Follower, Standing
from iql.launching.submission import submit
from iql.trust import LAUNCHERS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="WORD is what train.py takes, in Hydra's multirun grammar (a,b  choice()  range()  glob()); sweep=NAME, "
        "a named sweep of conf/sweep; launcher=local or slurm and launcher.KEY=VALUE, the settings of conf/launcher; "
        "sweep.name=NAME, the folder within runs/.",
    )
    parser.add_argument("words", nargs="+", metavar="WORD", help="key=value, as train.py takes it")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and submit nothing")
    parser.add_argument("--retry", action="store_true", help="take up failed runs too")
    options = parser.parse_args()
    return complaints.exit_code_of(
        lambda: sweep(options.words, options.dry_run, options.retry), "interrupted; the same command goes on"
    )


def sweep(words: list[str], dry_run: bool, retry: bool) -> None:
    """Plan the sweep, show the plan, and submit what is to be trained. Raises UserError."""
    asked = command.read(words)
    launcher = instantiate(asked.launcher, _convert_="all")
    if not dry_run:
        launcher.check()
    datasets = plan.Datasets()
    runs = plan.planned(grid.expand(asked.words, CONF), datasets)
    if not dry_run:
        datasets.check()
    folder = plan.sweep_folder(runs[0].run)
    ledger = Ledger(folder)
    with contextlib.nullcontext() if dry_run else ledger.lock():
        follower = Follower(ledger, LAUNCHERS | {asked.launcher["_target_"]})
        standings = follower.standings([each.run.id for each in runs], trust=False)
        chosen = plan.to_train(standings, runs, retry)
        packs = plan.packs(runs, chosen, standings, launcher)
        show(runs, chosen, packs, standings, folder, retry)
        for line in [*follower.notes, *(f"not in the cache: {name}" for name in datasets.missing)]:
            print(line)
        unknown = sum(standings[each.run.id].state == UNKNOWN for each in runs)
        if unknown and not dry_run:
            raise UserError(f"{'; '.join(follower.notes)}; nothing was submitted")
        if dry_run or not packs:
            return
        submit(ledger, asked.launcher, plan.jobs(packs))
    print(f"submitted {len(packs)} jobs; this command has ended, and they go on without it")
    print(f"  python scripts/status.py {folder} --watch   # how they stand")


def show(
    runs: list[plan.Planned],
    chosen: list[plan.Planned],
    packs: list[list[plan.Planned]],
    standings: dict[str, Standing],
    folder: Path,
    retry: bool,
) -> None:
    """Print the plan."""
    ids = [each.run.id for each in runs]
    console = tables.console()
    console.print(tables.configurations(standings, ids))
    console.print(tables.totals(standings, ids))
    kept, passing = (size / 2**30 for size in plan.disk(chosen))
    free = plan.free_disk(folder) / 2**30
    sizes = sorted({len(pack) for pack in packs})
    of = f" of {sizes[0]}{f' to {sizes[-1]}' if len(sizes) > 1 else ''}" if packs else ""
    print(f"to train: {len(chosen)} runs in {len(packs)} jobs{of}")
    if chosen:
        print(f"disk: about {kept:.2f} GiB in {folder} in the end, {passing:.2f} more on the way; {free:.0f} are free")
    if kept > free:
        print("that disk is too small for them: free some, or choose another with runs=")
    failed = sum(standings[run].state == FAILED for run in ids)
    if failed and not retry:
        print(f"{failed} runs failed and are left alone; --retry takes them up again")


if __name__ == "__main__":
    sys.exit(main())
