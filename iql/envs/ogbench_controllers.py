"""Episodes of OGBench's environments with the package's own controllers, as OGBench's datasets are recorded.

Its package has the controllers but not the programs that record with them (data_gen_scripts of its repository, which
are the source of the numbers below).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from iql.envs.ogbench import imported
from iql.errors import UserError

EPISODE_ROWS = 1001
"""States of an episode; the last one has no successor."""

PLAN_NOISE, PLAN_SMOOTHING = 0.1, 0.5
"""Of the arm's plans: size of their noise, and the standard deviation of its smoothing in steps."""

WALK_NOISE = 0.5
"""Standard deviation of the noise on each entry of a point's action."""


class Recorder:
    """Records episodes of a dataset, cube-single-play or pointmaze-medium-navigate.

    An episode depends on its seed and number alone, whatever was recorded before. episode_rows: its states, as many as
    EPISODE_ROWS where OGBench's files are wanted. Raises UserError for another dataset and without the package.
    """

    def __init__(self, dataset: str, episode_rows: int = EPISODE_ROWS) -> None:
        self._controller = controllers(dataset)(episode_rows)

    def episode(self, seed: int, number: int) -> dict[str, np.ndarray]:
        """The columns of an episode, in the layout of OGBench's files.

        observations [R, obs_dim], actions [R, act_dim], qpos [R, nq] and qvel [R, nv], float32, of the state before a
        step; terminals [R] bool, True in the last row.
        """
        controller = self._controller
        rows: dict[str, list[Any]] = {}
        of_start, of_controller, of_package = np.random.SeedSequence([seed, number]).generate_state(3).tolist()
        with _global_random_numbers(of_package):
            observation, info = controller.start(of_start, np.random.default_rng(of_controller))
            done = False
            while not done:
                action = np.clip(controller.action(observation, info), -1, 1)
                after, _, terminated, truncated, info = controller.env.step(action)
                done = terminated or truncated
                controller.stepped(info)
                row = {"observations": observation, "actions": action, "terminals": done}
                for name, value in (row | {name: info[f"prev_{name}"] for name in ("qpos", "qvel")}).items():
                    rows.setdefault(name, []).append(value)
                observation = after
        return {name: np.array(of, bool if name == "terminals" else np.float32) for name, of in rows.items()}


class _Arm:
    """A robot arm that brings the cube to one random place after another, on plans made before (cube-single-play)."""

    def __init__(self, episode_rows: int) -> None:
        name = "cube-single-v0"
        with imported(name):
            from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

            self.env = _made(name, episode_rows, mode="data_collection")
        self._plan = CubePlanOracle(env=self.env, noise=PLAN_NOISE, noise_smoothing=PLAN_SMOOTHING)

    def start(self, seed: int, draws: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        """The first observation and its facts."""
        observation, info = self.env.reset(seed=seed)
        self._plan.reset(observation, info)
        return observation, info

    def action(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The action [5] before clipping."""
        return np.array(self._plan.select_action(observation, info))

    def stepped(self, info: dict[str, Any]) -> None:
        """After a step: a new place and a plan, once a plan is at its end."""
        if self._plan.done:
            self._plan.reset(*_base(self.env).set_new_target())


class _Point:
    """A point that walks from cell to cell to one random goal after another (pointmaze-medium-navigate)."""

    def __init__(self, episode_rows: int) -> None:
        name = "pointmaze-medium-v0"
        with imported(name):
            self.env = _made(name, episode_rows)
            self._maze = _base(self.env)
        free = self._maze.maze_map == 0
        self._starts = [(int(row), int(column)) for row, column in np.argwhere(free)]
        self._goals = [cell for cell in self._starts if not _is_hallway(free, *cell)]

    def start(self, seed: int, draws: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        """The first observation and its facts."""
        self._draws = draws
        cells = {"init_ij": _one_of(self._starts, draws), "goal_ij": _one_of(self._goals, draws)}
        self.env.action_space.seed(seed)  # a reset takes random steps first
        return self.env.reset(seed=seed, options={"task_info": cells})

    def action(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The action [2] before clipping: the direction to the next cell on the shortest way, with noise."""
        here = self._maze.get_xy()
        cell, _ = self._maze.get_oracle_subgoal(here, self._maze.cur_goal_xy)
        way = cell - here
        return way / (np.linalg.norm(way) + 1e-6) + self._draws.normal(0, WALK_NOISE, way.shape)

    def stepped(self, info: dict[str, Any]) -> None:
        """After a step: a new goal, once the goal is reached."""
        if info["success"]:
            centre = self._maze.ij_to_xy(_one_of(self._goals, self._draws))
            # By its position: given a cell, the package sets the position of the goal's drawing to NaN.
            self._maze.set_goal(goal_xy=self._maze.add_noise(centre))


_CONTROLLERS: dict[str, type[_Arm] | type[_Point]] = {"cube-single-play": _Arm, "pointmaze-medium-navigate": _Point}

DATASETS = tuple(_CONTROLLERS)
"""The datasets that can be recorded; OGBench's others need trained experts, or are not here."""


def controllers(dataset: str) -> type[_Arm] | type[_Point]:
    """The class that steps a dataset's environment. Raises UserError for a dataset that cannot be recorded."""
    if dataset not in _CONTROLLERS:
        raise UserError(f"{dataset} cannot be made; data can be made for {' and '.join(DATASETS)}")
    return _CONTROLLERS[dataset]


def _made(name: str, episode_rows: int, **options: Any) -> gymnasium.Env:
    """An environment whose episodes end by their length alone."""
    return gymnasium.make(
        name, terminate_at_goal=False, max_episode_steps=episode_rows, disable_env_checker=True, **options
    )


def _base(env: gymnasium.Env) -> Any:
    """The package's own object, which has more methods than Gymnasium's interface."""
    return env.unwrapped


def _one_of(cells: list[tuple[int, int]], draws: np.random.Generator) -> tuple[int, int]:
    return cells[draws.integers(len(cells))]


def _is_hallway(free: np.ndarray, row: int, column: int) -> bool:
    """Whether a cell only leads straight on: free on two opposite sides, with walls on the others."""
    vertical = free[row - 1, column], free[row + 1, column]
    horizontal = free[row, column - 1], free[row, column + 1]
    return (all(vertical) and not any(horizontal)) or (all(horizontal) and not any(vertical))


@contextmanager
def _global_random_numbers(seed: int) -> Iterator[None]:
    """NumPy's global generator, from which the package draws, begins with `seed` within; after it is as before."""
    outside = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(outside)
