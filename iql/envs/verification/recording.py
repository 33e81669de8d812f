"""The steps of a data file that can be replayed in a simulator: states, actions and what followed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from iql.dataset_files import npz
from iql.dataset_files.rows import Rows
from iql.envs.registry import make
from iql.errors import UserError


@dataclass(frozen=True)
class Recording:
    """The part of a file that can be replayed; arrays as on file.

    qpos, qvel    [R, nq] and [R, nv]: the simulator's state before the row's action
    observations  [R, observation_dim]
    actions       [R, action_dim]
    rewards       [R], each of the step that `reward_shift` says; not compared of OGBench's
    starts        [R] int: the first row of the row's episode
    steps         [S] int: rows whose successor is the next row
    button_states [R, buttons] int, of OGBench's tasks with buttons
    """

    simulator: str
    qpos: np.ndarray
    qvel: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    starts: np.ndarray
    steps: np.ndarray
    button_states: np.ndarray | None = None


def read(path: Path, simulator: str, rows: Rows) -> Recording:
    """The states and steps of a file in D4RL's layout, whose `rows` have been read and checked already.

    antmaze's states are its observations: D4RL's generator of that data (Farama-Foundation/D4RL,
    scripts/generation/generate_ant_maze_datasets.py) stores infos/qpos after the row's step, not before.
    Raises UserError for a file without states, or with those of another simulator.
    """
    if simulator.startswith("kitchen"):
        raise UserError(
            f"{path}: kitchen's files hold no simulator states and its observations are noisy, so that no step can be "
            "replayed"
        )
    with h5py.File(path, "r", locking=False) as file:
        keys = {"observations", "actions", "rewards"}
        observed = simulator.startswith("antmaze-")
        keys |= set() if observed else {"infos/qpos", "infos/qvel"}
        if missing := sorted(key for key in keys if key not in file):
            raise UserError(
                f"{path} has no {', '.join(missing)}: without the simulator's states no step can be replayed"
            )
        columns = {key: file[key][:] for key in keys}
    model = unwrapped(simulator, "d4rl").model
    if observed:
        columns["infos/qpos"], columns["infos/qvel"] = np.split(columns["observations"], [model.nq], axis=1)
    for key, width in (("infos/qpos", model.nq), ("infos/qvel", model.nv)):
        if columns[key].shape != (len(rows), width):
            raise UserError(
                f"{path}: {key} is {list(columns[key].shape)} where {simulator} has [{len(rows)}, {width}]: the data "
                "was recorded in another simulator"
            )
    states = np.isfinite(columns["infos/qpos"]).all(1) & np.isfinite(columns["infos/qvel"]).all(1)
    ends = (rows.terminals | rows.timeouts)[:-1]
    steps = np.flatnonzero(~ends & states[:-1] & states[1:])
    if not len(steps):
        raise UserError(f"{path}: no row with a finite state is followed by another one of its episode")
    return Recording(
        simulator,
        columns["infos/qpos"],
        columns["infos/qvel"],
        columns["observations"],
        columns["actions"],
        columns["rewards"].reshape(-1),
        np.maximum.accumulate(np.concatenate([[0], np.where(ends, np.arange(1, len(rows)), 0)])),
        steps,
    )


def read_archive(path: Path, task: str, rows: Rows) -> Recording:
    """The states and steps of a file in OGBench's layout, whose `rows` have been read and checked already.

    Raises UserError for a file without velocities.
    """
    with npz.opened(path) as file:
        if "qvel" not in file:
            raise UserError(f"{path} has no qvel: without the simulator's states no step can be replayed")
        qpos, qvel = file["qpos"], file["qvel"]
        buttons = file.get("button_states")
        observations, actions = file["observations"], file["actions"]
    ends = rows.timeouts[:-1]
    steps = np.flatnonzero(~ends)
    if "teleport" in task:  # where a hole leads to is drawn at random
        steps = steps[np.abs(qpos[steps + 1, :2] - qpos[steps, :2]).max(1) < 1]
    starts = np.maximum.accumulate(np.concatenate([[0], np.where(ends, np.arange(1, len(rows)), 0)]))
    return Recording(task, qpos, qvel, observations, actions, rows.rewards, starts, steps, buttons)


def sample(recording: Recording, count: int | None) -> np.ndarray:
    """[N] int: at most `count` rows with a successor, evenly spread over the file; None: all."""
    steps = recording.steps
    if count is None or count >= len(steps):
        return steps
    return steps[np.linspace(0, len(steps) - 1, count).round().astype(int)]


def reward_shift(simulator: str) -> int | None:
    """By how many rows a step's reward follows the step's row; None where the goal of the rewards is not on file.

    maze2d's rewards are those of the row's own position, not of its successor's; antmaze's are for a goal
    that is not on file, infos/goal being the one that the data was collected with (D4RL's
    scripts/generation/relabel_maze2d_rewards.py and relabel_antmaze_rewards.py).
    """
    if simulator.startswith("antmaze-"):
        return None
    return 1 if simulator.startswith("maze2d-") else 0


def unwrapped(simulator: str, physics: str) -> Any:
    """The simulator without Gymnasium's wrappers, reset once."""
    env = make(simulator, physics).unwrapped
    env.reset(seed=0)
    return env
