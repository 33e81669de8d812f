"""Files as users have them: read by their content and under their names, refused or warned of in one line otherwise."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from iql.errors import UserError
from iql.tasks.d4rl import D4RLTask
from iql.tasks.file import FileTask

EPISODES, STEPS = 4, 5
ROWS = EPISODES * STEPS


def walk() -> dict[str, np.ndarray]:
    """Episodes of a point that is pushed about, all cut by a limit of steps."""
    random = np.random.default_rng(0)
    actions = random.uniform(-0.9, 0.9, (EPISODES, STEPS, 2))
    places = np.cumsum(np.concatenate([random.normal(size=(EPISODES, 1, 2)), 0.1 * actions], 1), 1)
    states = np.concatenate([places, np.tile(np.arange(STEPS + 1.0)[:, None], (EPISODES, 1, 1))], 2)
    return {
        "observations": states[:, :-1].reshape(ROWS, 3),
        "actions": actions.reshape(ROWS, 2),
        "rewards": -np.abs(places[:, 1:]).sum(2).reshape(ROWS),
        "terminals": np.zeros(ROWS, bool),
        "timeouts": np.arange(ROWS) % STEPS == STEPS - 1,
    }


def task(path: Path, **changes) -> FileTask:
    options = {
        "name": "hdf5", "path": path, "gym_id": None, "horizon": None, "reward": "none", "ref_min": None,
        "ref_max": None, "normalize": False,
    }  # fmt: skip
    return FileTask(**{**options, **changes})


@pytest.fixture(params=["hdf5", "npz"])
def written(request, tmp_path) -> Callable[[dict], Path]:
    """Writes columns to a file of either format; a name with a slash is an array in a group."""

    def write(columns: dict[str, np.ndarray]) -> Path:
        path = tmp_path / f"own.{request.param}"
        if request.param == "npz":
            np.savez(path, **columns)
        else:
            with h5py.File(path, "w") as file:
                for name, values in columns.items():
                    file[name] = values
        return path

    return write


def renamed(**names: str | None) -> dict[str, np.ndarray]:
    """The walk with columns under other names, or without."""
    columns = {names.get(key, key): values for key, values in walk().items()}
    return {name: values for name, values in columns.items() if name}


def same(found, expected) -> None:
    for name in ("observations", "actions", "rewards", "masks", "rows"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name


@pytest.fixture
def plain(tmp_path):
    """What the walk in D4RL's layout comes to."""
    path = tmp_path / "plain.npz"
    np.savez(path, **walk())
    return task(path).transitions()


def refused(path: Path, *words: str, **changes) -> str:
    with pytest.raises(UserError) as told:
        task(path, **changes).transitions()
    line = str(told.value)
    assert "\n" not in line and str(path) in line
    for each in words:
        assert each in line
    return line


def warned(path: Path, caplog, **changes) -> list[str]:
    caplog.clear()
    task(path, **changes).transitions()
    return [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records]


# Names.


@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        ({"terminals": "terminations", "timeouts": "truncations"}, None),
        ({"timeouts": "truncations"}, None),
        ({"terminals": "terminated", "timeouts": "truncated"}, None),
        ({"timeouts": "dones"}, None),  # beside terminals there is no doubt what they are
        ({"terminals": None, "timeouts": "dones"}, {"terminals": None, "timeouts": "dones"}),
        ({"observations": "obs", "actions": "act"}, {"observations": "obs", "actions": "act"}),
        ({"observations": "a/b/obs", "rewards": "log/r"}, {"observations": "a/b/obs", "rewards": "log/r"}),
    ],
    ids=str,
)
def test_columns_under_other_names_are_the_same_data(written, plain, columns, keys):
    same(task(written(renamed(**columns)), keys=keys).transitions(), plain)


def test_parts_of_a_group_are_put_side_by_side_in_the_order_given(written, plain):
    columns = walk()
    whole = columns.pop("observations")
    path = written({**columns, "observations/time": whole[:, 2], "observations/place": whole[:, :2]})
    line = refused(path, "has a group in place of observations", "env.keys={observations:[")
    assert "observations/place" in line and "observations/time" in line
    same(task(path, keys={"observations": ["observations/place", "observations/time"]}).transitions(), plain)


def test_a_flag_under_two_names_must_be_the_same(written, plain):
    columns = walk()
    same(task(written({**columns, "truncations": columns["timeouts"]})).transitions(), plain)
    path = written({**columns, "truncations": ~columns["timeouts"]})
    refused(path, "timeouts and truncations, which mean the same and differ", "'env.keys={timeouts:timeouts}'")
    same(task(path, keys={"timeouts": "timeouts"}).transitions(), plain)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"terminals": "dones", "timeouts": None},
            ("its dones do not say", "'env.keys={terminals:dones}'", "'env.keys={terminals:null,timeouts:dones}'"),
        ),
        (
            {"observations": "obs", "actions": "act", "rewards": "rew"},
            ("has no observations, actions, rewards", "'env.keys={observations:obs,actions:act,rewards:rew}'"),
        ),
        ({"actions": None}, ("has no actions: D4RL's layout needs",)),
        ({"actions": "Actions", "rewards": "Reward"}, ("'env.keys={actions:Actions,rewards:Reward}'",)),
    ],
    ids=["dones", "tianshou", "missing", "capitals"],
)
def test_other_layouts_are_refused_with_what_would_be_needed(written, columns, words):
    refused(written(renamed(**columns)), *words)


@pytest.mark.parametrize("group", ["data/demo_0", "episode_0"], ids=["robomimic", "Minari"])
def test_an_episode_a_group_is_refused_with_what_would_be_needed(tmp_path, group):
    path = tmp_path / "own.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in walk().items():
            file[f"{group}/{name}"] = file[f"{group[:-1]}1/{name}"] = values
    refused(path, f"holds a group for each episode ({group}, ", "docs/data.md", "env=minari")


def test_the_lines_in_the_docs_make_one_file_of_robomimics(tmp_path, monkeypatch, plain):
    monkeypatch.chdir(tmp_path)
    columns = walk()
    with h5py.File("low_dim.hdf5", "w") as file:
        for number in range(EPISODES):
            rows, demo = slice(number * STEPS, (number + 1) * STEPS), file.create_group(f"data/demo_{number}")
            for name in ("actions", "rewards"):
                demo[name] = columns[name][rows]
            states = columns["observations"][rows]
            parts = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object")
            for part, values in zip(parts, (*np.hsplit(states, 3), states[:, :0]), strict=True):
                demo[f"obs/{part}"] = values
    refused(tmp_path / "low_dim.hdf5", "holds a group for each episode (data/demo_0, data/demo_1, …)")
    lines = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    exec(lines.partition("```python\n")[2].partition("```")[0], {})
    same(task(tmp_path / "own.hdf5").transitions(), plain)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"observations": "obs"}, "has no obs, which env.keys names for observations (this file has actions, obs"),
        ({"rewards": None}, "rewards cannot be null"),
        ({"rewards": ["rewards", "rewards"]}, "rewards is one column, not a list"),
        ({"seeds": "seeds"}, "env.keys has seeds; it may have observations, actions"),
    ],
)
def test_keys_that_name_nothing_are_refused(written, keys, words):
    with pytest.raises(UserError) as told:
        task(written(walk()), keys=keys).transitions()
    assert words in str(told.value)


def test_columns_in_one_group_are_refused_with_their_paths(tmp_path, plain):
    path = tmp_path / "own.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in walk().items():
            file[f"data/{name}"] = values
    mapping = ",".join(f"{name}:data/{name}" for name in walk())
    refused(path, f"has its columns in the group data: give 'env.keys={{{mapping}}}'")
    same(task(path, keys={name: f"data/{name}" for name in walk()}).transitions(), plain)


def test_an_archive_without_names_is_told_how_to_be_saved(tmp_path):
    np.savez(tmp_path / "own.npz", *walk().values())
    refused(tmp_path / "own.npz", "this file has arr_0", "numpy.savez(FILE, observations=...")


@pytest.mark.parametrize("name", ["episode_id", "traj_ids", "is_last", "episode_ends", "dones_float", "path"])
def test_other_marks_of_episodes_are_said_to_be_unused(written, caplog, name):
    columns = {**renamed(timeouts=None), "terminals": np.arange(ROWS) == ROWS - 1, name: np.arange(ROWS) // STEPS}
    path = written(columns)
    (line,) = warned(path, caplog)
    assert f"its {name} is ignored" in line and "timeouts" in line
    assert warned(path, caplog, horizon=STEPS) == []
    assert warned(written({**walk(), name: np.arange(ROWS), "length": np.arange(ROWS)}), caplog) == []


# Formats.


def hdf5_bytes(**options) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        for name, values in walk().items():
            file[name] = values
    return buffer.getvalue()


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **walk())
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["own.NPZ", "own", "own.hdf5", "own.npz", "own.pkl", "own.v1.h5"])
@pytest.mark.parametrize("content", [hdf5_bytes, npz_bytes])
def test_a_file_is_what_it_holds_whatever_its_name(tmp_path, plain, name, content):
    path = tmp_path / name
    path.write_bytes(content())
    same(task(path).transitions(), plain)


def test_hdf5_behind_a_block_of_the_users_is_hdf5(tmp_path, plain):
    path = tmp_path / "own.mat"
    path.write_bytes(hdf5_bytes(userblock_size=1024))
    same(task(path).transitions(), plain)


def saved_by_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save(walk(), buffer)
    return buffer.getvalue()


def saved_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, walk()["observations"])
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.csv", "1,2")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(walk()), "a Python pickle, which is never opened here"),
        (pickle.dumps(walk(), 0), "a Python pickle"),
        (pickle.dumps([walk()], 2), "a Python pickle"),
        (saved_by_torch(), "a file of torch.save, a kind of pickle"),
        (saved_array(), "a single NumPy array (.npy)"),
        (b"\x1f\x8b" + bytes(100), "compressed by gzip"),
        (b"PAR1" + bytes(100), "a Parquet table"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (b"observation,action,reward\n1,2,3\n", "a text file"),
        (b"<!DOCTYPE html><html>", "a web page (HTML)"),
        (zipped(), "a ZIP archive without NumPy arrays"),
        (b"", "is empty"),
        (bytes(range(256)), "is not an HDF5 file, or is damaged"),
        (npz_bytes()[:-50], "is not a NumPy archive (.npz), or is cut short"),
        (hdf5_bytes()[:-50], "is cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("d4rl", [False, True], ids=["own", "D4RL's task"])
def test_what_is_no_data_is_named(tmp_path, content, words, d4rl):
    path = tmp_path / "own.hdf5"
    path.write_bytes(content)
    if not d4rl:
        refused(path, words)
        return
    options = {"name": "hopper-medium-v2", "simulator": "hopper", "url": None, "rows": None, "observation_dim": 3}
    options |= {"action_dim": 2, "horizon": 5, "ref_min": 0.0, "ref_max": 1.0, "reward": "none", "path": path}
    with pytest.raises(UserError) as told:
        D4RLTask(**options).transitions()
    assert words in str(told.value)


def test_a_pickle_runs_nothing(tmp_path):
    class Command:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "trajectories.pkl"
    path.write_bytes(pickle.dumps([Command()]))
    refused(path, "never opened")
    assert not (tmp_path / "ran").exists()


# Contents.


@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool])
def test_several_whole_numbers_a_row_are_refused(written, kind):
    refused(written({**walk(), "actions": np.ones((ROWS, 3), kind)}), "discrete actions", "floating-point")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({}, None, id="nothing odd"),
        pytest.param({"timeouts": np.zeros(ROWS)}, f"no row ends an episode: all {ROWS} are read as one", id="no ends"),
        pytest.param({"terminals": np.arange(ROWS) % 5 < 4}, "80% of its rows are terminal", id="masks"),
        pytest.param({"observations": 1e12 * walk()["observations"]}, "env.normalize=true", id="huge observations"),
        pytest.param({"rewards": 1e30 * walk()["rewards"]}, "env.reward=return_range", id="huge rewards"),
        pytest.param({"actions": np.arange(ROWS)[:, None] % 3.0}, "whole numbers (0, 1, 2)", id="discrete floats"),
        pytest.param({"actions": np.sign(walk()["actions"])}, None, id="bang-bang control"),
        pytest.param({"actions": 0 * walk()["actions"]}, None, id="no action at all"),
    ],
)
def test_what_looks_odd_is_one_line(written, caplog, changes, words):
    lines = warned(written({**walk(), **changes}), caplog)
    if words is None:
        assert lines == []
    else:
        assert [line for line in lines if words in line and "\n" not in line], lines


def test_a_horizon_marks_ends_where_the_file_does_not(written, plain, caplog):
    path = written(renamed(timeouts=None))
    assert warned(path, caplog, horizon=STEPS) == []
    same(task(path, horizon=STEPS).transitions(), plain)


def test_an_offset_that_float32_cannot_keep_is_warned_of_even_if_normalised(written, caplog):
    path = written({**walk(), "observations": walk()["observations"] + [0, 0, 1e6]})
    first, second = warned(path, caplog)
    assert "entry 2 of its observations reaches 1e+06, too large" in first
    assert "entry 2 of its observations lies around 1e+06 and varies by 1.4: float32 keeps steps of 0.06" in second
    assert warned(path, caplog, normalize=True) == [second]
