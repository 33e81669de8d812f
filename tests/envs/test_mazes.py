"""The mazes: what is drawn of them is what is simulated; maze2d's starts and rewards."""

from __future__ import annotations

import io

import numpy as np
import pytest

from iql.envs.d4rl.maze2d import RADIUS
from iql.envs.d4rl.mazes import ANTMAZE, MAZE2D, MAZES, Maze
from iql.envs.registry import SIMULATORS, make
from iql.evaluation.rollout import Episodes
from iql.training.summary import value_map


@pytest.mark.parametrize("name", MAZES)
def test_every_maze_is_a_simulators(name):
    maze = MAZES[name]
    assert maze.name == name
    assert maze.horizon == SIMULATORS[name].horizon
    assert maze.grid(1.0).observations.shape == (len(maze.free_cells), SIMULATORS[name].observation_dim)


def test_maze_starts_are_uniform_over_free_cells():
    env = make("maze2d-umaze")
    maze = env.unwrapped.maze
    starts = np.array([env.reset(seed=seed)[0] for seed in range(700)])
    cells = np.rint(starts[:, :2]).astype(int)
    assert np.abs(starts[:, :2] - cells).max() <= 0.1
    found, counts = np.unique(cells, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, maze.free_cells)
    assert counts.min() > 60  # 100 expected
    assert starts[:, 2:].std() == pytest.approx(0.1, rel=0.1)


GOALS = {"maze2d-umaze": (1, 1), "maze2d-medium": (6, 6), "maze2d-large": (7, 9)}


@pytest.mark.parametrize("name", GOALS)
def test_maze2d_rewards_one_within_half_a_metre_of_the_fixed_goal_and_goes_on(name):
    env = make(name)
    env.reset(seed=0)
    goal = np.array(GOALS[name])
    np.testing.assert_array_equal(env.unwrapped.maze.goal, goal)
    for offset, expected in [((0.0, 0.0), 1.0), ((-0.3, 0.0), 1.0), ((0.1, 0.1), 1.0), ((2.0, 2.0), 0.0)]:
        env.unwrapped.data.qpos[:] = goal - offset
        env.unwrapped.data.qvel[:] = 0
        _, reward, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, truncated) == (expected, False, False)
    reached = env.unwrapped.maze.reached(goal + [[0.5, 0.0], [0.0, -0.501]])
    np.testing.assert_array_equal(reached, [True, False])


@pytest.mark.parametrize("name", GOALS)
def test_the_dense_maze2d_rewards_nearness_of_where_a_step_leads_and_goes_on(name):
    env = make(f"{name}-dense")
    env.reset(seed=0)
    goal = np.array(GOALS[name])
    for offset in [(0.0, 0.0), (-0.3, 0.0), (3.0, 0.0)]:
        env.unwrapped.set_state(goal - np.array(offset), np.array([2.0, 0.0]))
        observation, reward, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        assert reward == pytest.approx(np.exp(-np.hypot(*(observation[:2] - goal))), abs=1e-12)
        assert not (terminated or truncated)


def test_maze2d_clips_velocity_and_action_before_a_step():
    env = make("maze2d-medium").unwrapped
    env.set_state(np.array([3.0, 3.0]), np.array([9.0, -9.0]))
    env.step(np.array([7.0, -7.0]))
    wild = env.data.qpos.copy(), env.data.qvel.copy()
    env.set_state(np.array([3.0, 3.0]), np.array([5.0, -5.0]))
    env.step(np.array([1.0, -1.0]))
    np.testing.assert_allclose((env.data.qpos, env.data.qvel), wild, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", MAZE2D)
def test_the_drawn_layout_is_the_simulated_one(name):
    """A ball pushed from each free cell stops its radius before the wall that the layout has there."""
    env = make(name).unwrapped
    maze = env.maze
    directions = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    for cell in maze.free_cells:
        for direction in directions:
            if not maze.walls[tuple(cell + direction)]:
                continue
            middle = maze.middle(cell)
            env.set_state(middle, np.zeros(2))
            for _ in range(60):
                env.step(direction.astype(float))
            travelled = (env.data.qpos - middle) @ direction
            assert travelled == pytest.approx(0.5 - RADIUS, abs=0.03)
            assert maze.cell(env.data.qpos) == tuple(cell)


@pytest.mark.parametrize("name", ["maze2d-medium", "antmaze-large"])
def test_a_grid_covers_the_free_cells_at_rest(name):
    maze = MAZES[name]
    grid = maze.grid(0.25)
    assert grid.observations.shape == (16 * len(maze.free_cells), 2 + len(maze.at_rest))
    assert grid.observations.dtype == np.float32
    assert (grid.observations[:, 2:] == np.float32(maze.at_rest)).all()
    assert {maze.cell(point) for point in grid.observations} == {tuple(cell) for cell in maze.free_cells}
    image = grid.image(np.arange(len(grid.observations)))
    columns, rows = (4 * side for side in maze.walls.shape)
    assert image.shape == grid.shape == (rows, columns)
    assert np.isnan(image).sum() == 16 * maze.walls.sum()
    left, right, bottom, top = grid.extent
    row, column = grid.index[50]
    x = left + (column + 0.5) * (right - left) / columns
    y = bottom + (row + 0.5) * (top - bottom) / rows
    np.testing.assert_allclose(grid.observations[50, :2], (x, y), rtol=0, atol=1e-5)
    half = maze.cell_size / 2
    np.testing.assert_allclose(maze.middle((0, 0)) - half, (left, bottom))
    np.testing.assert_allclose(maze.middle(np.array(maze.walls.shape) - 1) + half, (right, top))
    with pytest.raises(ValueError, match="step"):
        maze.grid(0.0)


@pytest.mark.parametrize("name", ANTMAZE)
def test_an_antmazes_grid_is_the_simulators_ant_at_its_files_pose(name):
    env = make(name).unwrapped
    point = env.maze.grid(0.5).observations[7]
    np.testing.assert_array_equal(point[2:15], env.init_qpos[2:].astype(np.float32))
    assert not point[15:].any()


def episodes(maze: Maze, ends: np.ndarray, returns: list[float]) -> Episodes:
    """Straight walks of ten steps from the first free cell's middle to `ends` [E, 2]."""
    start, share = maze.middle(maze.free_cells[0]), np.linspace(0.0, 1.0, 11)[:, None]
    walks = [np.zeros((11, 2 + len(maze.at_rest)), np.float32) for _ in ends]
    for walk, end in zip(walks, ends, strict=True):
        walk[:, :2] = start + share * (end - start)
    return Episodes(np.array(returns), np.full(len(ends), 10), walks)


@pytest.mark.parametrize("name", ["maze2d-large", "antmaze-large"])
def test_a_value_map_has_v_where_its_coordinates_say(name):
    maze = MAZES[name]
    played = episodes(maze, np.array([maze.goal, [0.0, 0.0]]), [1.0, 0.0])
    arrays = np.load(io.BytesIO(value_map(maze, lambda points: points[:, 0] - 3 * points[:, 1], played)))
    left, right, bottom, top = arrays["extent"]
    columns, rows = arrays["values"].shape  # x first
    for i, j in [(30, 30), (45, 141), (columns - 30, rows - 30), (2, 100)]:
        x, y = left + (i + 0.5) * (right - left) / columns, bottom + (j + 0.5) * (top - bottom) / rows
        if maze.walls[maze.cell((x, y))]:
            assert np.isnan(arrays["values"][i, j])
        else:
            assert arrays["values"][i, j] == pytest.approx(x - 3 * y, abs=1e-3)
    np.testing.assert_array_equal(arrays["goal"], maze.goal)
    np.testing.assert_array_equal(arrays["success"], [True, False])
    np.testing.assert_allclose(arrays["paths"][0, -1], maze.goal, rtol=1e-6)


def test_in_a_dense_maze_success_is_having_been_within_reach_of_the_goal():
    """Its rewards are above 0 everywhere, and the start, which no step led to, does not count."""
    maze = MAZES["maze2d-medium-dense"]
    played = episodes(maze, np.array([[2.0, 1.0]] * 3), [5.0, 5.0, 5.0])
    played.observations[1][4, :2] = maze.goal
    played.observations[2][0, :2] = maze.goal
    arrays = np.load(io.BytesIO(value_map(maze, lambda points: points[:, 0], played)))
    np.testing.assert_array_equal(arrays["success"], [False, True, False])
