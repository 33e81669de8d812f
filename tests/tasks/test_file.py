"""People's own data: HDF5 and NumPy archives in D4RL's and OGBench's layouts, any Gymnasium environment, or none."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest

from iql.dataset_files.checks import data_warnings, version_warning
from iql.dataset_files.rows import Rows
from iql.errors import UserError
from iql.tasks.d4rl import AntMazeTask, D4RLTask
from iql.tasks.file import FileTask

STEPS = 5  # of an episode below
EPISODES = 3


def task(path: Path | None, **changes) -> FileTask:
    options = {
        "name": "hdf5", "path": path, "gym_id": None, "horizon": None, "reward": "none", "ref_min": None,
        "ref_max": None, "normalize": False,
    }  # fmt: skip
    return FileTask(**{**options, **changes})


def states() -> np.ndarray:
    """[EPISODES, STEPS + 1, 2]: every state is told from every other."""
    return np.arange(EPISODES * (STEPS + 1) * 2, dtype=np.float32).reshape(EPISODES, STEPS + 1, 2)


def raw_ogbench() -> dict[str, np.ndarray]:
    """As OGBench's files lie on disk: one row a state, terminals at each trajectory's last; relabelled for a task."""
    flat = states().reshape(-1, 2)
    masks = np.ones(len(flat), np.float32)
    masks[[STEPS - 1, -2]] = 0  # the last steps of the first and of the last trajectory reach the goal
    return {
        "observations": flat,
        "actions": (flat[:, :1] / 100).astype(np.float32),
        "rewards": masks - 1,
        "terminals": (np.arange(len(flat)) % (STEPS + 1) == STEPS).astype(np.float32),
        "masks": masks,
    }


def compact_ogbench() -> dict[str, np.ndarray]:
    """As ogbench.load_dataset gives it with compact_dataset: valids, and terminals at the last two rows."""
    data = raw_ogbench()
    last = data["terminals"]
    return {**data, "valids": 1 - last, "terminals": np.minimum(last + np.append(last[1:], 1), 1)}


def regular_ogbench() -> dict[str, np.ndarray]:
    """As ogbench.load_dataset gives it: a row a step, with next_observations, terminals at the last step."""
    data = raw_ogbench()
    step = data["terminals"] == 0
    rows = {key: values[step] for key, values in data.items()}
    ends = (np.arange(EPISODES * STEPS) % STEPS == STEPS - 1).astype(np.float32)
    return {**rows, "next_observations": states()[:, 1:].reshape(-1, 2), "terminals": ends}


def saved(path: Path, data: dict[str, np.ndarray]) -> Path:
    np.savez(path, **data)
    return path


@pytest.mark.parametrize("form", [raw_ogbench, compact_ogbench, regular_ogbench])
def test_ogbenchs_three_forms_are_the_same_transitions(tmp_path, form):
    data = task(saved(tmp_path / "own.npz", form())).transitions()
    found = {
        (*data.observations[i], *data.actions[i], data.rewards[i], data.masks[i], *data.observations[i + 1])
        for i in data.rows
        if data.masks[i]
    }
    flat, reference = states(), set()
    for episode in range(EPISODES):
        for step in range(STEPS):
            if (episode, step) not in ((0, STEPS - 1), (EPISODES - 1, STEPS - 1)):
                state, successor = flat[episode, step], flat[episode, step + 1]
                reference.add((*state, np.float32(state[0] / 100), 0.0, 1.0, *successor))
    assert found == reference
    ends = [i for i in data.rows if not data.masks[i]]  # the successor of one that ends is never looked at
    assert [data.observations[i].tolist() for i in ends] == [flat[e, STEPS - 1].tolist() for e in (0, EPISODES - 1)]
    assert [data.rewards[i] for i in ends] == [-1.0, -1.0]
    assert len(data) == EPISODES * STEPS


def test_an_archive_in_d4rls_layout_is_what_the_same_hdf5_is(tmp_path):
    data = raw_ogbench()
    del data["masks"]
    with h5py.File(tmp_path / "own.hdf5", "w") as file:
        for key, values in data.items():
            file[key] = values
    one = task(tmp_path / "own.hdf5", horizon=4).transitions()
    other = task(saved(tmp_path / "own.npz", data), horizon=4).transitions()
    for name in ("observations", "actions", "rewards", "masks", "rows"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert one.rows.tolist() == [
        0,
        1,
        2,
        4,
        5,
        6,
        7,
        8,
        10,
        11,
        12,
        13,
        14,
        16,
    ]  # every fourth row of an episode timed out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"rewards": None, "masks": None}, "has no rewards, as OGBench's files come", id="not relabelled"),
        pytest.param({"actions": None}, "has no actions: D4RL's layout needs", id="no actions"),
        pytest.param({"masks": np.ones(4)}, "disagree in rows: .*masks 4", id="lengths"),
        pytest.param({"masks": np.full(18, 0.5)}, "masks holds 0.5 in row 0", id="half a mask"),
        pytest.param({"observations": np.full((18, 2), np.nan)}, "observations holds NaN, first in row 0", id="nan"),
        pytest.param({"observations": np.zeros(18)}, r"observations is float64 \[18\] where", id="flat"),
        pytest.param(
            {"next_observations": np.zeros((18, 3))}, r"next_observations is float64 \[18, 3\] where", id="successors"
        ),
        pytest.param({"rewards": np.array(["a"] * 18, object)}, "never unpickled", id="pickled"),
    ],
)
def test_an_archive_that_cannot_be_trusted_is_refused_in_one_line(tmp_path, changes, message):
    data = {key: value for key, value in {**raw_ogbench(), **changes}.items() if value is not None}
    path = saved(tmp_path / "own.npz", data)
    with pytest.raises(UserError, match=message) as refused:
        task(path).transitions()
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_a_damaged_archive_is_refused(tmp_path, content):
    path = saved(tmp_path / "own.npz", raw_ogbench())
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=r"is empty|is a text file|is not a NumPy archive \(.npz\), or is cut short"):
        task(path).transitions()


def test_a_flipped_byte_in_an_archive_is_found(tmp_path):
    path = saved(tmp_path / "own.npz", raw_ogbench())
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        task(path).transitions()


def pendulum(path: Path, scale: float = 1.0) -> Path:
    """Two random episodes of Pendulum-v1, whose actions lie within ±2."""
    env = gymnasium.make("Pendulum-v1")
    draws = np.random.default_rng(0)
    rows = []
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            action = draws.uniform(-2, 2, 1).astype(np.float32)
            successor, reward, terminated, ended, _ = env.step(action)
            rows.append((observation, action * scale, reward, terminated, ended))
            observation = successor
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    with h5py.File(path, "w") as file:
        for key, values in zip(keys, zip(*rows, strict=True), strict=True):
            file[key] = np.array(values, np.float32)
    return path


def test_actions_are_scaled_by_the_environments_bounds_and_back(tmp_path):
    path = pendulum(tmp_path / "own.hdf5")
    own = task(path, gym_id="Pendulum-v1")
    data = own.transitions()
    with h5py.File(path) as file:
        recorded = file["actions"][...]
    assert np.allclose(data.actions * 2, recorded, atol=5e-5)
    assert own.facts()["clipped_actions"] == 0
    envs = own.make_envs(2)
    assert envs.single_action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    envs.reset(seed=[0, 1])
    with h5py.File(path) as file:
        reward = file["rewards"][0]
    _, rewards, *_ = envs.step(np.stack([recorded[0] / 2, recorded[200] / 2]))
    assert rewards[0] == pytest.approx(reward, abs=1e-5)
    envs.close()


def test_a_score_without_references_is_the_return_and_with_them_d4rls(tmp_path):
    path = pendulum(tmp_path / "own.hdf5")
    returns = np.array([-1500.0, -100.0])
    plain = task(path, gym_id="Pendulum-v1")
    assert plain.score(returns).tolist() == returns.tolist()
    assert plain.facts()["scored"] == "return"
    scored = task(path, gym_id="Pendulum-v1", ref_min=-1500.0, ref_max=-100.0)
    assert scored.score(returns).tolist() == [0, 100]
    assert scored.facts()["scored"] == "normalised"
    assert scored.facts()["physics"] == "Pendulum-v1" and scored.facts()["custom"] is True
    for one_of_two in ({"ref_min": 0.0}, {"ref_max": 0.0}, {"ref_min": 1.0, "ref_max": 1.0}):
        with pytest.raises(UserError, match="give two different returns"):
            task(path, **one_of_two)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"path": None}, "give env.path=FILE", id="no file"),
        pytest.param({"path": "nowhere.npz"}, "nowhere.npz does not exist", id="file that is not there"),
        pytest.param({}, "nothing to evaluate in: give env.gym_id=ID, or evaluation=none", id="no environment"),
        pytest.param({"gym_id": "Pendulum-v7"}, "Pendulum-v7 cannot be made .*doesn't exist", id="version"),
        pytest.param({"gym_id": "no_such_module:Env-v0"}, "no_such_module:Env-v0 cannot be made", id="module"),
        pytest.param({"gym_id": "CartPole-v1"}, r"takes Discrete\(2\); save them as integers", id="discrete"),
        pytest.param({"gym_id": "MountainCarContinuous-v0"}, "observations of 3 entries .* has 2 and 1", id="sizes"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        own = task(**{"path": pendulum(tmp_path / "own.hdf5"), **changes})
        own.transitions()
        own.make_envs(1)
    assert "\n" not in str(refused.value)


def test_an_environment_without_a_limit_of_steps_needs_one(tmp_path):
    gymnasium.register("Endless-v0", "gymnasium.envs.classic_control:PendulumEnv")
    path = pendulum(tmp_path / "own.hdf5")
    with pytest.raises(UserError, match="has no limit of steps: give env.horizon=STEPS"):
        task(path, gym_id="Endless-v0").make_envs(1)
    envs = task(path, gym_id="Endless-v0", horizon=2).make_envs(1)
    envs.reset(seed=[0])
    assert [bool(envs.step(np.zeros((1, 1), np.float32))[3][0]) for _ in range(2)] == [False, True]


def test_normalisation_is_an_option_and_off(tmp_path):
    path = pendulum(tmp_path / "own.hdf5")
    plain, normalized = task(path).transitions(), task(path, normalize=True).transitions()
    assert plain.observation_mean.tolist() == [0, 0, 0] and plain.observation_std.tolist() == [1, 1, 1]
    kept = plain.observations[plain.rows]
    assert np.allclose(normalized.observation_mean, kept.mean(0), atol=1e-5)
    assert np.allclose(normalized.observations[plain.rows].mean(0), 0, atol=1e-5)


def test_training_without_an_evaluation_reports_its_losses(train, tmp_path):
    path = pendulum(tmp_path / "own.hdf5", scale=0.5)
    given = ("env=hdf5", f"env.path={path}", "evaluation=none", "evaluation.every=null", "env.name=my robot")
    done = train(*given)
    assert done.returncode == 0, done.stderr
    assert "not evaluated, losses at the end: value 0." in done.stdout and "score" not in done.stdout
    (directory,) = train.directories()
    assert directory.relative_to(train.runs).parts[:2] == ("single", "my-robot")
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"train"}
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["evaluations"], summary["score"], summary["final_returns"]) == (0, None, None)
    last = [record["value_loss"] for record in records[-10:]]
    assert summary["losses"]["value"] == pytest.approx(np.mean(last))
    assert (directory / "curve.png").stat().st_size > 10_000
    again = train(*given)
    assert again.returncode == 0 and "done already" in again.stderr


def test_training_on_a_file_of_ones_own_evaluates_in_any_environment(train, tmp_path):
    path = pendulum(tmp_path / "own.hdf5")
    done = train("env=hdf5", f"env.path={path}", "env.gym_id=Pendulum-v1", "env.horizon=20")
    assert done.returncode == 0, done.stderr
    assert "return -" in done.stdout and "no references for a score" in done.stdout
    (directory,) = train.directories()
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["score"] == pytest.approx(summary["last10_score"]) and summary["physics"] == "Pendulum-v1"
    evaluations = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert all(set(record["lengths"]) == {20} for record in evaluations if record["kind"] == "eval")


def rows(**changes) -> Rows:
    data = {
        "observations": np.zeros((8, 2), np.float32), "actions": np.zeros((8, 1), np.float32),
        "rewards": np.arange(8, dtype=np.float32), "terminals": np.zeros(8, bool), "timeouts": np.zeros(8, bool),
        "contradicted": 0,
    }  # fmt: skip
    return Rows(**{**data, **changes})


GOAL = np.array([0, 0, 0, 1] * 2, np.float32)


@pytest.mark.parametrize(
    ("data", "reward", "words"),
    [
        pytest.param(rows(), "none", None, id="nothing odd"),
        pytest.param(rows(rewards=GOAL, terminals=GOAL > 0), "none", "env.reward=minus_one", id="antmaze without -1"),
        pytest.param(rows(rewards=GOAL, terminals=GOAL > 0), "minus_one", None, id="antmaze with -1"),
        pytest.param(rows(rewards=GOAL), "none", None, id="a goal that ends nothing (maze2d)"),
        pytest.param(rows(rewards=GOAL - 1, terminals=GOAL > 0), "minus_one", "subtracted already", id="-1 twice"),
        pytest.param(
            rows(rewards=np.array([0, 0, 0, 0, 500, 500, 0, 0], np.float32), terminals=GOAL > 0),
            "return_range", "look scaled by 1000", id="scaled already",
        ),
        pytest.param(
            rows(rewards=np.array([0, 0, 0, 0, 500, 400, 0, 0], np.float32), terminals=GOAL > 0),
            "return_range", None, id="another spread",
        ),
        pytest.param(
            rows(rewards=np.array([-1.5, -1, -0.5, 0, 0, 0.5, 1, 1.5], np.float32) / np.sqrt(0.875)),
            "none", "mean 0 and standard deviation 1", id="standardised",
        ),
        pytest.param(
            rows(rewards=np.float32(np.arange(8) != 4), terminals=GOAL > 0, timeouts=np.arange(8) == 4),
            "none", None, id="a row that only closes an episode",
        ),
        pytest.param(rows(timeouts=np.ones(8, bool)), "none", None, id="no reward at all"),
        pytest.param(rows(actions=np.full((8, 1), 2, np.float32)), "none", "100% of its action entries", id="actions"),
    ],
)  # fmt: skip
def test_what_cost_others_days_is_warned_of(data, reward, words):
    found = data_warnings(data, reward)
    if words is None:
        assert found == []
    else:
        (line,) = found
        assert words in line and "\n" not in line


def test_an_antmaze_without_the_minus_one_is_warned_of_even_where_no_goal_was_reached():
    data = rows(rewards=np.zeros(8, np.float32))
    assert data_warnings(data, "none") == data_warnings(data, "minus_one", antmaze=True) == []
    (line,) = data_warnings(data, "none", antmaze=True)
    assert "env.reward=minus_one" in line


HOPPER = "http://server/gym_mujoco_v2/hopper_medium-v2.hdf5"
ANTMAZE = "http://server/ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5"


@pytest.mark.parametrize(
    ("file", "name", "url", "version"),
    [
        ("hopper_medium-v2.hdf5", "hopper-medium-v2", HOPPER, None),
        ("hopper_medium-v0.hdf5", "hopper-medium-v2", HOPPER, "0"),
        ("mine.hdf5", "hopper-medium-v2", HOPPER, None),
        ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5", "antmaze-umaze-v2", ANTMAZE, "0"),
        ("Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5", "antmaze-umaze-v2", ANTMAZE, None),
        ("door-human-v1.hdf5", "door-human-v0", "http://server/hand_dapg/door-v0_demos_clipped.hdf5", "1"),
    ],
)
def test_a_file_of_another_version_is_warned_of(file, name, url, version):
    line = version_warning(Path("somewhere") / file, name, url)
    assert line is None if version is None else f"says version {version} where {name}" in line


def test_warnings_reach_the_log_with_the_files_name(tmp_path, caplog):
    path = tmp_path / "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((8, 29), np.float32)
        file["actions"] = np.zeros((8, 8), np.float32)
        file["rewards"], file["terminals"] = GOAL, GOAL > 0
    options = {
        "name": "antmaze-umaze-v2", "simulator": "antmaze-umaze", "url": ANTMAZE, "rows": None,
        "observation_dim": 29, "action_dim": 8, "horizon": 700, "ref_min": 0.0, "ref_max": 1.0, "reward": "none",
        "path": path,
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        D4RLTask(**options).transitions()
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "says version 0" in line and line.startswith(str(path))]
    assert [line for line in lines if "env.reward=minus_one" in line and line.startswith(str(path))]
    assert AntMazeTask(goal="run", **options).run_seeded and not AntMazeTask(goal="episode", **options).run_seeded
    with pytest.raises(UserError, match="env.goal=now is not known"):
        AntMazeTask(goal="now", **options)
