"""Recorded steps replayed in a simulator, to check that a file was recorded in it.

Each step starts from the state on file, so that errors do not accumulate. The numbers on file are rounded, as a rule
to float32; the effect of that rounding on a step is measured where it matters, by replaying the step from states that
would have been rounded to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from iql.envs.verification.adroit_scenes import SCENES
from iql.envs.verification.recording import Recording, reward_shift, unwrapped

TOLERANCE = 1e-5
"""Largest error of a step that counts as agreement, see `error`. Measured on float32 states: 99 of 100 steps of hopper,
halfcheetah, walker2d, ant, maze2d and the hands stay below 6e-6."""

REDRAWS = 16
"""How often a step above TOLERANCE is replayed with its state and action changed within their rounding."""

SLACK = 10.0
"""An error is explained by rounding if it is at most this many times the largest change among the redraws."""

SENSITIVE_SHARE = 0.05
"""Where a larger share of the steps is above TOLERANCE, rounding is no explanation: it affects few steps."""

BREAK = 2.0
"""A recorded successor more than this many times as far away as the simulator's longest step is another episode's."""

BREAK_SHARE = 0.02
"""Where a larger share of the steps would be such breaks, they count as steps."""

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Errors:
    """The errors of N steps, each the largest of its entries (see `error`).

    rows         [N] int: the rows that were stepped from
    state        [N]; observation [N]; reward [N], or None where the goal of the rewards is not on file
    unexplained  [N] bool: above TOLERANCE, and not explained by rounding
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
        """Whether every step agrees with the simulator within the precision of the file."""
        return not self.unexplained.any()

    def parts(self) -> dict[str, np.ndarray]:
        """The errors of state, observation and reward, without the breaks: each [N']."""
        found = {"state": self.state, "observation": self.observation, "reward": self.reward}
        return {name: values[~self.breaks] for name, values in found.items() if values is not None}


def error(ours: np.ndarray, recorded: np.ndarray) -> float:
    """The largest |ours − recorded| / max(1, |recorded|): absolute for small numbers, relative for large ones,
    since half a unit in the last place of a float32 is 3e-5 for a body that is 500 m away.
    """
    return float(np.max(np.abs(ours - recorded) / np.maximum(1.0, np.abs(recorded))))


def compare(
    recording: Recording,
    rows: np.ndarray,
    physics: str = "d4rl",
    progress: Progress = iter,
    stepper: Stepper | None = None,
) -> Errors:
    """Replay the steps from `rows` [N] in this package's simulator, or by another `stepper`.

    progress wraps the iteration over the rows.
    """
    stepper = stepper or Stepper(recording, physics)
    state, observation = np.empty(len(rows)), np.empty(len(rows))
    reward = np.empty(len(rows)) if stepper.rewarded else None
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
    if unexplained.mean() <= stepper.sensitive_share:
        for index in np.flatnonzero(unexplained).tolist():
            unexplained[index] = not worst[index] <= SLACK * stepper.spread(rows[index])
    return Errors(rows, state, observation, reward, unexplained, breaks)


@dataclass(frozen=True)
class Successor:
    """The result of a step: state [nq + nv], observation [observation_dim], reward (NaN where not known)."""

    state: np.ndarray
    observation: np.ndarray
    reward: np.ndarray

    def distance(self, other: Successor) -> float:
        """The largest error of any part that both have."""
        parts = [error(self.state, other.state), error(self.observation, other.observation)]
        return max([*parts, error(self.reward, other.reward)] if np.isfinite(other.reward) else parts)


class Stepper:
    """This package's simulator, set to the states of a recording one after the other.

    rewarded         whether the reward of a step is on file
    sensitive_share  SENSITIVE_SHARE of this simulator
    """

    sensitive_share = SENSITIVE_SHARE

    def __init__(self, recording: Recording, physics: str) -> None:
        self._recording = recording
        self.rewarded = reward_shift(recording.simulator) is not None
        self._env = unwrapped(recording.simulator, physics)
        self._set_scene = SCENES.get(recording.simulator)
        self._scene_of: int | None = None  # first row of the episode whose scene is set up
        self._draws = np.random.default_rng(0)

    def step(self, row: int, perturbed: bool = False) -> Successor:
        """The result of the row's action in the row's state; `perturbed`: both changed within their rounding."""
        recording, env = self._recording, self._env
        convert = self._perturbed if perturbed else _exact
        start = int(recording.starts[row])
        if self._set_scene is not None and (perturbed or self._scene_of != start):
            env.set_state(convert(recording.qpos[start]), convert(recording.qvel[start]))
            self._set_scene(env, convert(recording.observations[start]))
            self._scene_of = None if perturbed else start
        torso = self._torso_before(row) if recording.simulator == "ant" and row > start else None
        env.set_state(convert(recording.qpos[row]), convert(recording.qvel[row]))
        if torso is not None:
            env.data.body("torso").xpos[:] = torso
        action = recording.actions[row]  # a simulator does its arithmetic on it in the precision of the file
        observation, reward, *_ = env.step(convert(action) if perturbed else action)
        return Successor(_state(env), observation, np.asarray(reward, dtype=float))

    def recorded(self, row: int) -> Successor:
        """The result of the step on file."""
        recording, shift = self._recording, reward_shift(self._recording.simulator)
        state = np.concatenate([recording.qpos[row + 1], recording.qvel[row + 1]]).astype(float)
        reward = np.nan if shift is None else recording.rewards[row + shift]
        return Successor(state, recording.observations[row + 1].astype(float), np.asarray(reward, dtype=float))

    def spread(self, row: int) -> float:
        """The largest distance of REDRAWS perturbed steps from the step itself: the effect of rounding alone."""
        plain = self.step(row)
        return max(self.step(row, perturbed=True).distance(plain) for _ in range(REDRAWS))

    def _torso_before(self, row: int) -> np.ndarray:
        """The torso's position that ant-v2's reward of the row's step is measured from.

        It dates from the last evaluation of forces, so that the state does not determine it, but the previous step.
        """
        recording = self._recording
        self._env.set_state(_exact(recording.qpos[row - 1]), _exact(recording.qvel[row - 1]))
        self._env.step(recording.actions[row - 1])
        return self._env.data.body("torso").xpos.copy()

    def _perturbed(self, values: np.ndarray) -> np.ndarray:
        """`values` and up to half a unit in their last place."""
        if values.dtype.kind != "f":
            return _exact(values)
        return _exact(values) + np.spacing(values) * self._draws.uniform(-0.5, 0.5, values.shape)


def _exact(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


def _state(env: Any) -> np.ndarray:
    return np.concatenate([env.data.qpos, env.data.qvel])


def likely_cause(recording: Recording, errors: Errors, physics: str) -> str:
    """The most likely cause of steps that do not agree, for a message."""
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
