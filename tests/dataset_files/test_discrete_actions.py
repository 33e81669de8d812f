"""Files with whole numbers as actions."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from iql.dataset_files import data_file
from iql.dataset_files.checks import data_warnings
from iql.dataset_files.discrete_actions import MOST, is_discrete, one_hot, refuse
from iql.errors import UserError

NUMBERS = [0, 2, 1, 1, 2, 0]


def written(path: Path, actions: np.ndarray, **more: np.ndarray) -> Path:
    rows = len(actions)
    columns = {
        "observations": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2),
        "actions": actions,
        "rewards": np.linspace(0, 1, rows),
        "terminals": np.arange(rows) == rows - 1,
        **more,
    }
    if path.suffix == ".npz":
        np.savez(path, **columns)
        return path
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            file[key] = values
    return path


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_whole_numbers_become_one_hot_vectors(tmp_path, suffix, kind, shape):
    rows = data_file.read(written(tmp_path / f"own{suffix}", np.array(NUMBERS, kind).reshape(shape)), None)
    assert is_discrete(rows) and rows.actions.tolist() == NUMBERS
    hot = one_hot(rows, None, "own")
    assert hot.actions.dtype == np.float32 and hot.actions.tolist() == np.eye(3)[NUMBERS].tolist()
    assert one_hot(rows, 5, "own").actions.shape == (6, 5)


def test_rows_that_are_rearranged_keep_their_actions(tmp_path):
    observations = np.arange(12, dtype=np.float32).reshape(6, 2)
    path = written(tmp_path / "own.npz", np.array(NUMBERS), next_observations=observations + 2)
    rows = data_file.read(path, None, None, "file")
    assert is_discrete(rows)
    hot = one_hot(rows, 3, path)
    for row, number in enumerate(NUMBERS):
        place = int(np.flatnonzero((rows.observations == observations[row]).all(1))[0])
        assert hot.actions[place].argmax() == number


def test_ogbenchs_layout_may_have_them_too(tmp_path):
    path = written(tmp_path / "own.npz", np.array(NUMBERS), masks=np.ones(6))
    assert data_file.read(path, None).actions.tolist() == NUMBERS


@pytest.mark.parametrize(
    ("actions", "count", "line"),
    [
        ([0, -1], None, "the action in row 1 is -1, and discrete actions here are 0, 1, 2, …; number them so on file"),
        ([0, 1, 4], 4, "the action in row 2 is 4, and discrete actions here are 0 … 3; number them so on file"),
        ([0, MOST], None, "there are 4,097 discrete actions, more than 4,096; if they are continuous, save them"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, actions, count, line):
    path = written(tmp_path / "own.npz", np.array(actions))
    with pytest.raises(UserError) as refused:
        one_hot(data_file.read(path, None), count, path)
    assert str(refused.value).startswith(f"{path}: {line}") and "\n" not in str(refused.value)


def test_several_whole_numbers_a_row_are_refused(tmp_path):
    path = written(tmp_path / "own.npz", np.ones((6, 3), int))
    with pytest.raises(UserError, match="discrete actions are one whole number a row") as refused:
        data_file.read(path, None)
    assert "\n" not in str(refused.value)


def test_a_task_with_continuous_actions_refuses_them(tmp_path):
    path = written(tmp_path / "own.npz", np.array(NUMBERS))
    with pytest.raises(UserError, match="discrete ones, where hopper-medium-v2 takes continuous ones"):
        refuse(data_file.read(path, None), path, "hopper-medium-v2")


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        (NUMBERS, None),
        ([1, 1, 1], "every row's action is 1: there is nothing to choose between"),
        ([0, 3, 0], "2 of its 4 actions never occur (1, 2): nothing is learned of them"),
    ],
)
def test_actions_that_the_data_does_not_show_are_a_warning(tmp_path, numbers, line):
    rows = one_hot(data_file.read(written(tmp_path / "own.npz", np.array(numbers)), None), None, "own")
    found = [each for each in data_warnings(rows, "none", discrete=True) if "action" in each]
    assert (found == []) if line is None else found[0].startswith(line)
