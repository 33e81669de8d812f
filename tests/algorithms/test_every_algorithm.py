"""What holds of every algorithm: alone as in a pack, captured as not, killed and resumed, its policy loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from conftest import native_library, random_transitions, refusal_of
from hydra import compose, initialize_config_dir
from kills import stop_at
from learners import ACTION_DIM, OBSERVATION_DIM, largest_difference

import iql
from iql.config.folders import CONF
from iql.config.schema import MEMBER_KEYS
from iql.config.settings import read
from iql.data.sampling import Batches
from iql.execution.graphs import AutogradUpdate, Graphs
from iql.execution.paths import Execution, choose
from iql.learner.learner import Learner
from iql.training.build import build_learner

SMALL_NETWORKS = ["updates=1000", "batch_size=16", *(f"network.{name}.hidden_dims=[12,10]" for name in ("value", "q"))]
ALGORITHMS = {path.stem: [f"algorithm={path.stem}"] for path in sorted((CONF / "algorithm").glob("*.yaml"))} | {
    "ddpg_bc": ["algorithm=iql", "algorithm.extraction=ddpg_bc"],
    "ddpg_bc deterministic": ["algorithm=iql", "algorithm.extraction=ddpg_bc", "network=deterministic"],
    "iql_fql ddpg_bc": ["algorithm=iql_fql", "algorithm.extraction=ddpg_bc"],
    "xql random": ["algorithm=xql", "algorithm.random_actions=2", "algorithm.value_updates=2"],
    "xql noise": ["algorithm=xql", "algorithm.action_noise=0.1"],
}


@dataclass
class Pack:
    learner: Learner
    batches: Batches

    def execution(self, path: str = "plain", threads: int = 1) -> Execution:
        if path == "captured":
            return Graphs(self.learner, AutogradUpdate(self.learner), 1, "plain")
        return choose(self.learner, self.batches.batch_size, path, threads)


def members(name: str) -> list[dict[str, Any]]:
    """Three members that differ in all that may differ in a pack of this algorithm."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = read(compose("config", [*ALGORITHMS[name], *SMALL_NETWORKS, "seed=[3,4,5]"]))
    for place, each in enumerate(settings):
        for key in MEMBER_KEYS[1:]:
            section, _, last = key.partition(".")
            if last in each[section]:
                each[section][last] *= 1 - 0.1 * place
    return settings


def pack_of(settings: list[dict[str, Any]]) -> Pack:
    learner = build_learner(settings, OBSERVATION_DIM, ACTION_DIM)
    data = random_transitions(OBSERVATION_DIM, ACTION_DIM)
    return Pack(learner, Batches(data, learner.seeds, 16, "cpu", learner.algorithm.next_actions))


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("path", "threads"), [("plain", 1), ("native", 2)])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_member_is_the_same_alone_in_a_pack_and_resumed(name, path, threads):
    if path == "native":
        native_library()  # or skip
    settings = members(name)
    pack, alone, resumed = pack_of(settings), pack_of(settings[1:2]), pack_of(settings[1:2])
    metrics = [each.execution(path, threads).advance(each.batches, 51, measure=True) for each in (pack, alone)]
    assert metrics[0].keys() == metrics[1].keys()
    for key, values in metrics[0].items():
        assert values.shape == (3,), key
        torch.testing.assert_close(values[1:2], metrics[1][key], rtol=1e-4, atol=1e-4)
    difference = largest_difference(pack.learner.network_state(1), alone.learner.network_state(0))
    assert difference == 0 if path == "native" else difference < 1e-5
    resumed.learner.load(0, alone.learner.state(0))
    for each in (alone, resumed):
        each.execution(path, threads).advance(each.batches, 25)
    assert largest_difference(alone.learner.network_state(0), resumed.learner.network_state(0)) == 0
    assert largest_difference(pack.learner.network_state(0), pack.learner.network_state(2)) > 1e-3


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_update_can_be_captured_and_every_record_has_the_losses(name):
    settings = members(name)
    plain, captured = pack_of(settings), pack_of(settings)
    executions = plain.execution(), captured.execution("captured")
    for count in (1, 1, 40, 3):
        metrics = [
            execution.advance(each.batches, count, measure=True)
            for execution, each in zip(executions, (plain, captured), strict=True)
        ]
        for key, values in metrics[0].items():
            torch.testing.assert_close(metrics[1][key], values, rtol=1e-5, atol=1e-6)
        for network in plain.learner.algorithm.networks:
            assert f"{network}_loss" in metrics[0]
    assert captured.learner.update_count == 45
    for place in range(3):
        states = (each.learner.network_state(place) for each in (plain, captured))
        assert largest_difference(*states) < 1e-6


KILLED = [name for name in ALGORITHMS if name not in ("bc", "bc_10", "iql", "iql_gwthomas", "ddpg_bc deterministic")]


@pytest.mark.parametrize("name", KILLED)
def test_a_run_killed_and_resumed_ends_as_an_undisturbed_one(trainer_in, tmp_path, name):
    overrides = (*ALGORITHMS[name], "seed=[0,1]", "batch_size=32")
    undisturbed, killed = trainer_in(tmp_path / "undisturbed"), trainer_in(tmp_path / "killed")
    whole = undisturbed(*overrides)
    assert whole.returncode == 0, whole.stderr
    native_library()  # or skip
    assert killed(*overrides, patch=stop_at(33)).returncode == -9
    resumed = killed(*overrides)
    assert resumed.returncode == 0, resumed.stderr
    for one, other in zip(undisturbed.directories(), killed.directories(), strict=True):
        assert (one / "networks.ckpt").read_bytes() == (other / "networks.ckpt").read_bytes()
        records = [
            [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (one, other)
        ]
        losses = [
            [{key: value for key, value in record.items() if "loss" in key} for record in each] for each in records
        ]
        assert losses[0] == losses[1]
    policy = iql.load_policy(other)
    assert np.abs(policy.act(np.zeros((7, 4), np.float32))).max() <= 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["algorithm=td3_bc", "network.policy.distribution=gaussian"],
            "network.policy.distribution=gaussian: TD3BC needs a policy that is deterministic",
        ),
        (
            ["algorithm=rebrac", "network.policy.distribution=gaussian"],
            "network.policy.distribution=gaussian: ReBRAC needs a policy that is deterministic",
        ),
        (
            ["algorithm=awac", "network=deterministic"],
            "network.policy.distribution=deterministic: AWAC needs a policy that is gaussian",
        ),
        (
            ["algorithm=iql", "algorithm.extraction=argmax"],
            "algorithm.extraction='argmax': must be one of awr, ddpg_bc",
        ),
        (
            ["algorithm=iql_fql", "algorithm.extraction=ddpgbc"],
            "algorithm.extraction='ddpgbc': must be one of awr, ddpg_bc",
        ),
        (
            ["algorithm=iql_fql", "algorithm.extraction=ddpg_bc", "code_path=fused"],
            "code_path=fused: algorithm.extraction is ddpg_bc; use code_path=auto",
        ),
        (
            ["network=ogbench", "network.policy.distribution=deterministic"],
            "network.policy.std=1.0: a policy that is deterministic has none; add network.policy.std=null",
        ),
        (["network.policy.std=0"], "network.policy.std=0: must be a number > 0 or null"),
        (["network.activation=tanh"], "network.activation='tanh': must be one of relu, gelu"),
        (["network.policy.layer_norm=within"], "network.policy.layer_norm='within': must be one of before, after"),
        (["algorithm=iql", "algorithm.bc_coef=-1"], "algorithm.bc_coef=-1: must be a number >= 0"),
        (["algorithm=sql", "algorithm.alpha=0"], "algorithm.alpha=0: must be a number > 0"),
        (["algorithm=eql", "algorithm.alpha=-1"], "algorithm.alpha=-1: must be a number > 0"),
        (
            ["algorithm=xql", "algorithm.random_actions=1", "algorithm.action_noise=0.1"],
            "algorithm.action_noise=0.1: must be null or a number > 0, and null where random_actions is above 0",
        ),
        (["algorithm=td3_bc", "algorithm.policy_freq=0"], "algorithm.policy_freq=0: must be a whole number >= 1"),
        (["algorithm=td3_bc", "+algorithm.tau=0.7"], "algorithm.tau: TD3BC has no such key"),
        (["algorithm=td3_bc", "code_path=fused"], "code_path=fused: algorithm is a TD3BC"),
        (
            ["algorithm.extraction=ddpg_bc", "code_path=fused"],
            "code_path=fused: algorithm.extraction is ddpg_bc; use code_path=auto or plain",
        ),
        (
            ["preset=rebrac", "algorithm=rebrac", "~env.rebrac"],
            "preset=rebrac: there are no settings of ReBRAC for this env alone",
        ),
        (["preset=xql", "algorithm=xql"], "preset=xql: XQL's authors have no settings of this env alone"),
        (
            ["algorithm=sql", "members=[{algorithm:{alpha:1.0}},{algorithm:{policy_schedule:constant}}]"],
            "members: algorithm.policy_schedule cannot differ within a pack",
        ),
    ],
)
def test_a_wrong_combination_is_refused_before_training(train, overrides, message):
    assert message in refusal_of(train(*overrides))
