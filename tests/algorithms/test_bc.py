"""Behaviour cloning: which rows it sees, and that nothing but the policy is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import native_library, random_transitions, refusal_of
from kills import stop_at
from learners import ACTION_DIM, OBSERVATION_DIM, largest_difference, make_learner
from learners import train as updated

import iql
from iql.algorithms.bc import BC
from iql.config.task_configs import CONF
from iql.data.trajectories import best_trajectories
from iql.data.transitions import from_rows
from iql.launching.grids.grid import expand
from iql.runs.manifest import read_manifest
from iql.runs.run import configuration_name

GOLDEN = Path(__file__).parents[1] / "golden" / "best_trajectories.npz"
CLONING = {
    "_target_": "iql.algorithms.bc.BC",
    "top_fraction": None,
    "return_discount": 1.0,
    "policy_schedule": "constant",
}


@pytest.mark.parametrize("case", ["tenth", "half", "one", "all"])
def test_the_best_trajectories_are_corls(case):
    """CORL's any_percent_bc.py; an episode of its data ends with a terminal or at its greatest length."""
    with np.load(GOLDEN) as file:
        golden = dict(file)
    settings = json.loads(str(golden["meta"]))["cases"][case]
    ends, length = golden["data/terminals"].astype(bool), 0
    for row in range(len(ends)):
        length += 1
        ends[row] |= length == settings["max_trajectory_length"]
        length = 0 if ends[row] else length
    rewards = golden["data/rewards"]
    kept = np.concatenate(best_trajectories(rewards, ends, settings["fraction"], settings["discount"]))
    np.testing.assert_array_equal(kept, golden[f"{case}/kept_rows"])


def test_the_rows_of_the_best_episodes_are_cloned():
    """Episodes of returns 1 (a terminal ends it), 3 (a timeout), 2 (a terminal), and one that the file cuts off."""
    rewards = np.array([0, 1, 1, 1, 1, 2, 0, 9, 9], np.float32)
    terminals, timeouts = np.zeros(9, bool), np.zeros(9, bool)
    terminals[[1, 6]], timeouts[4] = True, True
    observations, actions = np.arange(9, dtype=np.float32).reshape(9, 1), np.zeros((9, 1), np.float32)
    data = from_rows(observations, actions, rewards, terminals, timeouts)
    cloned = {fraction: list(BC(fraction, 1.0, "constant").rows(data)) for fraction in (None, 0.3, 0.7, 1.0)}
    assert cloned == {None: [0, 1, 2, 3, 5, 6, 7], 0.3: [2, 3], 0.7: [2, 3, 5, 6], 1.0: [0, 1, 2, 3, 5, 6]}


def test_a_member_is_cloned_the_same_alone_and_in_a_pack():
    data = random_transitions(OBSERVATION_DIM, ACTION_DIM)
    pack = make_learner([3, 4], algorithm=CLONING, lr=[1e-3, 1e-4])
    alone = make_learner([4], algorithm=CLONING, lr=[1e-4])
    metrics = [updated(learner, data, 100, measure=True) for learner in (pack, alone)]
    assert largest_difference(pack.network_state(1), alone.network_state(0)) < 1e-6
    assert list(pack.networks) == ["policy"]
    assert set(metrics[0]) == {"policy_loss", "log_std", "grad_norm_policy", "policy_lr"}


def test_it_learns_the_datas_action():
    data = random_transitions(OBSERVATION_DIM, ACTION_DIM)
    data = replace(data, actions=np.full_like(data.actions, 0.5))
    learner = make_learner([0], algorithm=CLONING, lr=[3e-3], distribution="deterministic")
    first, last = (float(updated(learner, data, count, measure=True)["policy_loss"]) for count in (1, 500))
    assert last < 0.01 * first


@pytest.mark.parametrize(("path", "execution"), [("plain", "eager.Eager"), ("native", "threads.MemberThreads")])
def test_a_run_killed_and_resumed_ends_as_an_undisturbed_one(trainer_in, tmp_path, path, execution):
    if path == "native":
        native_library()  # or skip
    overrides = ("algorithm=bc", "algorithm.top_fraction=0.5", "seed=[0,1]", f"code_path={path}")
    undisturbed, killed = trainer_in(tmp_path / "undisturbed"), trainer_in(tmp_path / "killed")
    whole = undisturbed(*overrides)
    assert whole.returncode == 0, whole.stderr
    assert killed(*overrides, patch=stop_at(33, execution)).returncode == -9
    resumed = killed(*overrides)
    assert resumed.returncode == 0, resumed.stderr
    for one, other in zip(undisturbed.directories(), killed.directories(), strict=True):
        assert "algorithm=BC,top_fraction=0.5" in one.parent.name
        assert "policy_schedule" not in one.parent.name  # BC's own default is no difference
        assert json.loads((one / "summary.json").read_text())["losses"].keys() == {"policy"}
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
        assert {"curve.png", "map.png"} <= {path.name for path in one.iterdir()}
        assert (one / "networks.ckpt").read_bytes() == (other / "networks.ckpt").read_bytes()
    policy = iql.load_policy(one)
    assert np.abs(policy.act(np.zeros(4, np.float32))).max() <= 1


def test_a_sweep_and_a_training_name_its_runs_alike(train):
    assert train("algorithm=bc", "updates=5", "evaluation=none", "log_every=5").returncode == 0
    (directory,) = train.directories()
    overrides = train.command("algorithm=bc", "updates=5", "evaluation=none", "log_every=5")[2:]
    (cell,) = expand(overrides, CONF)
    name = configuration_name(read_manifest(directory)["settings"], cell.defaults, "digest")
    assert name.rpartition("-")[0] == directory.parent.name.rpartition("-")[0]


def test_a_fraction_of_nothing_is_refused(train):
    for value in ("0", "1.5"):
        line = refusal_of(train("algorithm=bc", f"algorithm.top_fraction={value}"))
        assert line.startswith(f"train.py: algorithm.top_fraction={value}: must be a number > 0 and <= 1")


def test_a_setting_of_another_algorithm_is_named(train):
    line = refusal_of(train("algorithm=bc", "+algorithm.tau=0.7"))
    assert line.startswith("train.py: algorithm.tau: BC has no such key; it has top_fraction, return_discount")
