"""Kills trainings and makes their system calls fail, at random, and compares what is left with undisturbed twins.

python tests/storm.py                                      200 kills and 100 failing calls
python tests/storm.py --kills 20 --failures 0 --seed 1

Exit code 1 where a run or pack does not end as its twin, or a command does not end as docs/runs.md says; one line for
each fault then says what was done, and the folder is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from storm_failures import Failures, build
from storm_kills import Kills
from storm_rounds import Twins


def main() -> int:
    options = _options()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir=options.folder)).resolve()
    if options.failures:  # the commands are forks of a server that has the library preloaded
        os.environ["LD_PRELOAD"] = str(build(folder))
    twins = Twins(folder)
    storms = [Kills(twins, options.kills, options.seed), Failures(twins, options.failures, options.seed)]
    for storm in storms:
        storm.run(options.jobs)
    faults = sum(len(storm.faults) for storm in storms)
    verdict = f"{faults} faults, see {folder}" if faults else "every run equals its undisturbed twin"
    print(f"{'; '.join(storm.summary() for storm in storms)}: {verdict}")
    if not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="at least so many kills (200)")
    parser.add_argument("--failures", type=int, default=100, metavar="N", help="at least so many failing calls (100)")
    parser.add_argument("--seed", type=int, default=0, help="draws kinds of runs, weapons, moments and calls (0)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="commands side by side (2)")
    parser.add_argument("--folder", type=Path, help="where a folder for the runs is made (the system's for such)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
