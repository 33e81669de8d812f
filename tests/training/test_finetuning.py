"""What a user sees of finetuning: one run of two phases, packs, kills in both, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Trainer, numbers_of, refusal_of, timeless
from kills import signal_at, stop_at

from iql.evaluation.pending import training_seed
from iql.runs import checkpoints
from iql.runs.metrics_file import of_kind, read_records
from iql.runs.saved_networks import read_trained

ONLINE = ("finetune=online", "updates=40", "finetune.steps=45", "finetune.evaluate_every=15", "env.horizon=20")
ENVIRONMENTS = Path(__file__).parents[1] / "user_environments.py"


def records_of(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [timeless(record) for record in of_kind(read_records(directory / "metrics.jsonl"), kind)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir):
    """The runs of a pack of two that nothing disturbed."""
    environment = {**os.environ, "IQL_DATA_DIR": str(data_dir), "OMP_NUM_THREADS": "1"}
    train = Trainer(tmp_path_factory.mktemp("undisturbed") / "runs", environment)
    result = train(*ONLINE, "seed=[0,1]")
    assert result.returncode == 0, result.stderr
    return train, result


def test_both_phases_are_one_run(undisturbed):
    train, result = undisturbed
    directories = train.directories()
    assert [path.name for path in directories] == ["seed=0", "seed=1"]
    assert directories[0].parent.name.startswith("finetune=online,updates=40,")
    for directory in directories:
        summary = json.loads((directory / "summary.json").read_text())
        evaluations = records_of(directory, "eval")
        where = [(each["update"], each["phase"], each.get("step")) for each in evaluations]
        assert where == [(20, "offline", None), (40, "offline", None), (55, "online", 15), (70, "online", 30),
                         (85, "online", 45)]  # fmt: skip
        trained = records_of(directory, "train")
        assert [each["update"] for each in trained] == list(range(5, 86, 5))
        assert {each["phase"] for each in trained if each["update"] <= 40} == {"offline"}
        assert [each["step"] for each in trained if each["phase"] == "online"] == list(range(5, 46, 5))
        episodes = records_of(directory, "episode")
        assert [each["length"] for each in episodes] == [20, 20] and [each["step"] for each in episodes] == [20, 40]
        online = [each["score"] for each in evaluations[2:]]
        assert summary["updates"] == 85 and summary["evaluations"] == 3
        assert summary["final_score"] == online[-1] and summary["last10_score"] == pytest.approx(np.mean(online))
        regret = np.mean([1 - each["success"] for each in episodes])
        assert summary["finetune"] == {
            "steps": 45,
            "taken_back_rows": 0,
            "offline_score": evaluations[1]["score"],
            "episodes": 2,
            "regret": regret,
            "regret_of": "success",
        }
        assert not (directory / "online_rows.bin").exists()
    assert "→" in result.stdout and "after 45 steps online, regret 1.00" in result.stdout


def test_the_offline_phase_is_that_of_a_run_without_finetuning(undisturbed, train):
    """With the constant rate of finetuning."""
    result = train("updates=40", "env.horizon=20", "seed=0", "algorithm.policy_schedule=constant")
    assert result.returncode == 0, result.stderr
    own = [record for record in records_of(undisturbed[0].directories()[0], "train") if record["phase"] == "offline"]
    plain = records_of(train.directories()[0], "train")
    assert [{key: value for key, value in record.items() if key != "phase"} for record in own] == plain


def test_a_member_is_the_same_alone(undisturbed, train):
    result = train(*ONLINE, "seed=1")
    assert result.returncode == 0, result.stderr
    alone, member = numbers_of(train.directories()[0]), numbers_of(undisturbed[0].directories()[1])
    assert alone["networks"] == member["networks"] and alone["metrics"] == member["metrics"]


@pytest.mark.parametrize("updates", [(10,), (39, 40), (41, 59), (47, 63, 84)], ids=str)
def test_kill_9_in_either_phase_and_at_the_border_changes_no_bit(undisturbed, train, updates):
    command = (*ONLINE, "seed=[0,1]", "checkpoint.every=7")
    for update in updates:
        assert train(*command, patch=stop_at(update)).returncode == -9
    result = train(*command)
    assert result.returncode == 0, result.stderr
    for own, other in zip(train.directories(), undisturbed[0].directories(), strict=True):
        assert numbers_of(own) == numbers_of(other)


@pytest.mark.parametrize("algorithm", ["td3_bc", "awac", "xql", "iql_fql", "iql algorithm.extraction=ddpg_bc"])
def test_other_algorithms_are_finetuned_killed_and_resumed_alike(trainer_in, tmp_path, algorithm):
    """Also where the policy moves in every second update alone, and where it is deterministic."""
    command = (*ONLINE, "seed=[0,1]", "checkpoint.every=7", *f"algorithm={algorithm}".split())
    whole, killed = (trainer_in(tmp_path / name) for name in ("whole", "killed"))
    assert whole(*command).returncode == 0
    assert killed(*command, patch=stop_at(60)).returncode == -9
    assert killed(*command).returncode == 0
    for own, other in zip(killed.directories(), whole.directories(), strict=True):
        assert numbers_of(own) == numbers_of(other)
    assert len(whole.directories()) == 2


@pytest.mark.parametrize("signal_update", [41, 60])
def test_a_signal_saves_and_the_same_command_goes_on(undisturbed, train, signal_update):
    command = (*ONLINE, "seed=[0,1]")
    stopped = train(*command, patch=signal_at(signal_update))
    assert stopped.returncode == 128 + 15, stopped.stderr
    result = train(*command)
    assert result.returncode == 0, result.stderr
    for own, other in zip(train.directories(), undisturbed[0].directories(), strict=True):
        assert numbers_of(own) == numbers_of(other)


def test_it_starts_from_a_finished_run_and_goes_on_where_its_name_says(train):
    offline = ("updates=40", "env.horizon=20", "seed=[0,1]")
    assert train(*offline).returncode == 0
    sources = train.directories()
    online = ("finetune=online", "finetune.steps=30", "finetune.evaluate_every=15", "env.horizon=20", "seed=[0,1]")
    result = train(*online, f"finetune.from={sources[0].parent}", "sweep.name=online")
    assert result.returncode == 0, result.stderr
    began = sorted((train.runs / "online").rglob("summary.json"))
    for path, source in zip(began, sources, strict=True):
        summary, before = json.loads(path.read_text()), json.loads((source / "summary.json").read_text())
        assert summary["updates"] == 30
        first = records_of(path.parent, "eval")[0]
        assert (first["update"], first["phase"]) == (0, "offline")
        assert summary["finetune"]["offline_score"] == first["score"]
        assert before["updates"] == 40
    # Each member from the run of its own seed; from another one it is another run.
    again = train(*online, f"finetune.from={sources[0]}", "sweep.name=online", "seed=1")
    assert again.returncode == 0 and len(sorted((train.runs / "online").rglob("summary.json"))) == 3
    copy = train.runs.parent / "copied.ckpt"
    shutil.copy(sources[1] / "networks.ckpt", copy)
    same = train(*online, f"finetune.from={copy}", "sweep.name=online", "seed=1")
    assert same.returncode == 0 and "done already" in same.stderr, same.stderr


def test_the_networks_of_the_source_are_what_the_first_update_sees(train):
    assert train("updates=20", "env.horizon=20").returncode == 0
    (source,) = train.directories()
    command = ("finetune=online", "finetune.steps=4", "finetune.evaluate_every=4", f"finetune.from={source}",
               "env.horizon=20", "sweep.name=online", "optimizer.lr=1e-12", "algorithm.polyak=1e-9")  # fmt: skip
    result = train(*command)
    assert result.returncode == 0, result.stderr
    (own,) = (train.runs / "online").rglob("networks.ckpt")
    for network, weights in read_trained(own).networks.items():
        for name, tensor in weights.items():
            np.testing.assert_allclose(tensor, read_trained(source).networks[network][name], atol=1e-6)


def test_online_alone_from_scratch(train):
    result = train("finetune=online", "updates=0", "finetune.steps=30", "finetune.start_after=10",
                   "finetune.updates_per_step=2", "finetune.offline_share=0", "finetune.evaluate_every=10",
                   "env.horizon=20")  # fmt: skip
    assert result.returncode == 0, result.stderr
    (directory,) = train.directories()
    where = [(each["update"], each.get("step")) for each in records_of(directory, "eval")]
    assert where == [(0, None), (20, 20), (40, 30)]
    assert json.loads((directory / "summary.json").read_text())["updates"] == 40


def user_env(train: Trainer, env_id: str, *overrides: str, data: Path, patch: str = "", **variables: str):
    train.environment |= {"PYTHONPATH": str(ENVIRONMENTS.parent), **variables}
    return train("env=hdf5", f"env.path={data}", f"env.gym_id=user_environments:{env_id}", "env.horizon=10",
                 "finetune=online", "updates=20", "finetune.steps=30", "finetune.evaluate_every=30",
                 "evaluation.every=20", *overrides, patch=patch)  # fmt: skip


@pytest.fixture
def point_data(tmp_path):
    random, rows = np.random.default_rng(0), 200
    path = tmp_path / "point.npz"
    np.savez(path, observations=random.normal(size=(rows, 3)).astype(np.float32),
             actions=random.uniform(-1, 1, (rows, 2)).astype(np.float32),
             rewards=random.normal(size=rows).astype(np.float32), terminals=np.arange(rows) % 10 == 9)  # fmt: skip
    return path


def test_a_users_own_environment_is_finetuned_in_and_an_episode_that_is_lost_is_counted(train, point_data):
    command = ("checkpoint.every=5",)
    killed = user_env(train, "Unrepeatable-v0", *command, data=point_data, patch=stop_at(38))
    assert killed.returncode == -9, killed.stderr
    result = user_env(train, "Unrepeatable-v0", *command, data=point_data)
    assert result.returncode == 0, result.stderr
    (directory,) = train.directories()
    finetune = json.loads((directory / "summary.json").read_text())["finetune"]
    assert finetune["taken_back_rows"] == 5  # of the episode that began in step 11 and was in step 15
    assert finetune["regret_of"] == "score"


def test_a_member_whose_environment_raises_stops_and_the_others_go_on(train, point_data):
    result = user_env(
        train, "RaisesForOneSeed-v0", "seed=[0,1,2]", data=point_data, RAISES_FOR=str(training_seed(1, 1))
    )
    assert result.returncode == 1
    summaries = [(directory / "summary.json").exists() for directory in train.directories()]
    failures = [directory / "failed.json" for directory in train.directories() if (directory / "failed.json").exists()]
    assert sorted(summaries) == [False, True, True] and len(failures) == 1
    failure = json.loads(failures[0].read_text())
    assert failure["reason"].startswith("the environment RaisesForOneSeed-v0, which the policy explores, episode ")
    assert "raised ValueError: the seed is the one" in failure["reason"]
    assert "Traceback" not in result.stderr


def test_data_without_an_environment_cannot_be_finetuned(train, point_data):
    result = user_env(train, "Point-v0", "env.gym_id=null", data=point_data)
    assert refusal_of(result) == "train.py: env=hdf5: finetune=online needs an environment; give env.gym_id=ID"
    assert train.directories() == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("evaluation.every=null",),
            "evaluation=none: finetune=online needs the environment",
        ),
        (("algorithm=bc",), "finetune=online: BC learns no values"),
        (("algorithm=rebrac",), "finetune=online: ReBRAC learns from the data's next actions"),
        (("finetune.start_after=45",), "finetune.start_after=45: leaves no update of finetune.steps=45"),
        (("updates=0", "finetune.schedule=continued"), "finetune.schedule=continued goes on from an offline phase"),
        (("finetune.capacity=100",), "finetune.capacity=100: is less than the data's"),
        (("finetune.from=nowhere",), "finetune.from=nowhere: no such run or file"),
        (("finetune.from=no/where=3,5",), "finetune.from=no/where=3,5: no such run or file"),
        (("finetune.stesp=3",), "finetune.stesp: no such key; did you mean finetune.steps?"),
    ],
)
def test_what_cannot_be_finetuned_is_refused_in_one_line(train, overrides, line):
    result = train(*ONLINE, *overrides)
    assert result.returncode == 1
    assert refusal_of(result).startswith(f"train.py: {line}") or line in refusal_of(result), result.stderr
    assert train.directories() == []


def test_settings_of_the_online_phase_need_it(train):
    for overrides, line in (
        (("finetune.steps=3",), "finetune.steps: is a setting of the online phase, which finetune=online adds"),
        (("updates=0",), "updates=0: there is nothing to train without finetune=online; give a whole number >= 1"),
    ):
        assert refusal_of(train(*overrides)) == f"train.py: {line}"


def test_a_source_that_does_not_fit_is_refused(train):
    assert train("updates=20").returncode == 0
    (source,) = train.directories()
    online = ("finetune=online", "finetune.steps=4", f"finetune.from={source}", "sweep.name=online")
    for overrides, words in (
        (("network.hidden_dims=[8,8]",), "its networks do not fit this run's"),
        (("env.normalize=true",), "its observations were normalised by other statistics"),
        (("algorithm=td3_bc",), "has no policy_target; finetuning needs all networks"),
    ):
        result = train(*online, *overrides)
        assert result.returncode == 1 and words in refusal_of(result), result.stderr
    assert not (train.runs / "online").exists()


def test_damaged_rows_are_noticed_before_anything_changes(train):
    command = (*ONLINE, "checkpoint.every=7")
    assert train(*command, patch=stop_at(80)).returncode == -9
    (directory,) = train.directories()
    assert checkpoints.updates_in(directory / "checkpoints")[0] == 77
    rows = directory / "online_rows.bin"
    content = bytearray(rows.read_bytes())
    content[100] ^= 1
    rows.write_bytes(content)
    line = refusal_of(train(*command))
    assert f"{rows}: not the records that its checkpoint covers" in line
    content[100] ^= 1
    rows.write_bytes(content + b"half a row")
    assert train(*command).returncode == 0
