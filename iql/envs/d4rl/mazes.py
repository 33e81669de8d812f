"""D4RL's mazes: walls, goals and coordinates, for the simulators and for figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

REACH = 0.5
"""Distance (m) to the goal, in x and y, within which it counts as reached."""

ANTMAZE_CELL = 4.0
"""Side of an antmaze's cell (m); maze2d's cells are 1 m."""

GOAL_SPREADS = (1.0, 0.5)
"""An antmaze's goal lies U(0, 1) + U(0, .5) (m) above the middle of its cell, on either axis (D4RL's
maze_env.py: a quarter of a cell, and half of a quarter)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Points of a maze's free space at which a value function is drawn.

    observations  [G, observation_dim] float32: x and y, all else at rest
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
    """A maze's layout in the coordinates of its observations, whose first two entries are x and y (m).

    walls      [I, J] bool, outer walls included; i runs along x, j along y
    goal       [2] float64; in antmaze, where it is random, the middle of its range
    horizon    steps of an episode
    corner     x, and equally y, of the maze's lower left corner
    cell_size  side of a cell
    at_rest    the entries of an observation after x and y, standing still
    dense      whether the reward is exp(−distance to the goal) rather than 1 within REACH and else 0
    starts     cells (i, j) that maze2d's episodes start in; empty: in any free cell
    ends       whether a maze2d's episode ends when it reaches the goal (an antmaze's always does)
    frame_skip simulator steps that a maze2d's action is held for
    """

    name: str
    walls: np.ndarray
    goal: np.ndarray
    horizon: int
    corner: float
    cell_size: float
    at_rest: tuple[float, ...]
    dense: bool = False
    starts: tuple[tuple[int, int], ...] = ()
    ends: bool = False
    frame_skip: int = 1

    @property
    def free_cells(self) -> np.ndarray:
        """Cells without a wall, the goal's included, [F, 2] int in order of i."""
        return np.argwhere(~self.walls)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the whole maze, outer walls included."""
        right, top = self.corner + self.cell_size * np.array(self.walls.shape)
        return self.corner, float(right), self.corner, float(top)

    def middle(self, cell: Sequence[int] | np.ndarray) -> np.ndarray:
        """The middles [..., 2] of cells (i, j) [..., 2]."""
        return self.corner + self.cell_size * (np.asarray(cell) + 0.5)

    def cell(self, position: Sequence[float] | np.ndarray) -> tuple[int, int]:
        """The cell (i, j) that a position (x, y) lies in."""
        i, j = np.floor((np.asarray(position[:2]) - self.corner) / self.cell_size)
        return int(i), int(j)

    def reached(self, positions: np.ndarray) -> np.ndarray:
        """Whether positions [..., 2] lie within REACH of `goal`, [...] bool."""
        return distance(positions, self.goal) <= REACH

    def grid(self, step: float = 0.05) -> Grid:
        """Points every `step` of a cell's side (from half a step off its edge) in free cells, at rest.

        Raises ValueError unless 0 < step <= 1.
        """
        if not 0.0 < step <= 1.0:
            raise ValueError(f"a grid's step lies in (0, 1], not {step}")
        per_cell = round(1.0 / step)
        free = np.kron(~self.walls, np.ones((per_cell, per_cell), dtype=bool)).T
        index = np.argwhere(free)
        observations = np.empty((len(index), 2 + len(self.at_rest)), dtype=np.float32)
        observations[:, :2] = self.corner + self.cell_size * (index[:, ::-1] + 0.5) / per_cell
        observations[:, 2:] = self.at_rest
        rows, columns = free.shape
        return Grid(observations, index, (int(rows), int(columns)), self.extent)


def distance(positions: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Distances (m) [...] of positions [..., 2] to a goal [2]."""
    return np.linalg.norm(positions - goal, axis=-1)


def _maze2d(name: str, horizon: int, *rows: str) -> Maze:
    """A maze from D4RL's map, whose rows go along x: '#' is a wall, '.' free, 'G' the goal, free.

    D4RL puts the walls of cell (i, j) around (i + 1, j + 1) and the ball's origin at (1.2, 1.2), so that
    the cell's middle lies .2 below its index; the goal is the index itself.
    """
    cells = np.array([list(row) for row in rows])
    goal = np.argwhere(cells == "G")[0].astype(np.float64)
    return Maze(name, cells == "#", goal, horizon, corner=-0.7, cell_size=1.0, at_rest=(0.0, 0.0))


ANT_AT_REST = (0.75, 1.0, *[0.0] * 25)
"""Gymnasium's ant as in its model file: the torso's height, an upright quaternion, joints and velocities 0."""


def _antmaze(name: str, horizon: int, *rows: str) -> Maze:
    """A maze from D4RL's map, whose rows go along y and whose cell (1, 1), where every episode starts, lies at 0."""
    cells = np.array([list(row) for row in rows]).T
    maze = Maze(name, cells == "#", np.zeros(2), horizon, -1.5 * ANTMAZE_CELL, ANTMAZE_CELL, ANT_AT_REST)
    return replace(maze, goal=maze.middle(np.argwhere(cells == "G")[0]) + sum(GOAL_SPREADS) / 2)


MEDIUM = (
    "########",
    "#..##..#",
    "#..#...#",
    "##...###",
    "#..#...#",
    "#.#..#.#",
    "#...#.G#",
    "########",
)

LARGE = (
    "############",
    "#....#.....#",
    "#.##.#.#.#.#",
    "#......#...#",
    "#.####.###.#",
    "#..#.#.....#",
    "##.#.#.#.###",
    "#..#...#.G.#",
    "############",
)

MAZE2D = {
    maze.name: maze
    for maze in (
        _maze2d("maze2d-umaze", 300, "#####", "#G..#", "###.#", "#...#", "#####"),
        _maze2d("maze2d-medium", 600, *MEDIUM),
        _maze2d("maze2d-large", 800, *LARGE),
    )
}
"""D4RL's maze2d maps and step limits (v1; pointmaze/maze_model.py), with the sparse reward."""

STITCH = {
    "maze2d-medium-stitch": replace(
        MAZE2D["maze2d-medium"],
        name="maze2d-medium-stitch",
        starts=((1, 1), (1, 2), (2, 1), (2, 2)),
        ends=True,
        frame_skip=5,
        horizon=120,
    )
}
"""This package's own: D4RL's medium map from the corner opposite to the goal, where the episode ends."""

ANTMAZE = {
    maze.name: maze
    for maze in (
        _antmaze("antmaze-umaze", 700, "#####", "#...#", "###.#", "#G..#", "#####"),
        _antmaze("antmaze-medium", 1000, *MEDIUM),
        _antmaze("antmaze-large", 1000, *LARGE),
    )
}
"""D4RL's antmaze maps and step limits (locomotion/maze_env.py's _TEST maps, in -play and -diverse alike)."""

MAZES = {
    **MAZE2D,
    **{f"{name}-dense": replace(maze, name=f"{name}-dense", dense=True) for name, maze in MAZE2D.items()},
    **STITCH,
    **ANTMAZE,
}
"""Every maze, by its simulator's name."""
