"""Repeat a dataset's recorded steps in our simulator: do data and simulator belong together?

    python scripts/verify.py hopper-medium-v2
    python scripts/verify.py hopper-medium-expert-v2 my.hdf5 --steps all
    python scripts/verify.py hopper-medium-v2 --physics gymnasium
    python scripts/verify.py cube-single-play-singletask-v0

Every step starts from the state on file (infos/qpos, infos/qvel; of OGBench's qpos, qvel), so that errors do not
grow. Printed are the errors of the next state, observation and reward, and a verdict. Exit code 1 if they do not agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial

import numpy as np
from tqdm import tqdm

from iql.commands.exit_codes import exit_code_of
from iql.config import task_configs
from iql.envs.d4rl.physics import PROFILES, facts
from iql.envs.verification import step_replay
from iql.envs.verification.ogbench_steps import OGBenchStepper
from iql.envs.verification.recording import read, read_archive, sample
from iql.errors import UserError
from iql.tasks.ogbench import OGBenchTask

STEPS = 10_000

ANOTHER = "another environment or version of it, states of other rows, or actions that were changed after recording"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", metavar="NAME", help="a task of D4RL's or OGBench's, whose simulator repeats them")
    parser.add_argument("file", metavar="FILE", nargs="?", help="a file in its layout; default: the task's own")
    parser.add_argument(
        "--steps", default=str(STEPS), help="how many, spread evenly over the file, or all (%(default)s)"
    )
    parser.add_argument("--physics", choices=PROFILES, default="d4rl", help="the simulator's physics (%(default)s)")
    options = parser.parse_args()
    return exit_code_of(
        lambda: verify(options.name, options.file, _count(options.steps), options.physics), "interrupted"
    )


def verify(name: str, file: str | None, count: int | None, physics: str) -> int:
    """Print the errors and the verdict; returns the exit code."""
    names = task_configs.matching(name)
    if len(names) > 1 or names[0] in task_configs.OWN_DATA:
        raise UserError(
            f"{name} is not one task of D4RL's or OGBench's: name the one whose simulator is to take the steps"
        )
    (node,) = task_configs.settings([(name, ())])
    task = task_configs.task({**node, "path": file})
    rows, path = task.read()
    stepper: OGBenchStepper | None = None
    if isinstance(task, OGBenchTask):
        recording = read_archive(path, task.dataset, rows)
        stepper, simulator = OGBenchStepper(recording, task.dataset), task.simulator_facts()
    else:
        recording = read(path, task.simulator, rows)
        simulator = facts(physics, task.simulator)
    chosen = sample(recording, count)
    print(f"{name}: {path}, {len(rows):,} rows, states as {recording.qpos.dtype}")
    print(
        f"{len(chosen):,} of {len(recording.steps):,} steps within episodes taken again, "
        f"physics={simulator['physics']}, mujoco {simulator['mujoco']}"
    )
    errors = step_replay.compare(recording, chosen, physics, partial(_bar, total=len(chosen)), stepper)
    print(table(errors))
    if not errors.agree:
        print(f"DIFFERENT: {errors.unexplained.sum():,} of {len(chosen):,} steps do not agree", flush=True)
        cause = ANOTHER if stepper else step_replay.likely_cause(recording, errors, physics)
        print(f"suspect: {cause}")
        return 1
    print(f"agree: every step to {step_replay.TOLERANCE:g}{_remarks(errors)}")
    return 0


def table(errors: step_replay.Errors) -> str:
    """Median, 99 % quantile and maximum of each error, with the row of the maximum."""
    lines = [f"{'error':12}{'median':>10}{'99 %':>10}{'largest':>10}   from row"]
    rows = errors.rows[~errors.breaks]
    for part, values in errors.parts().items():
        middle, high, top = np.quantile(values, [0.5, 0.99, 1.0])
        lines.append(f"{part:12}{middle:10.1e}{high:10.1e}{top:10.1e}   {rows[values.argmax()]:,}")
    if errors.reward is None:
        lines.append("reward      not compared: the file does not hold the goal that its rewards are for")
    return "\n".join(lines)


def _remarks(errors: step_replay.Errors) -> str:
    """What a reader must know besides that the steps agree."""
    worst = np.max(list(errors.parts().values()), axis=0)
    sensitive = int((worst > step_replay.TOLERANCE).sum())
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
