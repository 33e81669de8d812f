"""D4RL's maze2d (v1): a ball pushed through a maze towards one fixed goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np

OFFSET = -0.2
"""The middle of cell (i, j) lies at x = i + OFFSET, y = j + OFFSET of an observation: D4RL puts the walls
of cell (i, j) around (i + 1, j + 1) and the ball's origin at (1.2, 1.2)."""

RADIUS = 0.1
"""The ball's (m); walls keep its centre that far off."""

REACH = 0.5
"""Distance (m) to the goal within which a step earns the sparse reward of 1."""

TOP_SPEED = 5.0
"""Velocities (m/s) are clipped to it per axis before each step."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Points of a maze's free space, to look at a value function on.

    observations  [G, 4] float32: x, y and a velocity of zero
    index         [G, 2] int: row (along y) and column (along x) of each point in the image
    shape         rows and columns of the image
    extent        left, right, bottom and top of the image in observation units (imshow's extent)
    """

    observations: np.ndarray
    index: np.ndarray
    shape: tuple[int, int]
    extent: tuple[float, float, float, float]

    def image(self, values: np.ndarray) -> np.ndarray:
        """Values [G] as an image [rows, columns], NaN at walls, to be drawn with origin="lower"."""
        image = np.full(self.shape, np.nan, dtype=np.float32)
        image[self.index[:, 0], self.index[:, 1]] = values
        return image


@dataclass(frozen=True, eq=False)
class Maze:
    """A maze's layout in D4RL's coordinates.

    walls    [rows, columns] bool; row i lies along x, column j along y, see OFFSET
    goal     [2] float64, x and y that an evaluation is about; a cell's index as D4RL has it, so .2 off
             the cell's middle
    horizon  steps of an episode
    """

    name: str
    walls: np.ndarray
    goal: np.ndarray
    horizon: int

    @property
    def free_cells(self) -> np.ndarray:
        """Cells without a wall, the goal's included, [F, 2] int in row order."""
        return np.argwhere(~self.walls)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the whole maze, outer walls included, in observation units."""
        rows, columns = self.walls.shape
        low = OFFSET - 0.5
        return low, low + rows, low, low + columns

    @property
    def wall_boxes(self) -> np.ndarray:
        """Lower left corners of the wall cells in observation units, [W, 2]; each is 1 by 1."""
        return np.argwhere(self.walls) + (OFFSET - 0.5)

    def cell(self, position: Sequence[float] | np.ndarray) -> tuple[int, int]:
        """The cell (i, j) that a position (x, y) lies in."""
        x, y = float(position[0]), float(position[1])
        return int(np.floor(x - OFFSET + 0.5)), int(np.floor(y - OFFSET + 0.5))

    def rewards(self, positions: np.ndarray) -> np.ndarray:
        """D4RL's sparse reward of positions [..., 2]: 1.0 within REACH of the goal, else 0.0."""
        return (np.linalg.norm(positions - self.goal, axis=-1) <= REACH).astype(np.float64)

    def grid(self, step: float = 0.05) -> Grid:
        """Points every `step` (at cell middles ± multiples of it) in free cells, at zero velocity.

        Raises ValueError unless 0 < step <= 1.
        """
        if not 0.0 < step <= 1.0:
            raise ValueError(f"a grid's step lies in (0, 1], not {step}")
        per_cell = round(1.0 / step)
        free = np.kron(~self.walls, np.ones((per_cell, per_cell), dtype=bool)).T
        index = np.argwhere(free)
        low = OFFSET - 0.5 + 0.5 / per_cell
        observations = np.zeros((len(index), 4), dtype=np.float32)
        observations[:, :2] = low + index[:, ::-1] / per_cell
        rows, columns = free.shape
        return Grid(observations, index, (int(rows), int(columns)), self.extent)


def _maze(name: str, horizon: int, *rows: str) -> Maze:
    """A maze from rows of '#' (wall), '.' (free) and 'G' (the goal, free)."""
    cells = np.array([list(row) for row in rows])
    return Maze(name, cells == "#", np.argwhere(cells == "G")[0].astype(np.float64), horizon)


MAZES = {
    maze.name: maze
    for maze in (
        _maze(
            "maze2d-umaze",
            300,
            "#####",
            "#G..#",
            "###.#",
            "#...#",
            "#####",
        ),
        _maze(
            "maze2d-medium",
            600,
            "########",
            "#..##..#",
            "#..#...#",
            "##...###",
            "#..#...#",
            "#.#..#.#",
            "#...#.G#",
            "########",
        ),
        _maze(
            "maze2d-large",
            800,
            "############",
            "#....#.....#",
            "#.##.#.#.#.#",
            "#......#...#",
            "#.####.###.#",
            "#..#.#.....#",
            "##.#.#.#.###",
            "#..#...#.G.#",
            "############",
        ),
    )
}
"""D4RL's maze maps and step limits (v1)."""


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

    MuJoCo 2.1.0 averages a slide-only body's inverse weight over three axes, today's over the two that
    it has. The correction has to follow every mj_setConst.
    """
    model = mujoco.MjModel.from_xml_string(mjcf(maze))
    if physics == "d4rl":
        model.body_invweight0[model.body("particle").id, 0] *= 2.0 / 3.0
    return model


def advance(model: mujoco.MjModel, data: mujoco.MjData, action: Sequence[float] | np.ndarray) -> None:
    """One step of D4RL's maze: velocity clipped to ±5, the action [2] to ±1 (the motors' range)."""
    qvel = data.qvel
    if qvel.max() > TOP_SPEED or qvel.min() < -TOP_SPEED:
        np.clip(qvel, -TOP_SPEED, TOP_SPEED, out=qvel)
    data.ctrl[:] = action
    mujoco.mj_step(model, data)


class Maze2dEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """D4RL's maze2d with its sparse reward: observation x, y and their velocities [4] float64; never ends.

    An episode starts in a free cell (the goal's included), ±.1 around its index, at .1 · normal velocity.
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
        cells = self.maze.free_cells
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
        advance(self.model, self.data, action)
        observation = self._observation()
        return observation, float(self.maze.rewards(observation[:2])), False, False, {}

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


def make(name: str, physics: str) -> gymnasium.Env:
    """The maze `name` without a step limit; physics="gymnasium" leaves walls as MuJoCo has them today."""
    return Maze2dEnv(MAZES[name], physics)
