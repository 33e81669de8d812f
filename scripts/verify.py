"""Take a dataset's recorded steps again in our simulator: do data and simulator belong together?

    python scripts/verify.py hopper-medium-v2
    python scripts/verify.py hopper-medium-expert-v2 my.hdf5 --steps all
    python scripts/verify.py hopper-medium-v2 --physics gymnasium

Every step starts from the state on file (infos/qpos, infos/qvel), so that errors do not grow. Printed are the
errors of the next state, observation and reward, and a verdict. Exit code 1 if they do not agree.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql import catalogue
from iql.errors import UserError
from iql.tasks import replay
from iql.tasks.physics import PROFILES, facts

STEPS = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", metavar="NAME", help="a task of D4RL's, whose simulator takes the steps")
    parser.add_argument("file", metavar="FILE", nargs="?", help="a file in D4RL's layout; default: the task's own")
    parser.add_argument(
        "--steps", default=str(STEPS), help="how many, spread evenly over the file, or all (%(default)s)"
    )
    parser.add_argument("--physics", choices=PROFILES, default="d4rl", help="the simulator's physics (%(default)s)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return verify(options.name, options.file, _count(options.steps), options.physics)
    except UserError as error:
        print(f"verify.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nverify.py: interrupted", file=sys.stderr)
        return 130


def verify(name: str, file: str | None, count: int | None, physics: str) -> int:
    """Print the errors and the verdict; returns the exit code."""
    names = catalogue.matching(name)
    if len(names) > 1 or names[0] in catalogue.OWN_DATA:
        raise UserError(f"{name} is not one task of D4RL's: name the one whose simulator is to take the steps")
    (node,) = catalogue.settings([(name, ())])
    task = catalogue.task({**node, "path": file})
    rows, path = task.read()
    recording = replay.read(path, task.simulator, rows)
    chosen = replay.sample(recording, count)
    print(f"{name}: {path}, {len(rows):,} rows, states as {recording.qpos.dtype}")
    print(
        f"{len(chosen):,} of {len(recording.steps):,} steps within episodes taken again, physics={physics}, "
        f"mujoco {facts(physics, task.simulator)['mujoco']}"
    )
    errors = replay.compare(recording, chosen, physics, partial(_bar, total=len(chosen)))
    print(table(errors))
    if not errors.agree:
        print(f"DIFFERENT: {errors.unexplained.sum():,} of {len(chosen):,} steps do not agree", flush=True)
        print(f"suspect: {replay.suspicion(recording, errors, physics)}")
        return 1
    print(f"agree: every step to {replay.TOLERANCE:g}{_remarks(errors)}")
    return 0


def table(errors: replay.Errors) -> str:
    """Median, 99 % quantile and maximum of each error, with the row of the maximum."""
    lines = [f"{'error':12}{'median':>10}{'99 %':>10}{'largest':>10}   from row"]
    rows = errors.rows[~errors.breaks]
    for part, values in errors.parts().items():
        middle, high, top = np.quantile(values, [0.5, 0.99, 1.0])
        lines.append(f"{part:12}{middle:10.1e}{high:10.1e}{top:10.1e}   {rows[values.argmax()]:,}")
    if errors.reward is None:
        lines.append("reward      not compared: the file does not hold the goal that its rewards are for")
    return "\n".join(lines)


def _remarks(errors: replay.Errors) -> str:
    """What has to be said beside an agreement."""
    worst = np.max(list(errors.parts().values()), axis=0)
    sensitive = int((worst > replay.TOLERANCE).sum())
    said = f", or ({sensitive:,} of them) to what the file's rounding does to the step" if sensitive else ""
    if breaks := int(errors.breaks.sum()):
        said += f"; {breaks:,} left out, for their next row is another episode's although the file does not mark it"
    return said


def _bar(rows: Iterable[int], total: int) -> Iterable[int]:
    return tqdm(rows, total=total, unit=" steps", disable=None)


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--steps {text}: give a number of steps, or all")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
