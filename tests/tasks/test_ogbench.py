"""OGBench's single tasks: rewards and ends are the package's own, what does not belong together is refused."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import ogbench_data
import pytest
from conftest import refusal_of
from ogbench_data import FAMILIES

import iql
from iql.config import task_configs
from iql.dataset_files import npz
from iql.envs import ogbench
from iql.errors import UserError
from iql.tasks.ogbench import OGBenchTask

POINTS = "pointmaze-medium-navigate"
SHORT = ("updates=200", "env.horizon=20", "evaluation.every=100", "checkpoint.every=100", "log_every=50")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """The made file of a dataset, by its name without the version, with states in which its default task is done."""
    folder = tmp_path_factory.mktemp("ogbench")

    @cache
    def file(family: str) -> Path:
        path = ogbench_data.make(folder / f"{family}-v0.npz", f"{family}-v0")
        columns = dict(np.load(path))
        env = ogbench.make(f"{family}-singletask-v0", "post")
        env.reset(seed=0)
        base: Any = env.unwrapped
        for row in (3, 4, 50, 81):  # 81 is the last state of a trajectory
            done(base, columns, row)
        np.savez_compressed(path, **columns)
        return path

    return file


def done(base: Any, columns: dict[str, np.ndarray], row: int) -> None:
    """Change a row's state to one in which every subtask is done."""
    qpos = columns["qpos"][row]
    if hasattr(base, "get_agent_ball_xy"):
        qpos[15:17] = base.cur_goal_xy
    elif hasattr(base, "maze_map"):
        qpos[:2] = base.cur_goal_xy
    if hasattr(base, "_num_cubes"):
        for cube in range(base._num_cubes):
            qpos[14 + 7 * cube : 17 + 7 * cube] = base.data.mocap_pos[base._cube_target_mocap_ids[cube]]
    if hasattr(base, "_target_drawer_pos"):
        qpos[-2:] = base._target_drawer_pos, base._target_window_pos
    if hasattr(base, "_num_buttons"):
        columns["button_states"][row] = base._target_button_states


def task(family: str, path: Path | None, **changes: Any) -> OGBenchTask:
    own = () if path is None else (f"env.path={path}",)
    (node,) = task_configs.settings([(f"{family}-singletask-v0", own)])
    made = task_configs.task({**node, **changes})
    assert isinstance(made, OGBenchTask)
    return made


def changed(path: Path, folder: Path, **changes: np.ndarray | None) -> Path:
    """A copy of a file with other columns; None removes one."""
    columns = {name: array for name, array in {**dict(np.load(path)), **changes}.items() if array is not None}
    np.savez(folder / path.name, **columns)
    return folder / path.name


def complaint(made: OGBenchTask) -> str:
    with pytest.raises(UserError) as refused:
        made.transitions()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("family", [*FAMILIES, POINTS])
def test_rows_rewards_and_masks_are_the_packages(recorded, family):
    path = recorded(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium
        from ogbench import load_dataset
        from ogbench.relabel_utils import relabel_dataset

        theirs = load_dataset(str(path), add_info=True)
        name = f"{family.rpartition('-')[0]}-singletask-v0"
        relabel_dataset(name, gymnasium.make(name, disable_env_checker=True), theirs)
    ours = task(family, path).transitions()
    np.testing.assert_array_equal(ours.observations[ours.rows], theirs["observations"])
    np.testing.assert_array_equal(ours.observations[ours.rows + 1], theirs["next_observations"])
    np.testing.assert_allclose(ours.actions[ours.rows], theirs["actions"], atol=1e-5)
    np.testing.assert_array_equal(ours.rewards[ours.rows], theirs["rewards"])
    np.testing.assert_array_equal(ours.masks[ours.rows], theirs["masks"])
    assert np.flatnonzero(ours.masks == 0).tolist() == [3, 4, 50, 81]
    assert len(ours) == ogbench_data.EPISODES * ogbench_data.STEPS
    assert (ours.rewards[ours.masks == 0] == 0).all() and ours.rewards.min() <= -1


def test_another_task_of_the_dataset_has_other_rewards_on_the_same_file(recorded):
    path = recorded("puzzle-3x3-play")
    (node,) = task_configs.settings([("puzzle-3x3-play-singletask-task1-v0", (f"env.path={path}",))])
    first, default = task_configs.task(node), task("puzzle-3x3-play", path)
    assert first.digest != default.digest
    assert (first.transitions().rewards != default.transitions().rewards).any()
    assert first.transitions().masks.all()


def test_the_facts_and_the_score(recorded):
    made = task("cube-single-play", recorded("cube-single-play"))
    facts = made.facts()
    assert (facts["physics"], facts["success_timing"]) == (f"ogbench {ogbench.package_version()}", "post")
    assert (facts["scored"], facts["data_score"], facts["custom"]) == ("success", None, True)
    assert facts["mujoco"] and facts["transitions"] == 160
    assert made.score(np.array([0.0, 1.0])).tolist() == [0, 100]


def test_the_packages_version_is_part_of_the_digest(recorded, monkeypatch):
    made = task(POINTS, recorded(POINTS))
    before = made.digest
    monkeypatch.setattr(ogbench, "version", lambda _: "1.3.0")
    assert made.digest != before


def test_reading_takes_hardly_more_memory_than_the_rows(tmp_path, recorded, monkeypatch):
    """So 5,000,000 rows of 115 entries fit once where they fit."""
    rows = 60_000
    small = dict(np.load(recorded("puzzle-3x3-play")))
    many = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in small.items()}
    path = tmp_path / "many.npz"
    np.savez(path, **many)
    monkeypatch.setattr(npz, "BLOCK", 2_000)
    made = task("puzzle-3x3-play", path)
    made.simulator_facts()  # makes the environment
    tracemalloc.start()
    data, _ = made.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(getattr(data, name).nbytes for name in ("observations", "actions", "rewards", "terminals", "timeouts"))
    assert peak < 1.15 * held
    np.testing.assert_array_equal(
        data.rewards[:164], task("puzzle-3x3-play", recorded("puzzle-3x3-play")).read()[0].rewards
    )


def test_an_array_in_columns_first_order_is_read_alike(tmp_path, recorded, monkeypatch):
    path = recorded("antmaze-large-navigate")
    other = changed(path, tmp_path, observations=np.asfortranarray(np.load(path)["observations"]))
    monkeypatch.setattr(npz, "BLOCK", 50)
    one, two = (task("antmaze-large-navigate", each).read()[0] for each in (path, other))
    np.testing.assert_array_equal(one.observations, two.observations)


# What is refused.


def test_a_file_without_states_is_refused(tmp_path, recorded):
    path = changed(recorded("puzzle-3x3-play"), tmp_path, qpos=None)
    assert f"{path} has no qpos: puzzle-3x3-singletask-task4-v0 needs a file as OGBench's server" in complaint(
        task("puzzle-3x3-play", path)
    )
    path = changed(recorded("puzzle-3x3-play"), tmp_path, button_states=None)
    assert "has no button_states" in complaint(task("puzzle-3x3-play", path))


@pytest.mark.parametrize(
    ("of", "given", "line"),
    [
        ("cube-single-play", "cube-double-play", "observations is [164, 37] where cube-single-singletask-task2-v0 has"),
        ("antmaze-large-navigate", "humanoidmaze-large-navigate", "has [164, 29]: it was recorded in another"),
        ("antmaze-large-navigate", "antmaze-giant-navigate", "lie within the walls of antmaze-large-singletask-task1"),
        ("humanoidmaze-large-navigate", "humanoidmaze-medium-navigate", "lie within the walls of humanoidmaze-large"),
    ],
)
def test_a_file_of_another_environment_is_refused(recorded, of, given, line):
    assert line in complaint(task(of, recorded(given)))


def test_other_contents_are_refused(tmp_path, recorded):
    path = recorded("antmaze-large-navigate")
    columns = dict(np.load(path))
    images = np.zeros((164, 64, 64, 3), np.uint8)
    assert "images, which no network reads" in complaint(
        task("antmaze-large-navigate", changed(path, tmp_path, observations=images))
    )
    unknown = columns["qpos"].copy()
    unknown[7, 3] = np.nan
    assert "qpos holds NaN, first in row 7" in complaint(
        task("antmaze-large-navigate", changed(path, tmp_path, qpos=unknown))
    )
    short = changed(path, tmp_path, terminals=columns["terminals"][:-1])
    assert "observations is [164, 29] where antmaze-large-singletask-task1-v0 has [163, 29]" in complaint(
        task("antmaze-large-navigate", short)
    )
    empty = {name: array[:0] for name, array in columns.items()}
    assert "has zero rows" in complaint(task("antmaze-large-navigate", changed(path, tmp_path, **empty)))
    whole = path.read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "is not a NumPy archive (.npz), or is cut short" in complaint(task("antmaze-large-navigate", cut))
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    cut.write_bytes(flipped)
    assert "is damaged" in complaint(task("antmaze-large-navigate", cut))


def test_a_task_has_to_be_named():
    for overrides, line in (
        ((), "env=ogbench needs a task: give env.dataset=NAME"),
        (("env.dataset=visual-cube-single-play-singletask-v0",), "its observations are images"),
        (("env.dataset=cube-single-play-v0",), "is no single task"),
    ):
        with pytest.raises(UserError, match=line):
            task_configs.task(task_configs.settings([("ogbench", overrides)])[0])


def test_a_wrong_timing_is_refused_by_the_schema(train):
    result = train("env=cube-single-play-singletask-v0", "env.success_timing=after")
    assert result.returncode == 1 and "env.success_timing" in refusal_of(result)


# Where the file is.


def test_the_file_is_found_in_ogbenchs_folder_and_in_the_cache(tmp_path, recorded, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IQL_DATA_DIR", str(tmp_path / "cache"))
    content = recorded(POINTS).read_bytes()
    theirs = tmp_path / "home" / ".ogbench" / "data" / f"{POINTS}-v0.npz"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(content)
    made = task(POINTS, None)
    assert made.url == f"https://rail.eecs.berkeley.edu/datasets/ogbench/{POINTS}-v0.npz"
    assert made.locate() == theirs and made.facts()["custom"] is False
    (node,) = task_configs.settings([(f"{POINTS}-singletask-v0", ())])
    assert task_configs.local_path(node) == theirs
    ours = tmp_path / "cache" / theirs.name
    ours.parent.mkdir()
    ours.write_bytes(content)
    assert made.locate() == ours
    assert ours.with_name(f"{ours.name}.sha256").read_text().startswith(hashlib.sha256(content).hexdigest())
    ours.unlink()
    theirs.write_bytes(content[:1000])
    monkeypatch.setattr("iql.system.download.fetch", lambda url, own, problem: own.write_bytes(content))
    assert made.locate() == ours, "a damaged file in their folder is passed over"


# Trainings.


@pytest.mark.parametrize(
    "family",
    [
        POINTS,
        "cube-single-play",
        *(pytest.param(each, marks=pytest.mark.slow) for each in FAMILIES if each != "cube-single-play"),
    ],
)
def test_a_whole_training(train, recorded, family):
    result = train(f"env={family}-singletask-v0", f"env.path={recorded(family)}", *SHORT)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr and "MuJoCo library" not in result.stdout + result.stderr
    (directory,) = train.directories()
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["headline"] == "last3" and summary["score"] == summary["last3_score"]
    assert set(summary["final_returns"]) <= {0.0, 1.0}
    assert summary["physics"] == f"ogbench {ogbench.package_version()}"
    assert summary["data"]["success_timing"] == "post"
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["settings"]["env"]["name"] == directory.parents[1].name
    assert "singletask-task" in directory.parents[1].name
    assert "success in %" in result.stdout
    policy = iql.load_policy(directory)
    assert policy.observation_dim == manifest["settings"]["env"]["observation_dim"]


def test_success_before_the_step_is_another_run(train, recorded):
    own = (f"env={POINTS}-singletask-v0", f"env.path={recorded(POINTS)}", *SHORT, "updates=20")
    for timing in ("post", "pre"):
        result = train(*own, f"env.success_timing={timing}")
        assert result.returncode == 0, result.stderr
    names = sorted(directory.parent.name for directory in train.directories())
    assert len(names) == 2 and sum("success_timing=pre" in name for name in names) == 1


def test_any_other_task_of_the_package_trains_by_its_name(train, tmp_path):
    path = ogbench_data.make(tmp_path / "own.npz", "antmaze-medium-navigate-v0")
    name = "antmaze-medium-navigate-singletask-task3-v0"
    result = train("env=ogbench", f"env.dataset={name}", f"env.path={path}", *SHORT, "updates=20")
    assert result.returncode == 0, result.stderr
    assert train.directories()[0].parents[1].name == name


@pytest.mark.parametrize(("dataset", "usual"), [(POINTS, -1.0), ("cube-single-play", -1.0)])
def test_what_is_learned_online_has_the_rewards_of_the_data(recorded, dataset, usual):
    """Of evaluation's environments the reward is success; those of the data are counted from 0 downwards."""
    made = task(dataset, recorded(dataset))
    evaluated, learned = made.make_envs(1), made.make_learning_envs(1)
    actions = np.zeros((1, made.action_dim), np.float32)
    for envs, reward in ((evaluated, 0.0), (learned, usual)):
        reset: Any = envs.reset
        reset(seed=[1], options={"reset_mask": np.ones(1, bool)})
        _, rewards, terminated, _, infos = envs.step(actions)
        assert (rewards[0], terminated[0], infos["success"][0]) == (reward, False, False)
        envs.close()


def test_a_pointmaze_is_finetuned_with_success_as_its_score(recorded, train):
    result = train(
        f"env={POINTS}-singletask-v0", f"env.path={recorded(POINTS)}", "env.horizon=20", "algorithm=iql",
        "finetune=online", "updates=20", "finetune.steps=45", "finetune.evaluate_every=45",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (directory,) = train.directories()
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    episodes = [record for record in records if record["kind"] == "episode"]
    assert [(each["return"], each["score"], each["success"]) for each in episodes] == [(-20.0, 0.0, 0.0)] * 2
    assert json.loads((directory / "summary.json").read_text())["finetune"]["regret"] == 1.0
