"""maze2d-medium-stitch: data that has to be stitched, episodes that end at the goal, and what stands beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iql.config import task_configs
from iql.envs.d4rl.maze2d import RADIUS
from iql.envs.d4rl.mazes import MAZES
from iql.envs.registry import make
from iql.errors import UserError
from iql.tasks.waypoint_controller import make_waypoint_data

ROOT = Path(__file__).parents[2]
MAZE = MAZES["maze2d-medium-stitch"]


@cache
def settings() -> dict[str, Any]:
    return task_configs.settings([("maze2d-medium-stitch", [])])[0]


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    """The default's own."""
    node = settings()
    return make_waypoint_data(MAZE, node["made_rows"], node["made_seed"], walk_steps=node["walk_steps"])


def walks(data: dict[str, np.ndarray]) -> list[slice]:
    """The rows of every whole walk."""
    ends = np.flatnonzero(data["terminals"] | data["timeouts"]) + 1
    return [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]


def in_start(positions: np.ndarray) -> np.ndarray:
    """Which positions [T, 2] lie in the cells that an evaluation starts in."""
    cells = np.floor((positions - MAZE.corner) / MAZE.cell_size).astype(int)
    return (cells[:, None] == np.array(MAZE.starts)).all(axis=2).any(axis=1)


def test_no_walk_of_the_default_leads_from_the_start_to_the_goal(data):
    started = in_start(data["observations"][:, :2])
    begun, arrived = 0, 0
    for walk in walks(data):
        assert walk.stop - walk.start <= settings()["walk_steps"]
        begun += bool(started[walk].any())
        arrived += bool(data["terminals"][walk].any())
        assert not (started[walk].any() and data["terminals"][walk].any())
    assert begun > 100
    assert arrived > 50


def test_walks_start_anywhere_between_the_walls_but_at_the_goal(data):
    starts = np.array([data["observations"][walk.start] for walk in walks(data)])
    cells = [MAZE.cell(start) for start in starts]
    assert set(cells) == {tuple(cell) for cell in MAZE.free_cells.tolist()}
    assert np.abs(starts[:, :2] - MAZE.middle(cells)).max() <= 0.5 - RADIUS
    assert starts[:, 2:].std() == pytest.approx(1.0, rel=0.1)


def test_a_step_to_the_goal_is_a_terminal_that_pays_one_and_ends_its_walk(data):
    positions, terminals = data["observations"][:, :2], data["terminals"]
    np.testing.assert_array_equal(data["rewards"], terminals)
    assert not (terminals & data["timeouts"]).any()
    assert not MAZE.reached(positions.astype(np.float64)).any()  # what follows the goal is another walk
    env = make("maze2d-medium-stitch").unwrapped
    for row in [*np.flatnonzero(terminals)[:20], *np.flatnonzero(~terminals)[:500]]:
        env.set_state(*data["observations"][row].astype(np.float64).reshape(2, 2))
        _, reward, terminated, _, _ = env.step(data["actions"][row])
        clear = abs(np.linalg.norm(env.data.qpos - MAZE.goal) - 0.5) > 1e-4  # the file's states are rounded
        assert not clear or (reward == data["rewards"][row] and terminated == terminals[row])


def test_the_same_seed_gives_the_same_walks_and_more_rows_continue_them(data):
    again = make_waypoint_data(MAZE, 5000, 0, walk_steps=settings()["walk_steps"])
    other = make_waypoint_data(MAZE, 5000, 1, walk_steps=settings()["walk_steps"])
    for key, values in again.items():
        np.testing.assert_array_equal(values, data[key][:5000])
    assert not np.array_equal(again["observations"], other["observations"])


def test_walks_that_lead_all_the_way_are_refused():
    with pytest.raises(UserError, match=r"env\.walk_steps=120: a walk led from the start to the goal"):
        make_waypoint_data(MAZE, 100_000, 0, walk_steps=120)


def test_an_episode_starts_in_the_start_and_ends_at_the_goal():
    env = make("maze2d-medium-stitch")
    starts = np.array([env.reset(seed=seed)[0][:2] for seed in range(200)])
    assert {tuple(cell) for cell in np.rint(starts).astype(int).tolist()} == set(MAZE.starts)
    for offset, reached in [((0.3, 0.0), True), ((0.0, 0.7), False)]:
        env.reset(seed=0)
        env.unwrapped.set_state(MAZE.goal - offset, np.zeros(2))
        _, reward, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, truncated) == (float(reached), reached, False)


def test_cloning_a_random_policy_and_the_data_are_told_of_beside_a_run(monkeypatch, tmp_path):
    monkeypatch.setenv("IQL_DATA_DIR", str(tmp_path))
    goal, walks = task_configs.task(settings()).baselines()
    assert goal == (
        f"for comparison, goal reached by behaviour cloning in {settings()['cloning']:.0%} (algorithm.beta=0), "
        "by a random policy in 0% of 50 episodes"
    )
    assert walks == "the data's walks take at most 12 steps; none leads from the start to the goal"
    assert list(tmp_path.iterdir()) == []  # no data is made for it


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_values_find_the_way_that_no_walk_takes_and_cloning_does_not(train, tmp_path):
    """The whole recipe with one seed, and without its values."""
    for beta, least, most in ((10, 95, 100), (0, 0, 30)):
        command = [sys.executable, str(ROOT / "train.py"), f"algorithm.beta={beta}", "tracker=none"]
        done = subprocess.run(
            [*command, f"runs={tmp_path / str(beta)}"],
            env=train.environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / str(beta)).rglob("metrics.jsonl")
        records = [json.loads(line) for line in path.read_text().splitlines()]
        scores = [record["score"] for record in records if record["kind"] == "eval"]
        assert len(scores) == 10
        assert all(least <= score <= most for score in scores[-3:]), scores
