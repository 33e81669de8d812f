"""cartpole-made: data made on the spot, and everything that is done with a task of discrete actions."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import commands
import gymnasium
import h5py
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT, Trainer, refusal_of, timeless
from kills import stop_at

import iql
from iql.errors import UserError
from iql.policies.rollout import act_of
from iql.tasks.cartpole import ANGLE, MadeCartPole, make_data
from iql.tasks.file import FileTask

OWN = ("env=cartpole-made", "env.made_rows=2000")
FORMATS = (".onnx", ".pt2", ".safetensors")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("IQL_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def task(**changes) -> MadeCartPole:
    settings = {
        "name": "cartpole-made", "path": None, "made_rows": 2000, "made_seed": 0, "made_random": 0.5, "horizon": None,
        "reward": "none", "ref_min": 22.0, "ref_max": 500.0, "normalize": False,
    }  # fmt: skip
    return MadeCartPole(**{**settings, **changes})


def own_file(path: Path, actions: np.ndarray, observation_dim: int = 4) -> Path:
    """Rows of a user's own, in episodes of five steps."""
    rows = len(actions)
    np.savez(
        path,
        observations=np.random.default_rng(0).normal(size=(rows, observation_dim)),
        actions=actions,
        rewards=np.ones(rows),
        terminals=np.arange(rows) % 5 == 4,
    )
    return path


def test_data_obeys_the_environment():
    data = make_data(500, 3, 0.5)
    env, ends = gymnasium.make("CartPole-v1"), np.flatnonzero(data["terminals"] | data["timeouts"])
    assert len(ends) > 5
    for row in set(range(499)) - set(ends.tolist()):
        env.reset(seed=0)
        env.unwrapped.state = data["observations"][row].astype(float)
        after, reward, terminated, _, _ = env.step(data["actions"][row])
        assert after == pytest.approx(data["observations"][row + 1], abs=1e-5)
        assert (reward, terminated) == (data["rewards"][row], data["terminals"][row])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_random_actions_is_the_one_documented(share):
    """Half of the random actions are the controller's by chance."""
    data = make_data(20_000, 0, share)
    guided = data["observations"][:, ANGLE] > 0
    assert np.mean(data["actions"] == guided) == pytest.approx(1 - share / 2, abs=0.02)


def test_each_seed_share_and_size_is_a_file_of_its_own_and_made_once(cache):
    paths = {task(**change).locate() for change in ({}, {"made_seed": 1}, {"made_random": 0.4}, {"made_rows": 2100})}
    assert len(paths) == 4 and all(path.parent == cache / "made" for path in paths)
    first = task().locate()
    before = first.stat()
    assert task().locate().stat().st_mtime_ns == before.st_mtime_ns
    content = first.read_bytes()
    first.unlink()
    assert task().locate().read_bytes() == content
    with h5py.File(first) as file:
        assert file["actions"].dtype == np.int64


def test_actions_are_one_hot_and_not_clipped(cache):
    made = task()
    data = made.transitions()
    assert made.discrete and (made.observation_dim, made.action_dim) == (4, 2)
    assert np.unique(data.actions).tolist() == [0, 1] and (data.actions.sum(1) == 1).all()
    facts = made.facts()
    assert (facts["custom"], facts["clipped_actions"], facts["physics"]) == (False, 0, "CartPole-v1")
    assert made.score(np.array([22.0, 500.0])).tolist() == [0, 100]


def test_the_environment_gets_whole_numbers(cache):
    envs = task().make_envs(2)
    first, _ = envs.reset(seed=[1, 1])
    after, *_ = envs.step(np.float32([[1, 0], [0, 1]]))
    assert (first[0] == first[1]).all()
    assert after[0, 1] < first[0, 1] and after[1, 1] > first[1, 1], "pushed to the left, to the right"


def test_a_file_of_the_users_own_is_taken_instead(cache, tmp_path):
    own = task(path=own_file(tmp_path / "own.npz", np.arange(50) % 2))
    assert len(own.transitions()) == 49 and own.facts()["custom"] is True
    assert not cache.exists()


def test_a_run_killed_and_resumed_ends_as_an_undisturbed_one(trainer_in, tmp_path):
    online = ("finetune=online", "updates=25", "finetune.steps=35", "finetune.evaluate_every=15")
    for number, own in enumerate((("algorithm=iql",), ("algorithm=bc",), online)):
        overrides = (*OWN, *own, "seed=[0,1]")
        undisturbed, killed = (trainer_in(tmp_path / str(number) / which) for which in ("undisturbed", "killed"))
        whole = undisturbed(*overrides)
        assert whole.returncode == 0, whole.stderr
        assert killed(*overrides, patch=stop_at(33, "threads.MemberThreads")).returncode == -9
        resumed = killed(*overrides)
        assert resumed.returncode == 0, resumed.stderr
        for one, other in zip(undisturbed.directories(), killed.directories(), strict=True):
            assert (one / "networks.ckpt").read_bytes() == (other / "networks.ckpt").read_bytes()
            records, others = (
                [timeless(json.loads(line)) for line in (each / "metrics.jsonl").read_text().splitlines()]
                for each in (one, other)
            )
            assert records == others and any("scores" in record or "score" in record for record in records)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir) -> Path:
    """A finished run, whose name says nothing of the network that its task chose."""
    train = Trainer(tmp_path_factory.mktemp("cartpole"), {**os.environ, "IQL_DATA_DIR": str(data_dir)})
    result = train(*OWN)
    assert result.returncode == 0, result.stderr
    (directory,) = train.directories()
    assert "network" not in directory.parent.name and "policy" not in directory.parent.name
    return directory


def test_its_records_have_the_policys_entropy(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if "policy_loss" in record]
    assert trained and all(0 <= record["entropy"] <= np.log(2) + 1e-6 for record in trained)
    assert not any("log_std" in record for record in trained)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["lives"][-1]["code_path"] == "native"
    assert manifest["settings"]["network"]["q"]["_target_"] == "iql.networks.critics.DiscreteTwinQ"


def test_a_loaded_policy_gives_whole_numbers(run):
    policy = iql.load_policy(run)
    assert policy.discrete and policy.action_dim == 2
    rows = np.random.default_rng(0).normal(0, 0.3, (100, 4)).astype(np.float32)
    actions = policy.act(rows)
    assert (actions.dtype, actions.shape) == (np.int64, (100,))
    np.testing.assert_array_equal(actions, act_of(policy.trained)(rows).argmax(1))
    assert isinstance(policy.act(torch.from_numpy(rows)), torch.Tensor)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    one = policy.act(observation)
    assert one.shape == () and env.action_space.contains(one)
    env.step(one)
    many, generator = np.repeat(rows[:1], 20_000, 0), torch.Generator().manual_seed(0)
    drawn = policy.act(many, deterministic=False, generator=generator)
    with torch.no_grad():
        probabilities = policy(torch.from_numpy(rows[:1])).logits.softmax(-1)
    assert np.mean(drawn) == pytest.approx(float(probabilities[0, 1]), abs=0.02)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_exported_policy_acts_alike(run, tmp_path, suffix):
    file = tmp_path / f"policy{suffix}"
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), str(run), "--out", str(file)]
    result = commands.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = np.random.default_rng(1).normal(0, 0.3, (50, 4)).astype(np.float32)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(file)
        assert [output.name for output in session.get_outputs()] == ["action", "logits"]
        actions = session.run(None, {"observations": rows})[0]
    elif suffix == ".pt2":
        actions = torch.export.load(file).module()(torch.from_numpy(rows))[0].numpy()
    else:
        actions = iql.load_policy(file).act(rows)
    np.testing.assert_array_equal(actions, iql.load_policy(run).act(rows))
    card = file.with_suffix(".md").read_text()
    assert "an action is a whole number, 0 to 1." in card and "within ±1" not in card
    assert suffix == ".safetensors" or "action, logits" in card


def test_it_is_evaluated_by_the_script(run, tmp_path):
    saved = tmp_path / "scores.json"
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), str(run), "--episodes", "6", "--workers", "1"]
    result = commands.run([*command, "--save", str(saved)], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 episodes with the likeliest action" in result.stdout
    content = json.loads(saved.read_text())
    assert content["action"] == "likeliest" and content["returns"] == [float(each) for each in content["lengths"]]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("network=mlp",), "env=cartpole-made: its actions are discrete, and network.q is for continuous"),
        (("network=mlp", "algorithm=bc"), "env=cartpole-made: its actions are discrete, and network.policy is for"),
        (("network.q._target_=iql.networks.critics.TwinQ",), "network.policy is for discrete actions and network.q"),
        (("code_path=fused",), "code_path=fused: network.q is a DiscreteTwinQ; use code_path=auto or plain"),
    ],
)  # fmt: skip
def test_combinations_that_do_not_go_together_are_refused(train, overrides, line):
    result = train(*OWN, *overrides)
    assert result.returncode == 1 and refusal_of(result).startswith(f"train.py: {line}")
    assert not train.directories()


def test_continuous_data_with_a_discrete_network_is_refused(train):
    result = train("network=discrete")
    line = (
        "env=maze2d-umaze-made: its actions are continuous, and network.q is for discrete ones; leave network=discrete"
    )
    assert result.returncode == 1 and refusal_of(result).startswith(f"train.py: {line}")
    assert not train.directories()


def test_a_file_with_whole_numbers_trains_with_the_discrete_network_alone(train, tmp_path):
    path = own_file(tmp_path / "own.npz", np.arange(50) % 3)
    own = ("env=hdf5", f"env.path={path}", "evaluation.every=null", "updates=5")
    assert "its actions are discrete" in refusal_of(train(*own)) and "add network=discrete" in refusal_of(train(*own))
    assert not train.directories()
    result = train(*own, "network=discrete")
    assert result.returncode == 0, result.stderr
    assert iql.load_policy(train.directories()[0]).action_dim == 3


@pytest.mark.parametrize(
    ("actions", "gym_id", "line"),
    [
        (np.arange(50) % 3, "CartPole-v1", "the action in row 2 is 2, and discrete actions here are 0 … 1"),
        (np.arange(50) % 2, "Pendulum-v1", "has whole numbers as actions, discrete ones, but Pendulum-v1 takes Box"),
        (np.ones((50, 1), np.float32), "CartPole-v1", "has floating-point numbers as actions, continuous ones"),
        (np.arange(50) % 2, "Acrobot-v1", "has observations of 4 entries and actions of 3, but Acrobot-v1 has 6 and 3"),
    ],
)  # fmt: skip
def test_an_environment_with_other_actions_is_refused(tmp_path, actions, gym_id, line):
    path = own_file(tmp_path / "own.npz", actions)
    own = FileTask(
        name="hdf5", path=path, gym_id=gym_id, horizon=None, reward="none", ref_min=None, ref_max=None, normalize=False
    )
    with pytest.raises(UserError) as refused:
        own.transitions()
    assert line in str(refused.value) and "\n" not in str(refused.value)
