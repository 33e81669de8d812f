"""D4RL's tasks on files small enough to write by hand: what is read, what is refused, how it is scored."""

from __future__ import annotations

import hashlib
import logging
import tracemalloc

import h5py
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from iql.dataset_files.data_file import read
from iql.errors import UserError
from iql.tasks.d4rl import D4RLTask


def content(rows: int = 6, **changes) -> dict[str, np.ndarray]:
    """Hopper-sized rows; a change of None leaves a key out."""
    data = {
        "observations": np.arange(rows * 11, dtype=np.float32).reshape(rows, 11),
        "actions": np.full((rows, 3), 0.5, np.float32),
        "rewards": np.arange(rows, dtype=np.float32),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
        **changes,
    }
    return {key: value for key, value in data.items() if value is not None}


@pytest.fixture
def write(tmp_path):
    def write(rows: int = 6, **changes):
        path = tmp_path / "data.hdf5"
        with h5py.File(path, "w") as file:
            for key, value in content(rows, **changes).items():
                file[key] = value
        return path

    return write


def hopper(path, **changes) -> D4RLTask:
    options = {
        "name": "hopper-medium-v2", "simulator": "hopper", "url": None, "rows": None, "observation_dim": 11,
        "action_dim": 3, "horizon": 1000, "ref_min": -20.0, "ref_max": 3180.0, "reward": "none", "path": path,
    }  # fmt: skip
    return D4RLTask(**{**options, **changes})


def marked(rows: int, *where: int) -> np.ndarray:
    values = np.zeros(rows, bool)
    values[list(where)] = True
    return values


def test_rows_come_as_they_are_on_file(write):
    data = read(write(terminals=marked(6, 2), timeouts=marked(6, 4)), horizon=1000)
    assert data.observations.dtype == data.actions.dtype == data.rewards.dtype == np.float32
    assert data.observations.tolist() == content()["observations"].tolist()
    assert data.rewards.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.flatnonzero(data.terminals).tolist() == [2]
    assert np.flatnonzero(data.timeouts).tolist() == [4]
    assert len(data) == 6


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.uint8, np.int64])
def test_columns_and_other_number_types_are_taken(write, kind):
    data = read(
        write(
            observations=content()["observations"].astype(np.float64),
            rewards=np.arange(6, dtype=kind)[:, None],
            terminals=marked(6, 5).astype(kind)[:, None],
            timeouts=marked(6, 1).astype(kind)[:, None],
        ),
        horizon=1000,
    )
    assert data.observations.dtype == np.float32
    assert data.rewards.tolist() == [0, 1, 2, 3, 4, 5]
    assert (data.terminals.tolist(), data.timeouts.tolist()) == (marked(6, 5).tolist(), marked(6, 1).tolist())


def test_next_observations_and_other_leaves_are_ignored(write):
    path = write(**{
        "next_observations": np.full((6, 11), np.nan),
        "infos/qpos": np.zeros((3, 2)),
        "metadata/algorithm": "SAC",
        "metadata/policy/fc0/weight": np.zeros((4, 4)),
    })  # fmt: skip
    data = hopper(path).transitions()
    assert data.observations.tolist() == content()["observations"].tolist()
    assert data.rows.tolist() == [0, 1, 2, 3, 4]


def test_without_timeouts_the_horizon_decides(write):
    task = hopper(write(timeouts=None, terminals=marked(6, 0)), horizon=3)
    assert task.transitions().rows.tolist() == [0, 1, 2, 4]  # 0 ends, 1 to 3 time out, 4 and 5 are cut off


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"rewards": None, "actions": None}, "has no actions, rewards: .*this file has obs", id="missing"),
        pytest.param({"rewards": np.zeros(5)}, "disagree in rows: .*actions 6, rewards 5", id="lengths"),
        pytest.param({"timeouts": np.zeros(7, bool)}, "disagree in rows: .*timeouts 7", id="length of timeouts"),
        pytest.param({"observations": np.zeros(6)}, r"observations is float64 \[6\] where", id="flat"),
        pytest.param({"rewards": np.zeros((6, 2))}, r"rewards is float64 \[6, 2\] where", id="two rewards"),
        pytest.param({"actions": np.float32(1)}, "actions is .*not an array", id="scalar"),
        pytest.param({"rewards": ["a"] * 6}, "rewards is object .*not an array of numbers", id="text"),
        pytest.param({"terminals": np.full(6, 0.5)}, "terminals holds 0.5 in row 0", id="half a terminal"),
        pytest.param(
            {"rewards": np.array([0, 1, np.nan, 2, np.nan, 3])}, "rewards holds NaN, first in row 2", id="nan"
        ),
        pytest.param(
            {"terminals": np.array([0, np.nan, 0, 0, 0, 0])},
            "terminals holds NaN, first in row 1",
            id="nan flag",
        ),
        pytest.param({"actions": np.full((6, 3), -np.inf)}, "actions holds an infinite value.* row 0", id="inf"),
        pytest.param({"rewards": np.full(6, 1e300)}, "rewards holds an infinite value", id="too large for float32"),
        pytest.param({"rows": 0}, "zero rows", id="zero rows"),
        pytest.param({"rows": 1}, "data.hdf5: .*no transition", id="one row"),
    ],
)
def test_data_that_cannot_be_trusted_is_refused(write, changes, message):
    path = write(**changes)
    with pytest.raises(UserError, match=message) as refused:
        hopper(path).transitions()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nan_is_found_in_whichever_block_it_lies(write, monkeypatch):
    monkeypatch.setattr("iql.dataset_files.rows.BLOCK", 4)
    observations = content(11)["observations"]
    observations[9, 10] = np.nan
    with pytest.raises(UserError, match="observations holds NaN, first in row 9"):
        read(write(11, observations=observations), horizon=1000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda whole: b"", "is empty", id="empty"),
        pytest.param(lambda whole: whole[:-1], "cut short", id="truncated"),
        pytest.param(lambda whole: b"PK\3\4" + whole, "or is cut short", id="cut archive"),
        pytest.param(lambda whole: b"<!DOCTYPE html>" * 50, "web page", id="HTML"),
        pytest.param(lambda whole: whole[:96] + bytes(1500) + whole[1596:], "damaged", id="zeros inside"),
    ],
)
def test_files_that_are_not_whole_hdf5_are_refused(write, damage, message):
    path = write()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as refused:
        hopper(path).transitions()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_damaged_compressed_data_is_refused(tmp_path):
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        for key, value in content(2000).items():
            file.create_dataset(key, data=value, compression="gzip", chunks=True)
        start = file["observations"].id.get_chunk_info(0).byte_offset
    whole = bytearray(path.read_bytes())
    whole[start + 20 : start + 60] = bytes(40)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="is damaged and cannot be read"):
        hopper(path).transitions()


def test_a_file_of_another_robot_names_the_sizes_and_who_they_fit(write):
    path = write(observations=np.zeros((6, 17)), actions=np.zeros((6, 6)))
    with pytest.raises(UserError, match="17 entries and actions of 6, but hopper-medium-v2 takes 11 and 3") as refused:
        hopper(path).transitions()
    assert "env=halfcheetah-… or walker2d-…" in str(refused.value)
    path = write(observations=np.zeros((6, 5)))
    with pytest.raises(UserError, match="5 entries and actions of 3.*for data of other sizes there is env=hdf5"):
        hopper(path).transitions()


def test_actions_beyond_the_bounds_are_counted_warned_of_and_clipped(write, caplog):
    actions = np.zeros((6, 3), np.float32)
    actions[1] = [1.5, -1.0, -7]
    task = hopper(write(actions=actions))
    with caplog.at_level(logging.WARNING):
        clipped = task.transitions().actions
    assert "2 of 18 action entries lie beyond ±1" in caplog.text
    limit = np.float32(1 - 1e-5)
    assert clipped[1].tolist() == [limit, -limit, -limit]
    assert task.facts()["clipped_actions"] == 2


def test_scores_are_linear_between_the_reference_returns():
    task = hopper(None)
    assert task.score(np.array([-20.0, 3180.0, 1580.0, 6380.0])).tolist() == [0, 100, 50, 200]
    assert task.score(np.array([[-52.0]])).tolist() == [[-1.0]]
    returns = np.array([100.0, 420.0])  # the spread of scores is 100 · std / (max − min), not the score of it
    assert task.score(returns).std() == pytest.approx(100 * 160 / 3200)


def test_facts_say_what_the_data_is(write):
    rewards = np.array([100, 200, 0, 1280, 300, 7000], np.float32)  # returns 300, 1580; the last row is alone
    task = hopper(write(rewards=rewards, terminals=marked(6, 1), timeouts=marked(6, 4)), physics="gymnasium")
    facts = task.facts()
    assert facts["dataset"] == str(task.path)
    assert facts["custom"] is True
    assert facts["physics"] == "gymnasium"
    assert (facts["rows"], facts["transitions"], facts["episodes"]) == (6, 4, 2)
    assert facts["data_score"] == pytest.approx((10 + 50) / 2)
    assert "mujoco" in facts


def test_without_a_finished_episode_the_data_has_no_score(write):
    assert hopper(write()).facts()["data_score"] is None


def test_the_digest_is_the_files(write):
    task = hopper(write())
    assert task.digest == hashlib.sha256(task.path.read_bytes()).hexdigest()
    before = task.digest
    write(rewards=np.ones(6))
    assert task.digest != before


def test_another_number_of_rows_is_a_warning_for_a_file_of_ones_own(write, caplog):
    hopper(write(), rows=999_906).transitions()
    assert "has 6 rows where D4RL's hopper-medium-v2 has 999,906" in caplog.text


def test_another_number_of_rows_is_refused_where_d4rls_file_is_expected(write, monkeypatch):
    path = write()
    monkeypatch.setenv("IQL_DATA_DIR", str(path.parent))
    task = hopper(None, url="http://127.0.0.1:9/data.hdf5", rows=999_906)
    with pytest.raises(UserError, match=f"has 6 rows where .* 999,906.*env.path={path}"):
        task.transitions()
    assert hopper(None, url="http://127.0.0.1:9/data.hdf5", rows=6).facts()["custom"] is False


def test_equal_returns_name_the_file(write):
    with pytest.raises(UserError, match="data.hdf5: env.reward=return_range divides"):
        hopper(write(), reward="return_range").transitions()


def test_an_unknown_reward_is_refused_at_once():
    with pytest.raises(UserError, match="env.reward=sqrt .* none, return_range, minus_one"):
        hopper(None, reward="sqrt")


def test_environments_are_the_simulators_and_do_not_reset_themselves():
    envs = hopper(None).make_envs(2)
    try:
        observations, _ = envs.reset(seed=[1, 2])
        assert observations.shape == (2, 11)
        assert envs.single_action_space.shape == (3,)
        assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    finally:
        envs.close()


def test_only_mazes_have_a_maze():
    assert hopper(None).maze is None
    assert hopper(None, simulator="maze2d-umaze").maze.name == "maze2d-umaze"


def test_the_dataset_is_in_memory_once(tmp_path):
    rows = 400_000
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.random.default_rng(0).normal(size=(rows, 11))  # float64: twice as large on file
        for key, value in content(rows, observations=None).items():
            file[key] = value
    task = hopper(path, reward="return_range", normalize=True)
    path_terminals = marked(rows, rows // 3)
    with h5py.File(path, "a") as file:
        file["terminals"][:] = path_terminals
    tracemalloc.start()
    try:
        data = task.transitions()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = data.observations.nbytes + data.actions.nbytes + data.rewards.nbytes + data.masks.nbytes + data.rows.nbytes
    assert peak < held + 16 * 2**20  # a copy of the observations alone would be 17 MiB
