"""Environments of users: sound ones are played, every breach of Gymnasium's interface is one line that says where."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from user_environments import FAULT, LENGTH

from iql.errors import UserError
from iql.evaluation.rollout import EpisodeError, evaluate, first_step
from iql.tasks.file import FileTask


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Some rows that fit all of the environments."""
    random, rows = np.random.default_rng(0), 100
    path = tmp_path_factory.mktemp("data") / "point.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = random.normal(size=(rows, 3))
        file["actions"] = random.uniform(-1, 1, (rows, 2))
        file["rewards"] = random.normal(size=rows)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % LENGTH == LENGTH - 1
    return path


def task_in(data: Path, name: str) -> FileTask:
    return FileTask(
        path=data, gym_id=f"user_environments:{name}-v0", name="hdf5", horizon=None, reward="none", ref_min=None,
        ref_max=None, normalize=False,
    )  # fmt: skip


def played(data: Path, name: str):
    task = task_in(data, name)
    task.transitions()
    envs = task.make_envs(2)
    try:
        first_step(envs, 0)
        (episodes,) = evaluate(lambda rows: np.ones((*rows.shape[:2], 2)), envs, [[7, 8, 9]], first=5)
    finally:
        envs.close()
    return episodes


@pytest.mark.parametrize(
    "name", ["Point", "Arrays", "Dictionary", "Repaired", "WithoutOptions", "NanAtItsEnd", "RaisesAtItsClose"]
)
def test_what_can_be_understood_is_played(data, name):
    episodes = played(data, name)
    assert episodes.lengths.tolist() == [FAULT if name == "NanAtItsEnd" else LENGTH] * 3
    if name != "NanAtItsEnd":
        assert episodes.returns.tolist() == pytest.approx(played(data, "Point").returns.tolist(), rel=1e-5)


FIRST = r"episode 1 \(seed 0\)"
LATER = rf"episode 6 \(seed 7\), step {FAULT}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OldStep", rf"{FIRST}, step 1: its step returned 4 values, as in Gym's old interface.*shimmy"),
        ("OldReset", rf"{FIRST}, at its reset: its reset returned float64 \[3\], where.*\(observation, info\).*shimmy"),
        ("OldNoSeed", rf"{FIRST}, at its reset: its reset takes no seed.*shimmy"),
        ("WrongShape", rf"{FIRST}, at its reset: the observation is float64 \[4\] where its space, Box.*numbers \[3\]"),
        ("DictionaryWithoutItsPart", rf"{FIRST}, at its reset: the observation has no a, which its space, Dict"),
        ("RaisesAtReset", rf"{FIRST}, at its reset: raised KeyError: 'start'"),
        ("NanReward", rf"{LATER}: the reward is nan"),
        ("NoReward", rf"{LATER}: the reward is None, not one number"),
        ("TwoRewards", rf"{LATER}: the reward is float64 \[2\], not one number"),
        ("NanObservation", rf"{LATER}: entry 1 of the observation is nan"),
        ("HugeObservation", rf"{LATER}: entry 0 of the observation is -?inf"),
        ("NoObservation", rf"{LATER}: the observation is None where its space, Box"),
        ("Words", rf"{LATER}: the observation is a list like <U5 \[3\] where"),
        ("NoFlag", rf"{LATER}: the flag terminated is None"),
        ("Nothing", rf"{LATER}: its step returned None, where Gymnasium's returns 5 values"),
        ("Raises", rf"{LATER}: raised RuntimeError: the simulator became unstable"),
        ("Leaves", rf"{LATER}: raised SystemExit: no licence"),
    ],
)
def test_what_breaks_the_interface_is_one_line_with_episode_and_step(data, name, words):
    with pytest.raises(EpisodeError, match=f"^the environment {name}-v0, {words}") as told:
        played(data, name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NeedsArgument", "argument: 'size'.*register it with the arguments that it needs"),
        ("LeavesAtOnce", r"cannot be made \(3\)"),
        ("NotGymnasiums", "must inherit from the gymnasium.Env.*shimmy"),
        ("NoSpace", "has no observation_space"),
    ],
)
def test_what_cannot_be_made_is_one_line_with_what_to_do(data, name, words):
    with pytest.raises(UserError, match=f"env.gym_id=user_environments:{name}-v0 .*{words}") as told:
        task_in(data, name).transitions()
    assert "\n" not in str(told.value)


def test_what_closing_raises_is_a_line_in_the_log(data, caplog):
    played(data, "RaisesAtItsClose")
    assert "raised RuntimeError when it was closed: nothing to close" in caplog.text


def test_a_policy_whose_action_is_nan_is_not_the_environments_fault(data):
    envs = task_in(data, "Point").make_envs(1)
    with pytest.raises(EpisodeError, match=r"episode 1 \(seed 7\), step 1: entry 0 of the action of the policy is nan"):
        evaluate(lambda rows: np.full((*rows.shape[:2], 2), np.nan), envs, [[7]])


def test_a_nan_return_ends_the_run_in_one_line_and_the_same_command_goes_on_once_it_is_mended(train, data):
    train.environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    words = (
        "env=hdf5", f"env.path={data}", "env.gym_id=user_environments:NanRewardWhereAsked-v0", "updates=60",
        "checkpoint.every=1000",
    )  # fmt: skip
    train.environment["NAN_REWARD"] = "1"
    failed = train(*words)
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert "the evaluation after update 20 failed: the environment NanRewardWhereAsked-v0, episode" in last
    assert f"step {FAULT}: the reward is nan. The run keeps its checkpoints; the same command goes on" in last
    assert "Traceback" not in failed.stderr
    (directory,) = train.directories()
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["update=000000040.ckpt"]
    del train.environment["NAN_REWARD"]
    done = train(*words)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records if record["kind"] == "train"] == list(range(5, 61, 5))
    assert [record["update"] for record in records if record["kind"] == "eval"] == [20, 40, 60]
