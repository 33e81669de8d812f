"""Generated data: the controller's rows, and a cache that survives kills, damage and full disks."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import h5py
import numpy as np
import pytest
from conftest import mounts

from iql.envs.d4rl.maze2d import RADIUS
from iql.envs.d4rl.mazes import MAZE2D
from iql.errors import UserError
from iql.tasks.generated import MadeMaze2d, make_file, make_waypoint_data

ROOT = Path(__file__).parents[2]
UMAZE = MAZE2D["maze2d-umaze"]
ROWS = 60_000  # for processes that are to be killed: long enough to be hit

MAKER = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from iql.errors import UserError
from iql.tasks.generated import make_file
from iql.envs.d4rl.mazes import MAZE2D
print("ready", flush=True)
try:
    make_file("maze2d-umaze-made", MAZE2D["maze2d-umaze"], int(sys.argv[1]), 0)
except UserError as error:
    sys.exit(f"refused: {error}")
"""

# What makes a maker kill itself, as kill -9 would, at a moment of its work.
DIE = """import os, pathlib, signal
from iql.tasks import generated as made
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_WHEN = {
    "2000 rows are made": "real = made.make_waypoint_data\n"
    "made.make_waypoint_data = lambda maze, rows, seed, progress, **more: real(maze, rows, seed, die, **more)\n",
    "all rows are made": "made._content = die\n",
    "a part is written": "real = made._content\n"
    "def part(data, recipe):\n"
    "    (path,) = pathlib.Path(os.environ['IQL_DATA_DIR']).rglob('*.tmp')\n"
    "    path.write_bytes(real(data, recipe)[:100_000]), die()\n"
    "made._content = part\n",
    "all is written": "os.fsync = die\n",
    "it is renamed": "real = os.replace\nos.replace = lambda *names: (real(*names), die())\n",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IQL_DATA_DIR", str(tmp_path))
    return tmp_path / "made"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The bytes of ROWS rows, made in peace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IQL_DATA_DIR", str(tmp_path_factory.mktemp("undisturbed")))
        return make_file("maze2d-umaze-made", UMAZE, ROWS, 0).read_bytes()


def maker(rows: int = ROWS, patch: str = "") -> commands.Process:
    """Another process that makes the file; back once it is about to begin."""
    command = [sys.executable, "-c", (DIE + patch if patch else "") + MAKER, str(rows)]
    process = commands.start(command, cwd=ROOT, stdout=commands.PIPE, stderr=commands.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def task(**changes) -> MadeMaze2d:
    settings = {
        "name": "maze2d-umaze-made",
        "simulator": "maze2d-umaze",
        "made_rows": 6000,
        "made_seed": 0,
        "url": None,
        "rows": None,
        "observation_dim": 4,
        "action_dim": 2,
        "horizon": 300,
        "ref_min": 23.85,
        "ref_max": 161.86,
        "reward": "none",
    }
    return MadeMaze2d(**{**settings, **changes})


# The data


@pytest.fixture(scope="module")
def data():
    return make_waypoint_data(UMAZE, 5000, 0)


def test_the_layout_is_d4rls(data):
    shapes = {key: (values.shape, values.dtype.name) for key, values in data.items()}
    assert shapes == {
        "observations": ((5000, 4), "float32"),
        "actions": ((5000, 2), "float32"),
        "rewards": ((5000,), "float32"),
        "terminals": ((5000,), "bool"),
        "timeouts": ((5000,), "bool"),
        "infos/goal": ((5000, 2), "float32"),
        "infos/qpos": ((5000, 2), "float32"),
        "infos/qvel": ((5000, 2), "float32"),
    }
    assert not data["terminals"].any()
    assert np.abs(data["actions"]).max() == 1.0
    np.testing.assert_array_equal(np.hstack([data["infos/qpos"], data["infos/qvel"]]), data["observations"])


def test_rewards_are_those_of_the_evaluation_goal_at_the_rows_own_position(data):
    distance = np.linalg.norm(data["observations"][:, :2] - UMAZE.goal, axis=1)
    clear = np.abs(distance - 0.5) > 1e-5  # positions are rounded to float32 on file
    np.testing.assert_array_equal(data["rewards"][clear], (distance <= 0.5)[clear])
    assert 0 < data["rewards"].mean() < 0.5


def test_every_walk_ends_at_its_goals_cell_or_at_the_horizon(data):
    ends = np.flatnonzero(data["timeouts"])
    assert len(ends) > 30
    first = 0
    for end in ends:
        goals = data["infos/goal"][first : end + 1]
        assert (goals == goals[0]).all()
        cell = np.rint(goals[0])
        assert np.abs(goals[0] - cell).max() <= 0.1 + 1e-6
        assert not UMAZE.walls[tuple(cell.astype(int))]
        assert np.linalg.norm(data["observations"][end, :2] - cell) < 0.1 + 1e-6 or end - first + 1 == UMAZE.horizon
        first = end + 1


@pytest.mark.parametrize("name", MAZE2D)
def test_walks_reach_nearly_all_goals_and_stay_between_the_walls(name):
    maze = MAZE2D[name]
    data = make_waypoint_data(maze, 12_000, 1)
    lengths = np.diff(np.flatnonzero(data["timeouts"]))
    assert np.mean(lengths < maze.horizon) > 0.95
    positions = data["observations"][:, :2]
    cells = np.floor(positions - maze.corner).astype(int)
    assert len(np.unique(cells, axis=0)) > 0.9 * len(maze.free_cells)
    for corner in ([-1, -1], [-1, 1], [1, -1], [1, 1]):  # of the square around the ball; walls give a little
        touched = np.floor(positions + 0.6 * RADIUS * np.array(corner) - maze.corner).astype(int)
        assert not maze.walls[tuple(touched.T)].any()


def test_data_obeys_the_simulator():
    """Each row's successor is what the simulator makes of its state and action (float32 on file)."""
    from iql.envs.registry import make

    data = make_waypoint_data(UMAZE, 600, 3)
    env = make("maze2d-umaze").unwrapped
    for row in range(599):
        env.set_state(data["infos/qpos"][row], data["infos/qvel"][row])
        observation = env.step(data["actions"][row])[0]
        np.testing.assert_allclose(observation, data["observations"][row + 1], rtol=0, atol=1e-4)


def test_the_seed_decides_the_data_and_more_rows_continue_it(data):
    again, longer, other = (make_waypoint_data(UMAZE, *args) for args in ((5000, 0), (5500, 0), (5000, 1)))
    for key, values in data.items():
        np.testing.assert_array_equal(values, again[key])
        np.testing.assert_array_equal(values, longer[key][:5000])
    assert not np.array_equal(data["observations"], other["observations"])


def test_without_noise_actions_are_the_controllers():
    quiet = make_waypoint_data(UMAZE, 3000, 0, noise=0.0)
    noisy = make_waypoint_data(UMAZE, 3000, 0)
    assert quiet["timeouts"].sum() > noisy["timeouts"].sum()


def test_progress_counts_to_the_last_row():
    seen: list[int] = []
    make_waypoint_data(UMAZE, 4500, 0, seen.append)
    assert seen == [2000, 4000, 4500]


# The task


def test_the_task_trains_on_the_made_file(cache):
    made = task()
    path = made.locate()
    assert path == cache / "maze2d-umaze-made-rows6000-seed0.hdf5"
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["observations"], make_waypoint_data(UMAZE, 6000, 0)["observations"])
        assert set(file) == {"observations", "actions", "rewards", "terminals", "timeouts", "infos"}
    transitions = made.transitions()
    assert transitions.observations.shape == (6000, 4)
    assert made.maze is UMAZE
    assert [entry.name for entry in cache.iterdir() if not entry.name.endswith(".lock")] == [path.name]


def test_a_file_is_made_once_and_another_seed_or_size_is_another_file(cache):
    path = task().locate()
    made_at = path.stat().st_mtime_ns
    assert task().locate() == path
    assert path.stat().st_mtime_ns == made_at
    assert len({task(made_seed=1).locate(), task(made_rows=6001).locate(), path}) == 3


def test_the_datas_success_and_the_random_policys(cache):
    made = task(made_rows=30_000)
    with h5py.File(made.locate()) as file:
        windows = np.asarray(file["rewards"]).reshape(100, 300)
    assert made.success_rate_of_data() == pytest.approx(windows.any(axis=1).mean())
    rate = made.random_policy_success(episodes=20)
    assert 0 < rate < 0.7
    assert made.random_policy_success(episodes=20) == rate


def test_a_file_of_the_users_own_is_taken_instead(cache, tmp_path):
    own = shutil.copy(task().locate(), tmp_path / "mine.hdf5")
    shutil.rmtree(cache)
    assert task(path=own).locate() == Path(own)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"made_rows": 300}, "made_rows=300"),
        ({"simulator": "hopper"}, "maze2d-large"),
    ],
)
def test_what_cannot_be_made_is_refused(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        task(**changes)


# What may happen to the file


@pytest.mark.parametrize("damage", ["cut", "emptied", "first bit", "middle bit", "last bit", "not HDF5"])
def test_a_damaged_file_is_made_anew_with_a_word(cache, caplog, damage):
    path = task().locate()
    whole = path.read_bytes()
    flip = {"first bit": 0, "middle bit": len(whole) // 2, "last bit": len(whole) - 1}
    if damage in flip:
        bad = bytearray(whole)
        bad[flip[damage]] ^= 1
    else:
        bad = bytearray({"cut": whole[:-100], "emptied": b"", "not HDF5": b"<html></html>"}[damage])
    path.write_bytes(bad)
    with caplog.at_level(logging.WARNING):
        assert task().locate().read_bytes() == whole
    assert str(path) in caplog.text
    assert "making it anew" in caplog.text


@pytest.mark.parametrize("moment", KILLED_WHEN)
def test_killed_at_any_moment_it_leaves_nothing_that_is_trusted(cache, undisturbed, moment):
    process = maker(patch=KILLED_WHEN[moment])
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert sizes(cache, ".hdf5") in ([], [len(undisturbed)])
    path = make_file("maze2d-umaze-made", UMAZE, ROWS, 0)
    assert path.read_bytes() == undisturbed
    assert sizes(cache, ".tmp") == []


def test_killed_several_times_in_a_row_it_ends_as_if_undisturbed(cache, undisturbed):
    for moment in ("a part is written", "2000 rows are made", "all is written"):
        maker(patch=KILLED_WHEN[moment]).communicate(timeout=100)
    assert make_file("maze2d-umaze-made", UMAZE, ROWS, 0).read_bytes() == undisturbed


def test_interrupted_it_cleans_up_after_itself(cache):
    process = maker(10**7)
    deadline = time.monotonic() + 60
    while not sizes(cache, ".tmp"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert sizes(cache, ".tmp") == sizes(cache, ".hdf5") == []


def test_processes_that_start_together_make_it_once(cache, undisturbed):
    processes = [maker() for _ in range(3)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "".join(said).count("\nmade maze2d-umaze-made") == 1
    assert "".join(said).count("waiting for it") <= 2
    assert sizes(cache, ".hdf5") == [len(undisturbed)]
    assert (cache / f"maze2d-umaze-made-rows{ROWS}-seed0.hdf5").read_bytes() == undisturbed


def sizes(folder: Path, suffix: str) -> list[int]:
    """Sizes of the files in `folder` that end so; a file that vanishes meanwhile does not count."""
    found = []
    for entry in folder.glob(f"*{suffix}") if folder.exists() else ():
        try:
            found.append(entry.stat().st_size)
        except FileNotFoundError:
            continue
    return found


# Folders that take no file; mounts of its own keep it from the rest of the machine


def run_mounted(mount: str, rows: int) -> subprocess.CompletedProcess[str]:
    """The file made in a process that alone sees `mount`; the folder is listed on stdout afterwards."""
    run = f'{mount} && "{sys.executable}" -c "$MAKER" {rows}; code=$?; ls -A "$IQL_DATA_DIR/made"; exit $code'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", run],
        cwd=ROOT,
        env={**os.environ, "MAKER": MAKER},
        capture_output=True,
        text=True,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user reads when the file cannot be made; nothing of the file is left."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert ".tmp" not in done.stdout
    assert "seed0.hdf5\n" not in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("refused: ")]
    return line


READ_ONLY = 'mount --bind "$IQL_DATA_DIR" "$IQL_DATA_DIR" && mount -o remount,bind,ro "$IQL_DATA_DIR"'


@mounts
@pytest.mark.parametrize("size", ["64k", "1m"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(cache, size):
    line = refused(run_mounted(f'mount -t tmpfs -o size={size} tmpfs "$IQL_DATA_DIR"', ROWS))
    assert str(cache) in line
    assert "No space left on device; free some space, or set IQL_DATA_DIR" in line


@mounts
def test_a_read_only_folder_is_one_clear_line(cache):
    line = refused(run_mounted(READ_ONLY, 6000))
    assert str(cache) in line
    assert "Read-only file system; make it writable, or set IQL_DATA_DIR" in line


@mounts
def test_a_file_made_before_is_read_from_a_read_only_folder(cache):
    make_file("maze2d-umaze-made", UMAZE, 6000, 0)
    done = run_mounted(READ_ONLY, 6000)
    assert (done.returncode, done.stderr) == (0, "")
