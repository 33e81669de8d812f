"""D4RL's generation of maze2d data: a waypoint controller that walks to one random goal after another."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import mujoco
import numpy as np

from iql.envs.d4rl.maze2d import RADIUS, advance, compile_model
from iql.envs.d4rl.mazes import REACH, Maze
from iql.errors import UserError

# D4RL's controller (its waypoint_controller and its generator of maze2d data)
P_GAIN = 10.0
D_GAIN = -1.0
CLOSE = 0.1  # distance (m) at which a waypoint or goal counts as reached
SCATTER = 0.2  # waypoints lie up to this far (m) below their cell's index, per axis
NOISE = 0.5  # standard deviation of the noise added to every action ("noisy" in D4RL's generator)

# This package's own, for walks that start at a random place with a random velocity
SPREAD = 0.49 - RADIUS  # a walk starts up to this far (m) from the middle of its cell, per axis
SPEED = 1.0  # standard deviation of its velocity (m/s), per axis
FOUND = 0.2  # share of the walks that begin near the maze's own goal and lead to it
NEAR = 2  # the most cells that such a walk passes

REPORT_EVERY = 2000  # rows between two calls of `progress`

Cell = tuple[int, int]


def make_waypoint_data(
    maze: Maze,
    rows: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    noise: float = NOISE,
    walk_steps: int | None = None,
) -> dict[str, np.ndarray]:
    """`rows` steps of the controller in D4RL's layout; the same arguments give the same bits.

    It walks to one goal after another (any free cell ± .1). When a goal is reached, or after the maze's horizon,
    that row is a timeout and the next goal is drawn. A longer data set with the same seed begins with the
    shorter one.

    walk_steps  None: one walk without resets, as in D4RL. A number: a walk has at most this many steps, and the
                next one starts at a random place with a random velocity; where `maze.ends`, a step to the maze's
                own goal is a terminal and ends its walk.
    progress    called with the number of rows so far, every few thousand rows and at the end

    Rewards are with respect to the maze's own goal: where `maze.ends` the step's, 1 at a terminal; else, as D4RL
    relabels them, those of the row's own position, not of its successor's.

    Returns observations [R, 4], actions [R, 2], rewards [R], infos/qpos [R, 2], infos/qvel [R, 2] and
    infos/goal [R, 2] float32, terminals [R] and timeouts [R] bool. Raises UserError if a walk leads from
    `maze.starts` to the goal: the data must be such that a policy has to combine walks.
    """
    goal_draws, noise_draws = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    noises = (noise * noise_draws.standard_normal((rows, 2))).tolist()
    routes = Routes(maze)
    states = np.empty((rows, 4))
    actions = np.empty((rows, 2))
    goals = np.empty((rows, 2))
    timeouts = np.zeros(rows, dtype=bool)
    terminals = np.zeros(rows, dtype=bool)

    model = compile_model(maze)
    data = mujoco.MjData(model)
    if walk_steps is None:
        data.qpos[:] = maze.free_cells[goal_draws.integers(len(maze.free_cells))] + goal_draws.uniform(-0.1, 0.1, 2)
        data.qvel[:] = 0.1 * goal_draws.standard_normal(2)
    final = maze.goal.tolist()
    end = maze.cell(final)
    near = np.array(
        [each for each in maze.free_cells if len(routes.between((int(each[0]), int(each[1])), end)) <= NEAR]
    )
    finds = False
    steps, limit = 0, walk_steps or maze.horizon
    for row in range(rows):
        if walk_steps is not None and steps == 0:
            finds = maze.ends and goal_draws.random() < FOUND
            _place(maze, near if finds else maze.free_cells, data, goal_draws)
        x, y = data.qpos.tolist()
        vx, vy = data.qvel.tolist()
        if steps == 0:
            cell = end if finds else maze.free_cells[goal_draws.integers(len(maze.free_cells))]
            goal = cell + goal_draws.uniform(-0.1, 0.1, 2)
            waypoints = _scattered(routes.between(maze.cell((x, y)), (int(cell[0]), int(cell[1]))), goal_draws)
            next_x, next_y = waypoints.popleft()
        close = abs(next_x - x) < CLOSE and (next_x - x) ** 2 + (next_y - y) ** 2 < CLOSE**2
        reached = close and not waypoints
        action_x = _clip(_clip(P_GAIN * (next_x - x) + D_GAIN * vx) + noises[row][0])
        action_y = _clip(_clip(P_GAIN * (next_y - y) + D_GAIN * vy) + noises[row][1])
        if close and waypoints:
            next_x, next_y = waypoints.popleft()

        states[row] = x, y, vx, vy
        actions[row] = action_x, action_y
        goals[row] = goal
        steps += 1
        for _ in range(maze.frame_skip):
            advance(model, data, (action_x, action_y))
        terminals[row] = maze.ends and math.dist(data.qpos.tolist(), final) <= REACH
        if terminals[row] and maze.starts and _passes(maze.starts, maze, states[row + 1 - steps : row + 1]):
            raise UserError(
                f"env.walk_steps={walk_steps}: a walk led from the start to the goal, and nothing would be left to "
                "stitch; make them shorter"
            )
        if terminals[row] or reached or steps == limit:
            timeouts[row] = not terminals[row]
            steps = 0
        if progress is not None and (row + 1) % REPORT_EVERY == 0:
            progress(row + 1)
    if progress is not None:
        progress(rows)

    observations = states.astype(np.float32)
    return {
        "observations": observations,
        "actions": actions.astype(np.float32),
        "rewards": (terminals if maze.ends else maze.reached(states[:, :2])).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "infos/goal": goals.astype(np.float32),
        "infos/qpos": observations[:, :2].copy(),
        "infos/qvel": observations[:, 2:].copy(),
    }


def _passes(cells: Sequence[Cell], maze: Maze, states: np.ndarray) -> bool:
    """Whether one of the states [T, 4] lies in one of the cells."""
    return any(maze.cell(state) in cells for state in states)


def _place(maze: Maze, cells: np.ndarray, data: mujoco.MjData, draws: np.random.Generator) -> None:
    """Put the ball at a random place in one of the cells [C, 2], in motion; not at a goal that ends a walk."""
    placed = False
    while not placed:
        cell = cells[draws.integers(len(cells))]
        data.qpos[:] = maze.middle(cell) + draws.uniform(-SPREAD, SPREAD, 2)
        data.qvel[:] = SPEED * draws.standard_normal(2)
        placed = not (maze.ends and maze.reached(data.qpos))


class Routes:
    """Shortest paths between a maze's free cells, by one breadth-first search for each goal."""

    def __init__(self, maze: Maze):
        self._free = {(int(i), int(j)) for i, j in maze.free_cells}
        self._towards: dict[Cell, dict[Cell, Cell]] = {}

    def between(self, start: Cell, goal: Cell) -> list[Cell]:
        """The cells after `start` up to and with `goal`; just the goal where they are the same."""
        if goal not in self._towards:
            self._towards[goal] = self._search(goal)
        step = self._towards[goal]
        route = []
        while start != goal:
            start = step[start]
            route.append(start)
        return route or [goal]

    def _search(self, goal: Cell) -> dict[Cell, Cell]:
        """For each free cell that the goal can be reached from: the next cell on a shortest path."""
        step = {goal: goal}
        edge = deque([goal])
        while edge:
            i, j = cell = edge.popleft()
            for neighbour in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if neighbour in self._free and neighbour not in step:
                    step[neighbour] = cell
                    edge.append(neighbour)
        return step


def _scattered(route: list[Cell], draws: np.random.Generator) -> deque[tuple[float, float]]:
    """Waypoints of a route: cells shifted by up to SCATTER towards zero, only the goal's cell as it is."""
    shifts = np.vstack([SCATTER * draws.uniform(size=(len(route) - 1, 2)), np.zeros((1, 2))])
    return deque((float(x), float(y)) for x, y in np.array(route) - shifts)


def _clip(value: float) -> float:
    return -1.0 if value < -1.0 else 1.0 if value > 1.0 else value
