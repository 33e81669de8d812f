"""D4RL's maze2d (v1): a ball pushed through a maze towards one fixed goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np

from iql.envs.d4rl.mazes import MAZES, Maze, distance
from iql.envs.d4rl.physics import restore_contacts

RADIUS = 0.1
"""The ball's (m); walls keep its centre that far off."""

TOP_SPEED = 5.0
"""Velocities (m/s) are clipped to it per axis before each step."""


def mjcf(maze: Maze) -> str:
    """D4RL's model of the maze: a ball of radius .1 on two slides, driven by two motors, and box walls."""
    walls = "".join(
        f'<geom type="box" pos="{i + 1} {j + 1} 0" size=".5 .5 .2" rgba=".7 .5 .3 1"/>'
        for i, j in np.argwhere(maze.walls)
    )
    return f"""
<mujoco model="{maze.name}">
  <compiler inertiafromgeom="true" angle="radian"/>
  <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
  <default>
    <joint damping="1" limited="false"/>
    <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
  </default>
  <worldbody>
    <light pos="{maze.walls.shape[0] / 2} {maze.walls.shape[1] / 2} 10"/>
    <geom type="plane" size="40 40 .25" pos="0 0 -.1" contype="1" conaffinity="0" rgba=".2 .3 .4 1"/>
    <body name="particle" pos="1.2 1.2 0">
      <geom type="sphere" size="{RADIUS}" contype="1" rgba=".3 .6 .3 1"/>
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
    </body>
    <site pos="{maze.goal[0] + 1.2} {maze.goal[1] + 1.2} 0" size=".2" rgba=".6 .3 .3 1"/>
    {walls}
  </worldbody>
  <actuator>
    <motor joint="x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
    <motor joint="y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
  </actuator>
</mujoco>"""


def compile_model(maze: Maze, physics: str = "d4rl") -> mujoco.MjModel:
    """The maze's compiled model; with physics="d4rl" walls push back as in MuJoCo 2.1.0.

    MuJoCo 2.1.0 averages a slide-only body's inverse weight over three axes, newer versions over the
    two that it has. The correction has to follow every mj_setConst.
    """
    model = mujoco.MjModel.from_xml_string(mjcf(maze))
    if physics == "d4rl":
        model.body_invweight0[model.body("particle").id, 0] *= 2.0 / 3.0
        restore_contacts(model)
    return model


def advance(model: mujoco.MjModel, data: mujoco.MjData, action: Sequence[float] | np.ndarray) -> None:
    """One step of D4RL's maze: velocity clipped to ±5, the action [2] to ±1 (the motors' range)."""
    qvel = data.qvel
    if qvel.max() > TOP_SPEED or qvel.min() < -TOP_SPEED:
        np.clip(qvel, -TOP_SPEED, TOP_SPEED, out=qvel)
    data.ctrl[:] = action
    mujoco.mj_step(model, data)


class Maze2dEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """D4RL's maze2d: observation x, y and their velocities [4] float64, action [2].

    A step's reward is that of the position it leads to: 1 within reach of the goal, where the episode ends if
    `maze.ends` (D4RL's never do), or in a dense maze exp(−distance to the goal). An episode starts in one of
    `maze.starts` (D4RL's in any free cell, the goal's included), ±.1 around its index, at .1 · normal velocity.
    """

    def __init__(self, maze: Maze, physics: str = "d4rl"):
        self.maze = maze
        self.model = compile_model(maze, physics)
        self.data = mujoco.MjData(self.model)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        cells = np.array(self.maze.starts or self.maze.free_cells)
        cell = cells[self.np_random.integers(len(cells))]
        mujoco.mj_resetData(self.model, self.data)
        self.set_state(cell + self.np_random.uniform(-0.1, 0.1, size=2), 0.1 * self.np_random.standard_normal(2))
        return self._observation(), {}

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put the ball at qpos [2] with velocity qvel [2]."""
        self.data.qpos[:] = qpos
        self.data.qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        for _ in range(self.maze.frame_skip):
            advance(self.model, self.data, action)
        observation = self._observation()
        position = observation[:2]
        reached = bool(self.maze.reached(position))
        reward = np.exp(-distance(position, self.maze.goal)) if self.maze.dense else reached
        return observation, float(reward), reached and self.maze.ends, False, {"success": reached}

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


def make(name: str, physics: str) -> gymnasium.Env:
    """The maze `name` without a step limit; physics="gymnasium" keeps the installed MuJoCo's walls."""
    return Maze2dEnv(MAZES[name], physics)
