"""Submit many runs: compose and check them all, group them into jobs, hand the jobs to a launcher, return.

python sweep.py env=hopper-medium-v2,walker2d-medium-v2 algorithm.tau=0.5,0.7,0.9 'seed=range(0,10)' launcher=slurm
python sweep.py sweep=locomotion launcher=slurm launcher.partition=gpu --dry-run

The same command again submits what is neither done nor running nor waiting.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from hydra.utils import instantiate

from iql.commands.exit_codes import exit_code_of
from iql.commands.usage import quoted_paths, usage
from iql.config import folders
from iql.config.trust import LAUNCHERS
from iql.errors import UserError
from iql.launching import plan, status_tables
from iql.launching.grids import command, grid
from iql.launching.ledger import Ledger
from iql.launching.status import FAILED, UNKNOWN, RunStatus, StatusReader
from iql.launching.submission import submit


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="An OVERRIDE is what train.py takes, in Hydra's multirun grammar (a,b  choice()  range()  glob()); "
        "sweep=NAME, a named sweep of conf/sweep; launcher=local or slurm and launcher.KEY=VALUE, the settings of "
        "conf/launcher; sweep.name=NAME, the folder within runs/.",
    )
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="key=value, as train.py takes it")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and submit nothing")
    parser.add_argument("--retry", action="store_true", help="submit failed runs again too")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder of your own, searched after conf/")
    options = parser.parse_args()
    return exit_code_of(lambda: sweep(options), "interrupted; the same command goes on")


def sweep(options: argparse.Namespace) -> None:
    """Plan the sweep, show the plan, and submit what is to be trained. Raises UserError."""
    if options.config_dir is not None:
        folders.add(options.config_dir)
    dry_run, retry = options.dry_run, options.retry
    asked = command.read(quoted_paths(options.overrides))
    launcher = instantiate(asked.launcher, _convert_="all")
    if not dry_run:
        launcher.check()
    datasets = plan.Datasets()
    runs = plan.planned(grid.expand(asked.overrides, folders.CONF), datasets)
    if not dry_run:
        datasets.check()
    folder = plan.sweep_folder(runs[0].run)
    ledger = Ledger(folder)
    with contextlib.nullcontext() if dry_run else ledger.lock():
        reader = StatusReader(ledger, LAUNCHERS | {asked.launcher["_target_"]})
        statuses = reader.statuses([each.run.id for each in runs], use_cache=False)
        chosen = plan.to_train(statuses, runs, retry)
        packs = plan.packs(runs, chosen, statuses, launcher)
        show(runs, chosen, packs, statuses, folder, retry)
        for line in [*reader.notes, *(f"not in the cache: {name}" for name in datasets.missing)]:
            print(line)
        unknown = sum(statuses[each.run.id].state == UNKNOWN for each in runs)
        if unknown and not dry_run:
            raise UserError(f"{'; '.join(reader.notes)}; nothing was submitted")
        if dry_run or not packs:
            return
        submit(ledger, asked.launcher, plan.jobs(packs))
    print(f"submitted {len(packs)} jobs; this command has ended, and they go on without it")
    print(usage(f"  python scripts/status.py {folder} --watch   # their state"))


def show(
    runs: list[plan.PlannedRun],
    chosen: list[plan.PlannedRun],
    packs: list[list[plan.PlannedRun]],
    statuses: dict[str, RunStatus],
    folder: Path,
    retry: bool,
) -> None:
    """Print the plan."""
    ids = [each.run.id for each in runs]
    console = status_tables.console()
    console.print(status_tables.configurations(statuses, ids))
    console.print(status_tables.totals(statuses, ids))
    kept, passing = (size / 2**30 for size in plan.disk(chosen))
    free = plan.free_disk(folder) / 2**30
    sizes = sorted({len(pack) for pack in packs})
    of = f" of {sizes[0]}{f' to {sizes[-1]}' if len(sizes) > 1 else ''}" if packs else ""
    print(f"to train: {len(chosen)} runs in {len(packs)} jobs{of}")
    if chosen:
        print(
            f"disk: about {kept:.2f} GiB in {folder} in the end, {passing:.2f} more while training; {free:.0f} are free"
        )
    if kept > free:
        print("that disk is too small for them: free some, or choose another with runs=")
    failed = sum(statuses[run].state == FAILED for run in ids)
    if failed and not retry:
        print(f"{failed} runs failed and are not submitted; --retry submits them again")
