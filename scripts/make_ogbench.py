"""Make data for a task of OGBench's, with the package's own controllers, where its files cannot be downloaded.

    python scripts/make_ogbench.py cube-single-play --rows 200000
    python scripts/make_ogbench.py pointmaze-medium-navigate --rows 200000 --seed 1 --out points.npz

The file has OGBench's layout, for env.path=FILE. It lies in IQL_DATA_DIR/made (default ~/.cache/iql/made) unless --out
names it. Made once, it is found by the same command, which also goes on after a kill. Exit code 1 for an error, 130
after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="cube-single-play or pointmaze-medium-navigate")
    parser.add_argument("--rows", type=int, required=True, help="states, rounded up to whole episodes of 1,001")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another data set (default 0)")
    parser.add_argument("--out", metavar="FILE", help="the file, in place of one in the cache")
    arguments = parser.parse_args()
    received = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    from iql.commands.exit_codes import exit_code_of

    def make() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        from iql.tasks.made_ogbench import make_file

        path = make_file(arguments.dataset, arguments.rows, arguments.seed, arguments.out).resolve()
        task = shlex.join([f"env={arguments.dataset}-singletask-v0", f"env.path={path}"])
        print(f"{path}\npython train.py {task}")

    code = exit_code_of(make, "stopped; the same command goes on after the last finished episode")
    return 128 + received[0] if received else code


if __name__ == "__main__":
    sys.exit(main())
