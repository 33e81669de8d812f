"""Data made for OGBench's tasks: read and relabelled as its own, the same bytes after a kill, errors in one line."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
import zipfile
from pathlib import Path

import commands
import numpy as np
import pytest

from iql.config import task_configs
from iql.envs import ogbench
from iql.envs.ogbench_controllers import EPISODE_ROWS, Recorder
from iql.errors import UserError
from iql.system import atomic_files
from iql.tasks import made_ogbench
from iql.tasks.made_ogbench import make_file

ROOT = Path(__file__).parents[2]
CUBE, POINTS = "cube-single-play", "pointmaze-medium-navigate"
SHORT = 30  # states of an episode here


def make(dataset: str = POINTS, rows: int = 2 * SHORT, **more) -> Path:
    return make_file(dataset, rows, episode_rows=SHORT, **more)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("IQL_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "made"


@pytest.mark.parametrize("dataset", [CUBE, POINTS])
def test_a_made_file_is_read_as_ogbenchs_and_relabelled(dataset):
    path = make(dataset)
    assert f"{dataset}-v0" not in path.name
    with np.load(path) as file:
        columns = dict(file)
    assert set(columns) == {"observations", "actions", "terminals", "qpos", "qvel"}
    assert columns.pop("terminals").tolist() == 2 * ([False] * (SHORT - 1) + [True])
    assert all(column.dtype == np.float32 and len(column) == 2 * SHORT for column in columns.values())
    assert np.abs(columns["actions"]).max() <= 1
    (node,) = task_configs.settings([(f"{dataset}-singletask-v0", (f"env.path={path}",))])
    found = task_configs.task(node).transitions()
    assert len(found) == 2 * (SHORT - 1)
    env = ogbench.make(f"{dataset}-singletask-v0", "post")
    rewards, masks = ogbench.relabelled(env, columns["qpos"], None)
    kept = np.flatnonzero(np.arange(2 * SHORT) % SHORT < SHORT - 1)
    np.testing.assert_array_equal(found.rewards[found.rows], rewards[kept])
    np.testing.assert_array_equal(found.masks[found.rows], masks[kept])


def test_a_state_is_the_one_before_its_action():
    """The recorded action leads from a recorded state to the next one."""
    columns = Recorder(POINTS, SHORT).episode(0, 0)
    np.testing.assert_array_equal(columns["observations"], columns["qpos"])
    steps = np.linalg.norm(np.diff(columns["qpos"], axis=0), axis=1)
    far = np.linalg.norm(columns["actions"][:-1], axis=1) * 0.2  # a point's step is .2 of its action, unless at a wall
    assert (np.abs(steps - far) < 1e-4).mean() > 0.5


@pytest.mark.parametrize(("dataset", "number", "states"), [(CUBE, 14, 100), (POINTS, 4, EPISODE_ROWS)])
def test_the_controllers_fulfil_the_default_task(dataset, number, states):
    """In some episodes, of which these are two: the cube is put down at the goal, the point passes by it."""
    env = ogbench.make(f"{dataset}-singletask-v0", "post")
    rewards, masks = ogbench.relabelled(env, Recorder(dataset, states).episode(0, number)["qpos"], None)
    np.testing.assert_array_equal(rewards == 0, masks == 0)
    assert len(masks) == states and masks[0] == 1 and 0 < (masks == 0).mean() < 0.5


@pytest.mark.parametrize("dataset", [CUBE, POINTS])
def test_an_episode_depends_on_its_seed_and_number_alone(dataset):
    before = np.random.get_state()
    recorder = Recorder(dataset, SHORT)
    others = [recorder.episode(0, 0), recorder.episode(1, 1)]
    again, alone = recorder.episode(0, 1), Recorder(dataset, SHORT).episode(0, 1)
    for name, column in alone.items():
        np.testing.assert_array_equal(column, again[name])
    assert all((other["qpos"] != alone["qpos"]).any() for other in others)
    assert all(np.array_equal(one, other) for one, other in zip(before, np.random.get_state(), strict=True))


def test_a_killed_making_goes_on_and_gives_the_same_bytes(monkeypatch, tmp_path, caplog):
    undisturbed = make(rows=3 * SHORT, out=tmp_path / "undisturbed.npz").read_bytes()
    recorded = []
    real = Recorder.episode

    def episode(self, seed, number):
        recorded.append(number)
        if len(recorded) == 2:
            raise KeyboardInterrupt
        return real(self, seed, number)

    monkeypatch.setattr(Recorder, "episode", episode)
    path = tmp_path / "disturbed.npz"
    with pytest.raises(KeyboardInterrupt):
        make(rows=3 * SHORT, out=path)
    assert not path.exists() and (tmp_path / "disturbed.npz.parts" / "episode-00000.npz").exists()
    with caplog.at_level(logging.INFO):
        make(rows=3 * SHORT, out=path)
    assert recorded == [0, 1, 1, 2]
    assert "going on after 1 of 3 episodes" in caplog.text and "3 of 3 episodes, 90 rows" in caplog.text
    assert path.read_bytes() == undisturbed
    assert not path.with_name("disturbed.npz.parts").exists()


def test_a_file_that_is_there_is_kept_and_its_comment_says_how_it_was_made(cache, monkeypatch, caplog):
    path = make(rows=SHORT + 1)
    assert path == cache / f"{POINTS}-made-rows{2 * SHORT}-seed0.npz"
    with zipfile.ZipFile(path) as archive:
        assert f"{POINTS}, 2 episodes, 60 rows, seed 0, ogbench ".encode() in archive.comment
    monkeypatch.setattr(made_ogbench, "Recorder", None)
    with caplog.at_level(logging.INFO):
        assert make() == path
    assert f"{path} is already there" in caplog.text


def test_episodes_that_were_made_otherwise_are_made_anew(cache, caplog):
    parts = cache / f"{POINTS}-made-rows{2 * SHORT}-seed0.npz.parts"
    parts.mkdir(parents=True)
    (parts / "made.txt").write_text("of another version")
    (parts / "episode-00000.npz").write_bytes(b"old")
    assert make().is_file()
    assert "made otherwise" in caplog.text


def test_errors_are_one_line(monkeypatch, tmp_path, cache):
    def refusal(*arguments, **more) -> str:
        with pytest.raises(UserError) as refused:
            make(*arguments, **more)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert f"data can be made for {CUBE} and {POINTS}" in refusal("antmaze-large-navigate")
    assert "make at least 30" in refusal(rows=SHORT - 1)
    assert "negative" in refusal(seed=-1)
    assert "OGBench's own file" in refusal(out=tmp_path / f"{POINTS}-v0.npz")
    assert "is a folder" in refusal(out=tmp_path)
    (tmp_path / "notes").write_text("mine")
    assert "not a NumPy archive" in refusal(out=tmp_path / "notes")
    np.savez(tmp_path / "mine.npz", observations=np.zeros(3))
    assert "does not say how it was made" in refusal(out=tmp_path / "mine.npz")
    assert "cannot be made" in refusal(out=tmp_path / "notes" / "a.npz")
    monkeypatch.setattr("iql.envs.ogbench.version", lambda _: "1.1.5")
    assert "pip install" in refusal()
    assert not cache.exists()


def test_a_full_disk_is_one_line_and_leaves_the_finished_episodes(monkeypatch, cache):
    real = os.fsync
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:  # facts and first episode: a file and its folder each
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        make()
    left = sorted(path.name for path in cache.glob("*.parts/*"))
    assert left == ["episode-00000.npz", "made.txt"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_script_with_one_line(number, code, cache):
    script = [sys.executable, "scripts/make_ogbench.py", POINTS, "--rows", "500000"]
    running = commands.start(script, cwd=ROOT, stderr=commands.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(cache.glob("*.parts/episode-*.npz")):
        assert time.monotonic() < until and running.poll() is None
        time.sleep(0.05)
    os.kill(running.pid, number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == code
    (line,) = (line for line in errors.splitlines() if line.startswith("make_ogbench.py: "))
    assert line == "make_ogbench.py: stopped; the same command goes on after the last finished episode"
    assert "Traceback" not in errors and not list(cache.glob("*.parts/.*"))


def test_the_script_prints_the_training_command_and_refuses_in_one_line(tmp_path):
    script = [sys.executable, "scripts/make_ogbench.py"]
    made = commands.run(
        [*script, POINTS, "--rows", "1001", "--out", tmp_path / "my data.npz"], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    path = tmp_path / "my data.npz"
    command = f"python train.py env={POINTS}-singletask-v0 'env.path={path}'"
    assert made.stdout.splitlines() == [str(path), command]
    refused = commands.run([*script, "cube", "--rows", "1001"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("make_ogbench.py: cube cannot be made") and refused.stderr.count("\n") == 1
