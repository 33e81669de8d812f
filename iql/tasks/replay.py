"""Recorded steps taken again: whether a file's data and our simulator belong together.

Each step starts from the state on file, so that errors do not grow from one to the next. A file holds its
numbers rounded, to float32 as a rule; what that rounding alone does to a step is measured where it matters,
by taking the step again from states that would have been rounded to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from iql.errors import UserError
from iql.tasks.rows import Rows
from iql.tasks.scenes import SCENES
from iql.tasks.simulators import make

TOLERANCE = 1e-5
"""Largest error of a step that counts as none, see `error`. Measured on float32 states: 99 of 100 steps of hopper,
halfcheetah, walker2d, ant, maze2d and the hands stay below 6e-6."""

REDRAWS = 16
"""Times that a step above TOLERANCE is taken again, its state and action changed by what rounding hides."""

SLACK = 10.0
"""An error is rounding's if it is at most so many times the largest change among the redraws."""

SENSITIVE_SHARE = 0.05
"""Where more of the steps than this are above TOLERANCE, rounding is not asked: it does so to few."""

BREAK = 2.0
"""A recorded successor this many times further away than any step of the simulator leads is another episode's."""

BREAK_SHARE = 0.02
"""Where more of the steps than this would be such breaks, they count as steps."""

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Recording:
    """What of a file can be replayed; arrays as on file.

    qpos, qvel    [R, nq] and [R, nv]: the simulator's state before the row's action
    observations  [R, observation_dim]
    actions       [R, action_dim]
    rewards       [R], each of the step that `reward_shift` says
    starts        [R] int: the first row of the row's episode
    steps         [S] int: rows whose successor is the next row
    """

    simulator: str
    qpos: np.ndarray
    qvel: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    starts: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class Errors:
    """The errors of N steps, each the largest of its entries (see `error`).

    rows         [N] int: the rows that were stepped from
    state        [N]; observation [N]; reward [N], or None where the file does not say what it rewards
    unexplained  [N] bool: above TOLERANCE, and more than rounding makes of it
    breaks       [N] bool: steps whose recorded successor belongs to another episode
    """

    rows: np.ndarray
    state: np.ndarray
    observation: np.ndarray
    reward: np.ndarray | None
    unexplained: np.ndarray
    breaks: np.ndarray

    @property
    def agree(self) -> bool:
        """Whether every step is the simulator's, as far as rounding lets one see."""
        return not self.unexplained.any()

    def parts(self) -> dict[str, np.ndarray]:
        """The errors by what they are of, without the breaks: each [N']."""
        found = {"state": self.state, "observation": self.observation, "reward": self.reward}
        return {name: values[~self.breaks] for name, values in found.items() if values is not None}


def error(ours: np.ndarray, recorded: np.ndarray) -> float:
    """The largest |ours − recorded| / max(1, |recorded|): absolute for small numbers, relative for large ones,
    since half a unit in the last place of a float32 is 3e-5 for a body that is 500 m away.
    """
    return float(np.max(np.abs(ours - recorded) / np.maximum(1.0, np.abs(recorded))))


def read(path: Path, simulator: str, rows: Rows) -> Recording:
    """The states and steps of a file in D4RL's layout, whose `rows` have been read and checked already.

    antmaze's states are its observations: D4RL's generator of that data (Farama-Foundation/D4RL,
    scripts/generation/generate_ant_maze_datasets.py) stores infos/qpos after the row's step, not before.
    Raises UserError for a file without states, or with those of another simulator.
    """
    if simulator.startswith("kitchen"):
        raise UserError(
            f"{path}: kitchen's files hold no simulator states and its observations are noisy, so that no step can be "
            "taken again"
        )
    with h5py.File(path, "r", locking=False) as file:
        keys = {"observations", "actions", "rewards"}
        observed = simulator.startswith("antmaze-")
        keys |= set() if observed else {"infos/qpos", "infos/qvel"}
        if missing := sorted(key for key in keys if key not in file):
            raise UserError(
                f"{path} has no {', '.join(missing)}: without the simulator's states no step can be taken again"
            )
        columns = {key: file[key][:] for key in keys}
    model = _unwrapped(simulator, "d4rl").model
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


def sample(recording: Recording, count: int | None) -> np.ndarray:
    """[N] int: at most `count` rows with a successor, evenly spread over the file; None: all."""
    steps = recording.steps
    if count is None or count >= len(steps):
        return steps
    return steps[np.linspace(0, len(steps) - 1, count).round().astype(int)]


def compare(recording: Recording, rows: np.ndarray, physics: str = "d4rl", progress: Progress = iter) -> Errors:
    """Take the steps from `rows` [N] again in our simulator; `progress` wraps the rows on their way."""
    stepper = Stepper(recording, physics)
    shift = reward_shift(recording.simulator)
    state, observation = np.empty(len(rows)), np.empty(len(rows))
    reward = np.empty(len(rows)) if shift is not None else None
    moved, recorded_move = np.empty(len(rows)), np.empty(len(rows))
    for index, row in enumerate(progress(rows.tolist())):
        ours, successor = stepper.step(row), stepper.recorded(row)
        state[index] = error(ours.state, successor.state)
        observation[index] = error(ours.observation, successor.observation)
        if reward is not None:
            reward[index] = error(ours.reward, successor.reward)
        start = recording.qpos[row].astype(np.float64)
        moved[index] = np.abs(ours.state[: len(start)] - start).max()
        recorded_move[index] = np.abs(successor.state[: len(start)] - start).max()
    worst = np.maximum(state, observation) if reward is None else np.maximum(np.maximum(state, observation), reward)
    above = ~(worst <= TOLERANCE)  # a NaN is above
    breaks = above & (recorded_move > BREAK * np.nanmax(moved))
    if breaks.mean() > BREAK_SHARE:
        breaks = np.zeros(len(rows), bool)
    unexplained = above & ~breaks
    if unexplained.mean() <= SENSITIVE_SHARE:
        for index in np.flatnonzero(unexplained).tolist():
            unexplained[index] = not worst[index] <= SLACK * stepper.spread(rows[index])
    return Errors(rows, state, observation, reward, unexplained, breaks)


def reward_shift(simulator: str) -> int | None:
    """How many rows after a step's row its reward stands; None where the file does not say what it rewards.

    maze2d's rewards are those of the row's own position, not of its successor's; antmaze's are those of a goal
    that the file does not hold, infos/goal being the one that the data was collected with (D4RL's
    scripts/generation/relabel_maze2d_rewards.py and relabel_antmaze_rewards.py).
    """
    if simulator.startswith("antmaze-"):
        return None
    return 1 if simulator.startswith("maze2d-") else 0


@dataclass(frozen=True)
class Successor:
    """What follows a step: state [nq + nv], observation [observation_dim], reward (NaN where not known)."""

    state: np.ndarray
    observation: np.ndarray
    reward: np.ndarray

    def distance(self, other: Successor) -> float:
        """The largest error of any part that both have."""
        parts = [error(self.state, other.state), error(self.observation, other.observation)]
        return max([*parts, error(self.reward, other.reward)] if np.isfinite(other.reward) else parts)


class Stepper:
    """Our simulator, put into a recording's states one after the other."""

    def __init__(self, recording: Recording, physics: str) -> None:
        self._recording = recording
        self._env = _unwrapped(recording.simulator, physics)
        self._set_scene = SCENES.get(recording.simulator)
        self._scene_of: int | None = None  # first row of the episode whose scene stands
        self._draws = np.random.default_rng(0)

    def step(self, row: int, blurred: bool = False) -> Successor:
        """Where the row's action leads from the row's state; `blurred`: both changed by what rounding hides."""
        recording, env = self._recording, self._env
        take = self._blurred if blurred else _exact
        start = int(recording.starts[row])
        if self._set_scene is not None and (blurred or self._scene_of != start):
            env.set_state(take(recording.qpos[start]), take(recording.qvel[start]))
            self._set_scene(env, take(recording.observations[start]))
            self._scene_of = None if blurred else start
        torso = self._torso_before(row) if recording.simulator == "ant" and row > start else None
        env.set_state(take(recording.qpos[row]), take(recording.qvel[row]))
        if torso is not None:
            env.data.body("torso").xpos[:] = torso
        action = recording.actions[row]  # a simulator does its arithmetic on it in the precision of the file
        observation, reward, *_ = env.step(take(action) if blurred else action)
        return Successor(_state(env), observation, np.asarray(reward, dtype=float))

    def recorded(self, row: int) -> Successor:
        """Where the file says that it led."""
        recording, shift = self._recording, reward_shift(self._recording.simulator)
        state = np.concatenate([recording.qpos[row + 1], recording.qvel[row + 1]]).astype(float)
        reward = np.nan if shift is None else recording.rewards[row + shift]
        return Successor(state, recording.observations[row + 1].astype(float), np.asarray(reward, dtype=float))

    def spread(self, row: int) -> float:
        """How far REDRAWS blurred steps lead from the step itself at most: what rounding alone may do."""
        plain = self.step(row)
        return max(self.step(row, blurred=True).distance(plain) for _ in range(REDRAWS))

    def _torso_before(self, row: int) -> np.ndarray:
        """Where ant-v2 takes its torso to be before the row's step, which its reward counts from.

        That is as old as the last evaluation of forces, so that the state alone does not tell: the step
        before leaves it behind.
        """
        recording = self._recording
        self._env.set_state(_exact(recording.qpos[row - 1]), _exact(recording.qvel[row - 1]))
        self._env.step(recording.actions[row - 1])
        return self._env.data.body("torso").xpos.copy()

    def _blurred(self, values: np.ndarray) -> np.ndarray:
        """`values` and up to half a unit in their last place."""
        if values.dtype.kind != "f":
            return _exact(values)
        return _exact(values) + np.spacing(values) * self._draws.uniform(-0.5, 0.5, values.shape)


def _exact(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


def _unwrapped(simulator: str, physics: str) -> Any:
    env = make(simulator, physics).unwrapped
    env.reset(seed=0)
    return env


def _state(env: Any) -> np.ndarray:
    return np.concatenate([env.data.qpos, env.data.qvel])


def suspicion(recording: Recording, errors: Errors, physics: str) -> str:
    """What most likely is the matter with steps that do not agree."""
    few = errors.rows[:: max(1, len(errors.rows) // 500)]
    for other in ("d4rl", "gymnasium"):
        if other != physics and compare(recording, few, other).agree:
            return f"the steps agree with physics={other}: the file was recorded there"
    wrong = {name: bool((~(values <= TOLERANCE)).any()) for name, values in errors.parts().items()}
    if not wrong["state"]:
        if not wrong["observation"]:
            return "states and observations agree: the rewards are another version's, or were changed after recording"
        if not wrong.get("reward"):
            return "states and rewards agree: the observations are another version's, or were normalised"
        return "states agree: observations and rewards are another version's, or were changed after recording"
    share = errors.unexplained.mean()
    if share <= BREAK_SHARE:
        return (
            f"only {share:.2%} of the steps: ends of episodes that neither terminals nor timeouts mark, or rows that "
            "were changed"
        )
    actions = recording.actions[errors.rows]
    bound = float((np.abs(actions) >= 1).mean())
    return (
        "another version of the task, other masses or another time step, states of other rows, or actions that were "
        f"scaled or clipped after recording ({bound:.0%} of their entries are at ±1 or beyond)"
    )
