"""Small files in the layout of OGBench's, recorded in its own environments with its own controllers where it has them.

The loop is that of OGBench's data_gen_scripts (generate_locomaze.py, generate_manipspace.py), which its package lacks.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ogbench  # noqa: F401
    from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
    from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

FAMILIES = (
    "antmaze-large-navigate",
    "antmaze-giant-navigate",
    "humanoidmaze-medium-navigate",
    "humanoidmaze-large-navigate",
    "antsoccer-arena-navigate",
    "cube-single-play",
    "cube-double-play",
    "scene-play",
    "puzzle-3x3-play",
    "puzzle-4x4-play",
)
"""OGBench's datasets of states, each with five standard tasks."""

STEPS, EPISODES = 40, 4

ORACLES = {
    "cube": CubeMarkovOracle,
    "button": ButtonMarkovOracle,
    "drawer": DrawerMarkovOracle,
    "window": WindowMarkovOracle,
}


def make(path: Path, dataset: str, steps: int = STEPS, episodes: int = EPISODES, seed: int = 0) -> Path:
    """A file of the dataset (cube-single-play-v0) with `episodes` trajectories of steps + 1 states each."""
    name = "-".join(word for word in dataset.split("-") if word not in ("navigate", "play", "noisy"))
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            columns = _recorded(name, steps, episodes, seed)
    finally:
        np.random.set_state(before)
    np.savez_compressed(path, **columns)
    return path


def _recorded(name: str, steps: int, episodes: int, seed: int) -> dict[str, np.ndarray]:
    walks = "maze" in name or "soccer" in name
    options: dict[str, Any] = {} if walks else {"mode": "data_collection"}
    env = gymnasium.make(
        name, terminate_at_goal=False, max_episode_steps=steps + 1, disable_env_checker=True, **options
    )
    rows: dict[str, list[Any]] = {}
    for episode in range(episodes):
        observation, info = env.reset(seed=seed + episode)
        controller = _Walker(env) if walks else _Hand(env, observation, info)
        done = False
        while not done:
            action = np.clip(controller.action(observation, info), -1, 1)
            after, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            row = {"observations": observation, "actions": action, "terminals": done}
            row |= {key: info[f"prev_{key}"] for key in ("qpos", "qvel", "button_states") if f"prev_{key}" in info}
            for key, value in row.items():
                rows.setdefault(key, []).append(np.array(value))
            observation = after
    types = {"terminals": bool, "button_states": np.int64}
    return {key: np.stack(values).astype(types.get(key, np.float32)) for key, values in rows.items()}


class _Walker:
    """Random actions; a point goes by the package's own subgoals to one free cell of the maze after the other."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._base: Any = env.unwrapped
        self._points = env.action_space.shape == (2,)
        self._goal = self._free()

    def action(self, observation: np.ndarray, info: Any) -> np.ndarray:
        if not self._points:
            return np.random.uniform(-1, 1, self._base.action_space.shape)
        here = self._base.get_xy()
        if np.linalg.norm(here - self._goal) < 1:
            self._goal = self._free()
        subgoal, _ = self._base.get_oracle_subgoal(here, self._goal)
        way = subgoal - here
        return way / max(float(np.linalg.norm(way)), 1e-6) + np.random.normal(0, 0.2, 2)

    def _free(self) -> np.ndarray:
        cells = np.argwhere(self._base.maze_map == 0)
        return np.array(self._base.ij_to_xy(tuple(cells[np.random.randint(len(cells))])))


class _Hand:
    """The package's oracle for the object whose turn it is, a new target after each."""

    def __init__(self, env: gymnasium.Env, observation: np.ndarray, info: dict[str, Any]) -> None:
        self._env = env
        self._turn(observation, info)

    def action(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        if self._oracle.done:
            observation, info = self._env.unwrapped.set_new_target()
            self._turn(observation, info)
        return np.array(self._oracle.select_action(observation, info)) + np.random.normal(0, 0.1, 5)

    def _turn(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        kind = info["privileged/target_task"]
        self._oracle = ORACLES[kind](env=self._env, min_norm=0.4)
        self._oracle.reset(observation, info)
