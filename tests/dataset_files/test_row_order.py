"""A file's own next_observations: compared with the order of its rows, and rows arranged by them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from iql.errors import UserError
from iql.tasks.file import FileTask

LENGTHS = (6, 3, 1, 5)


def episodes(terminal: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Episodes of LENGTHS one after the other, of states that are all different; `terminal` ones end so, others time
    out.
    """
    random = np.random.default_rng(0)
    states = [random.normal(size=(length + 1, 2)).astype(np.float32) for length in LENGTHS]
    last = [np.arange(length) == length - 1 for length in LENGTHS]
    rows = sum(LENGTHS)
    return {
        "observations": np.concatenate([each[:-1] for each in states]),
        "next_observations": np.concatenate([each[1:] for each in states]),
        "actions": random.uniform(-0.9, 0.9, (rows, 1)).astype(np.float32),
        "rewards": np.arange(rows, dtype=np.float32) / rows,
        "terminals": np.concatenate([ends & (number in terminal) for number, ends in enumerate(last)]),
        "timeouts": np.concatenate([ends & (number not in terminal) for number, ends in enumerate(last)]),
    }


SUCCESSORS = episodes()["next_observations"]


def in_turn(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same rows as a vectorised environment records them: one of each episode that is on, in turn."""
    step = np.concatenate([np.arange(length) for length in LENGTHS])
    return shuffled(columns, np.argsort(step, kind="stable"))


def shuffled(columns: dict[str, np.ndarray], order: np.ndarray | None = None) -> dict[str, np.ndarray]:
    order = np.random.default_rng(1).permutation(sum(LENGTHS)) if order is None else order
    return {name: values[order] for name, values in columns.items()}


def without(columns: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in columns.items() if name not in names}


def written(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def task(path: Path, next_observations: str, **changes) -> FileTask:
    options = {
        "name": "hdf5", "path": path, "gym_id": None, "horizon": None, "reward": "none", "ref_min": None,
        "ref_max": None, "normalize": False, "next_observations": next_observations,
    }  # fmt: skip
    return FileTask(**{**options, **changes})


def seen(own: FileTask) -> list[tuple]:
    """The transitions, with a successor where it counts."""
    data = own.transitions()
    return sorted(
        (*data.observations[i], *data.actions[i], data.rewards[i], data.masks[i])
        + (tuple(data.observations[i + 1]) if data.masks[i] else ())
        for i in data.rows
    )


def on_file(columns: dict[str, np.ndarray]) -> list[tuple]:
    names = ("observations", "actions", "rewards", "terminals", "next_observations")
    return sorted(
        (*state, *action, reward, 1.0 - terminal) + (() if terminal else tuple(successor))
        for state, action, reward, terminal, successor in zip(*(columns[name] for name in names), strict=True)
    )


@pytest.mark.parametrize("terminal", [(), (1,), (3,), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("flags", [True, False], ids=["timeouts", "unmarked"])
@pytest.mark.parametrize("order", [dict, in_turn, shuffled])
def test_the_transitions_are_those_on_file_whatever_the_order_of_its_rows(tmp_path, terminal, flags, order):
    columns = order(episodes(terminal))
    path = written(tmp_path / "own.hdf5", columns if flags else without(columns, "timeouts"))
    own = task(path, "file")
    assert seen(own) == on_file(columns)
    facts = own.facts()
    assert (facts["transitions"], facts["episodes"]) == (sum(LENGTHS), len(LENGTHS))
    returns = [part.sum() for part in np.split(episodes()["rewards"], np.cumsum(LENGTHS)[:-1])]
    assert facts["data_score"] == pytest.approx(np.mean(returns))


def test_the_scale_of_returns_is_that_of_the_episodes(tmp_path):
    columns = episodes()
    straight = task(written(tmp_path / "a.hdf5", columns), "file", reward="return_range").transitions()
    mixed = task(written(tmp_path / "b.hdf5", shuffled(columns)), "file", reward="return_range").transitions()
    assert sorted(straight.rewards[straight.rows]) == pytest.approx(sorted(mixed.rewards[mixed.rows]))


def test_by_default_the_next_row_is_taken_as_d4rl_does(tmp_path):
    columns = in_turn(episodes())
    plain = task(written(tmp_path / "a.hdf5", without(columns, "next_observations")), "row").transitions()
    same = task(written(tmp_path / "b.hdf5", columns), "row").transitions()
    assert same.rows.tolist() == plain.rows.tolist()
    assert same.observations.tolist() == plain.observations.tolist()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        pytest.param(episodes(), None, id="timeouts"),
        pytest.param(episodes((0, 1, 2, 3)), None, id="terminals"),
        pytest.param(without(episodes(), "timeouts"), "in 3 of 14 rows", id="no ends"),
        pytest.param(without(episodes((1,)), "timeouts"), "in 2 of 13 rows", id="some ends"),
        pytest.param(in_turn(episodes()), "in 11 of 11 rows", id="in turn"),
        pytest.param(episodes() | {"next_observations": SUCCESSORS * np.nan}, "in 11 of 11", id="NaN"),
        pytest.param(episodes() | {"next_observations": SUCCESSORS.astype(np.float16)}, None, id="rounded"),
        pytest.param(episodes() | {"next_observations": np.zeros(3)}, None, id="of another form"),
    ],
)
def test_where_the_two_differ_one_line_says_in_how_many_rows(tmp_path, caplog, columns, words):
    task(written(tmp_path / "own.hdf5", columns), "row").transitions()
    lines = [record.getMessage() for record in caplog.records]
    if words is None:
        assert lines == []
    else:
        (line,) = lines
        assert words in line and "env.next_observations=file" in line and "\n" not in line


def test_a_timeout_whose_successor_on_file_is_what_a_reset_began_makes_no_transition(tmp_path):
    columns = episodes()
    ends = np.flatnonzero(columns["timeouts"])[:-1]
    columns["next_observations"][ends] = columns["observations"][ends + 1]
    kept = np.setdiff1d(np.arange(sum(LENGTHS)), ends)
    own = task(written(tmp_path / "own.hdf5", columns), "file")
    assert seen(own) == on_file({name: values[kept] for name, values in columns.items()})


def test_observations_that_stay_the_same_are_no_endless_circle(tmp_path):
    columns = episodes()
    columns["observations"][:] = columns["next_observations"][:] = 1.0
    columns["next_observations"][::2] = 2.0
    assert seen(task(written(tmp_path / "own.hdf5", columns), "file")) != []
    columns["next_observations"][:] = columns["observations"][::-1]
    own = task(written(tmp_path / "other.hdf5", without(columns, "timeouts")), "file")
    assert seen(own) == on_file(columns)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (without(episodes(), "next_observations"), "has no next_observations, which env.next_observations=file asks"),
        (episodes() | {"next_observations": np.zeros((15, 3))}, r"next_observations is float64 \[15, 3\] where"),
        (episodes() | {"next_observations": SUCCESSORS * np.nan}, "next_observations holds NaN"),
    ],
)
def test_successors_that_are_none_are_refused(tmp_path, columns, words):
    with pytest.raises(UserError, match=words):
        task(written(tmp_path / "own.hdf5", columns), "file").transitions()


def test_another_word_is_refused(tmp_path):
    with pytest.raises(UserError, match="env.next_observations=both is not known; use row or file"):
        task(written(tmp_path / "own.hdf5", episodes()), "both").transitions()
