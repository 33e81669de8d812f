"""D4RL's antmaze: starts, goals, rewards, ends, and that its walls stand where its map says.

Every step of its physics is compared with the legacy stack's in test_physics.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iql.envs.d4rl.mazes import ANTMAZE, MAZES
from iql.envs.registry import make

RUN = 1 << 31
GOAL_CELLS = {"antmaze-umaze": (0.0, 8.0), "antmaze-medium": (20.0, 20.0), "antmaze-large": (32.0, 24.0)}
STILL = np.zeros(8, np.float32)


def goal_of(env: Any, seed: int) -> np.ndarray:
    env.reset(seed=seed)
    return env.unwrapped.goal


def test_starts_and_goals_are_distributed_as_the_legacy_stacks():
    """200 resets of antmaze-umaze-v2 there and 2000 here: each entry by Kolmogorov and Smirnov's distance."""
    with np.load(Path(__file__).parents[1] / "physics" / "antmaze-resets.npz") as file:
        theirs = np.hstack([file["qpos"], file["qvel"], file["target"]])
    env = make("antmaze-umaze")
    ours = np.array([np.append(env.reset(seed=seed)[0], env.unwrapped.goal) for seed in range(2000)])
    assert ours.shape[1] == theirs.shape[1] == 31
    for one, other in zip(ours.T, theirs.T, strict=True):
        points = np.sort(np.append(one, other))
        shares = [np.searchsorted(np.sort(values), points, "right") / len(values) for values in (one, other)]
        assert np.abs(shares[0] - shares[1]).max() < 0.13  # one of 31 equal distributions exceeds it in 7 %


def test_every_episode_starts_around_the_start_cells_middle():
    for name in ANTMAZE:
        env = make(name)
        starts = np.array([env.reset(seed=seed)[0] for seed in range(300)])
        position = starts[:, :3] - [0, 0, 0.75]
        assert 0.09 < np.abs(position).max() <= 0.1
        assert 0.09 < np.abs(starts[:, 7:15]).max() <= 0.1
        np.testing.assert_allclose(np.linalg.norm(starts[:, 3:7], axis=1), 1.0, atol=1e-12)
        assert starts[:, 15:].std() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ANTMAZE)
@pytest.mark.parametrize("seed_of", [lambda k: k, lambda k: (1 + k) * RUN + 5], ids=["by episode", "by run"])
def test_goals_lie_up_to_a_metre_and_a_half_above_their_cells_middle(name, seed_of):
    """The sum of U(0, 1) and U(0, .5) on either axis."""
    env = make(name)
    spread = np.array([goal_of(env, seed_of(k)) for k in range(400)]) - GOAL_CELLS[name]
    assert 0.0 <= spread.min() < 0.1 and 1.4 < spread.max() <= 1.5
    np.testing.assert_allclose(spread.mean(axis=0), 0.75, atol=0.05)
    np.testing.assert_allclose(spread.std(axis=0), np.sqrt(1 / 12 + 0.25 / 12), atol=0.03)
    assert abs(np.corrcoef(spread.T)[0, 1]) < 0.15
    np.testing.assert_array_equal(MAZES[name].goal, np.array(GOAL_CELLS[name]) + 0.75)


def test_a_seed_that_holds_a_runs_seed_fixes_the_goal_for_all_its_episodes():
    env = make("antmaze-medium")
    starts, goals = [], []
    for run in (1, 2, 1):
        for episode in range(5):
            starts.append(env.reset(seed=run * RUN + episode)[0])
            goals.append(env.unwrapped.goal)
    assert len({tuple(goal) for goal in goals}) == 2
    np.testing.assert_array_equal(goals[:5], goals[10:])
    np.testing.assert_array_equal(starts[:5], starts[10:])
    assert len({tuple(start) for start in starts}) == 10


def test_any_other_seed_draws_a_goal_for_its_episode():
    env = make("antmaze-medium")
    goals = {tuple(goal_of(env, seed)) for seed in (0, 1, RUN - 1, 0)}
    assert len(goals) == 3
    env.reset()
    assert tuple(env.unwrapped.goal) not in goals


def test_the_goal_is_not_in_the_observation():
    env = make("antmaze-umaze")
    env.reset(seed=0)
    observation, *_ = env.step(STILL)
    data = env.unwrapped.data
    np.testing.assert_array_equal(observation, np.concatenate([data.qpos, data.qvel]))


@pytest.mark.parametrize(("off", "reached"), [(0.0, True), (0.3, True), (0.7, False)])
def test_an_episode_ends_with_a_reward_of_one_within_half_a_metre_of_the_goal(off, reached):
    env = make("antmaze-large")
    env.reset(seed=3)
    bare = env.unwrapped
    qpos = bare.init_qpos.copy()
    qpos[:2] = bare.goal - [0.0, off]
    bare.set_state(qpos, np.zeros(14))
    _, reward, terminated, truncated, _ = env.step(STILL)
    assert (reward, terminated, truncated) == (float(reached), reached, False)  # its fall moves it by less than .1


def test_a_goal_may_be_set_after_a_reset():
    env = make("antmaze-umaze")
    env.reset(seed=0)
    env.unwrapped.goal = np.array([0.2, 0.0])
    assert env.step(STILL)[1:3] == (1.0, True)


@pytest.mark.parametrize(("name", "horizon"), [("antmaze-umaze", 700), ("antmaze-medium", 1000)])
def test_an_ant_that_never_arrives_is_stopped_at_the_horizon(name, horizon):
    env = make(name)
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        _, reward, terminated, over, _ = env.step(STILL)
        assert not terminated and reward == 0.0
        steps += 1
    assert steps == horizon


def touches(env: Any, x: float, y: float) -> set[str]:
    """Names of the walls that an ant standing at (x, y) is in contact with."""
    qpos = env.init_qpos.copy()
    qpos[:2] = x, y
    env.set_state(qpos, np.zeros(14))
    geoms = env.data.contact.geom[: env.data.ncon].ravel()
    return {name for name in (env.model.geom(geom).name for geom in geoms) if name.startswith("wall_")}


@pytest.mark.parametrize("name", ANTMAZE)
def test_walls_stand_where_the_map_says(name):
    """An ant reaches less than 1 m: it touches a wall with its torso, .25 m wide, from .2 m off, not from the cell's
    middle, 2 m off."""
    env = make(name).unwrapped
    maze = env.maze
    for cell in maze.free_cells:
        x, y = maze.middle(cell)
        assert not touches(env, x, y)
        for i, j in np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]):
            beside = cell + (i, j)
            found = touches(env, x + 1.8 * i, y + 1.8 * j)
            assert found == ({f"wall_{beside[0]}_{beside[1]}"} if maze.walls[tuple(beside)] else set())


def test_an_ant_pushed_against_a_wall_does_not_get_through():
    env = make("antmaze-umaze").unwrapped
    env.reset(seed=0)
    velocity = np.zeros(14)
    velocity[1] = 5.0  # towards the wall at y = 2
    env.set_state(env.init_qpos, velocity)
    for _ in range(20):
        env.step(STILL)
    assert 0.5 < env.data.qpos[1] < 2.0
