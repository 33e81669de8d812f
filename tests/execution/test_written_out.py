"""SQL, EQL, XQL and FQL's IQL with written-out gradients, in torch and in C, and other networks against autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import native_library, random_transitions
from hydra import compose, initialize_config_dir
from learners import ACTION_DIM, OBSERVATION_DIM, largest_difference

from iql.config.folders import CONF
from iql.config.settings import read
from iql.data.sampling import Batches
from iql.execution.paths import choose
from iql.learner.learner import Learner, Metrics
from iql.training.build import build_learner

BATCH = 32
PATHS = {
    "fused": ("fused", 1),
    "threads": ("fused", 2),
    "native": ("native", 1),
    "native threads": ("native", 2),
    "graphs": ("graphs", 1),
}
ALGORITHMS = {
    "sql": ["algorithm=sql", "algorithm.advantage_cap=0.3"],
    "eql": ["algorithm=eql", "algorithm.max_clip=0.2", "algorithm.alpha=1.0", "algorithm.beta=3.0"],
    "xql": ["algorithm=xql", "algorithm.max_clip=0.1", "algorithm.huber_delta=0.5"],
    "xql random": ["algorithm=xql", "algorithm.random_actions=2", "algorithm.value_updates=3"],
    "xql noise": ["algorithm=xql", "algorithm.action_noise=0.1", "network.policy.distribution=deterministic"],
    "iql normed": ["algorithm=iql", "network.value.layer_norm=after", "network.q.layer_norm=after"],
    "iql ogbench": ["algorithm=iql", "network=ogbench", "network.policy.std=0.5"],
    "iql policy normed": [
        *("algorithm=iql", "network.activation=gelu", "network.value.layer_norm=before"),
        *("network.policy.layer_norm=after", "network.policy.dropout=0.1"),
    ],
    "iql_fql": ["algorithm=iql_fql", "algorithm.beta=3.0", "algorithm.advantage_cap=1.5"],
    "iql_fql learned": [
        *("algorithm=iql_fql", "network.policy.std=null", "network.policy.dropout=0.1"),
        *("network.policy.layer_norm=before", "network.q.activation=relu"),
    ],
}
VARYING = ("alpha", "loss_temperature", "max_clip", "huber_delta", "beta", "discount", "polyak", "advantage_cap")


def settings_of(name: str) -> list[dict[str, Any]]:
    """Three members that differ in all that may differ, with limits that some rows exceed."""
    small = ["updates=300", "network.hidden_dims=[24,40]", "seed=[6,7,8]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = read(compose("config", [*ALGORITHMS[name], *small]))
    for place, each in enumerate(settings):
        for key in set(VARYING) & each["algorithm"].keys():
            each["algorithm"][key] *= 1 - 0.1 * place
    return settings


def trained(settings: list[dict[str, Any]], path: str, updates: int) -> tuple[Learner, Metrics]:
    code_path, threads = PATHS.get(path, ("plain", 1))
    if code_path == "native":
        native_library()  # or skip
    learner = build_learner(settings, OBSERVATION_DIM, ACTION_DIM)
    batches = Batches(random_transitions(OBSERVATION_DIM, ACTION_DIM), learner.seeds, BATCH, "cpu")
    metrics = choose(learner, BATCH, code_path, threads).advance(batches, updates, measure=True)
    assert metrics is not None
    return learner, metrics


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_pack_has_the_plain_paths_weights_and_metrics(name, path):
    before = torch.get_num_threads()
    (plain, expected), (ours, metrics) = (trained(settings_of(name), each, 40) for each in ("plain", path))
    torch.set_num_threads(before)
    assert metrics.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(
            metrics[key], values, rtol=5e-4, atol=5e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
    for place in range(3):
        assert largest_difference(plain.network_state(place), ours.network_state(place)) < 2e-5


@pytest.mark.parametrize("path", ["threads", "native threads"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_member_has_the_same_bits_alone_on_two_threads(name, path):
    settings = settings_of(name)
    before = torch.get_num_threads()
    (pack, _), (alone, _) = (trained(each, path, 40) for each in (settings, settings[1:2]))
    torch.set_num_threads(before)
    assert largest_difference(pack.network_state(1), alone.network_state(0)) == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_updates_one_at_a_time_on_two_threads_are_the_same(name):
    settings = settings_of(name)[:1]
    (one, expected), (other, metrics) = (trained(settings, path, 1) for path in ("native", "native threads"))
    batches = Batches(random_transitions(OBSERVATION_DIM, ACTION_DIM), one.seeds, BATCH, "cpu")
    before = torch.get_num_threads()
    for threads, learner in ((1, one), (2, other)):
        execution = choose(learner, BATCH, "native", threads)
        for count in [30] if learner is one else [1] * 30:
            execution.advance(batches, count)
    torch.set_num_threads(before)
    for kind in ("networks", "optimizers"):
        assert largest_difference(one.state(0)[kind], other.state(0)[kind]) == 0
    assert metrics.keys() == expected.keys() and all(torch.equal(metrics[key], expected[key]) for key in expected)
