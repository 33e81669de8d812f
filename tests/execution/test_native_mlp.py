"""Perceptrons in C under autograd, against torch's operations: every algorithm, and whatever may be done with them."""

from __future__ import annotations

import copy
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import native_library, random_transitions
from hydra import compose, initialize_config_dir
from learners import ACTION_DIM, DISCRETE, OBSERVATION_DIM, OwnPolicy, largest_difference, make_learner, target
from torch import Tensor, nn

from iql.algorithms.algorithm import Algorithm
from iql.config.folders import CONF
from iql.config.schema import MEMBER_KEYS
from iql.config.settings import read
from iql.data.sampling import Batches
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.execution import native_mlp
from iql.execution.eager import Eager
from iql.execution.native_autograd import NativeAutograd
from iql.execution.native_library import Unavailable
from iql.execution.paths import choose
from iql.learner.learner import Learner, Metrics
from iql.networks.critics import TwinQ
from iql.training.build import build_learner

BATCH = 33
ALGORITHMS = {
    "bc": ["algorithm=bc"],
    "bc dropout": ["algorithm=bc", "network.policy.dropout=0.2"],
    "td3_bc": ["algorithm=td3_bc"],
    "rebrac": ["algorithm=rebrac"],
    "awac": ["algorithm=awac"],
    "ddpg_bc": ["algorithm=iql", "algorithm.extraction=ddpg_bc", "network.q.layer_norm=before"],
    "ddpg_bc deterministic": ["algorithm=iql", "algorithm.extraction=ddpg_bc", "network=deterministic"],
}


@pytest.fixture(autouse=True)
def threads():
    native_library()  # or skip
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def always_two(monkeypatch):
    """The other thread takes part at any size."""
    monkeypatch.setattr(native_mlp, "_WORTH_A_THREAD", 0)


def settings_of(name: str, *overrides: str) -> list[dict[str, Any]]:
    """Three members that differ in all that may differ."""
    small = ["updates=300", "network.hidden_dims=[24,40]", "seed=[6,7,8]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = read(compose("config", [*ALGORITHMS[name], *small, *overrides]))
    for place, each in enumerate(settings):
        for key in MEMBER_KEYS[1:]:
            section, _, last = key.partition(".")
            if last in each[section]:
                each[section][last] *= 1 - 0.1 * place
    return settings


def advanced(learner: Learner, path: str, threads: int, updates: int, data: Transitions | None = None) -> Metrics:
    data = data or random_transitions(OBSERVATION_DIM, ACTION_DIM)
    batches = Batches(data, learner.seeds, BATCH, "cpu", learner.algorithm.next_actions)
    execution = choose(learner, BATCH, path, threads)
    assert execution.name == path
    metrics = execution.advance(batches, updates, measure=True)
    assert metrics is not None
    return metrics


def trained(settings: list[dict[str, Any]], path: str, threads: int, updates: int) -> tuple[Learner, Metrics]:
    learner = build_learner(settings, OBSERVATION_DIM, ACTION_DIM)
    return learner, advanced(learner, path, threads, updates)


def assert_close(ours: Metrics, expected: Metrics) -> None:
    assert ours.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(ours[key], values, rtol=5e-4, atol=5e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.usefixtures("always_two")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_pack_has_the_plain_paths_weights_and_metrics(name):
    plain, expected = trained(settings_of(name), "plain", 1, 40)
    ours, metrics = trained(settings_of(name), "native", 2, 40)
    assert_close(metrics, expected)
    for place in range(3):
        assert largest_difference(plain.network_state(place), ours.network_state(place)) < 2e-5


@pytest.mark.usefixtures("always_two")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_member_has_the_same_bits_alone_on_two_threads_and_continued(name):
    settings = settings_of(name)
    (pack, _), (alone, _) = trained(settings, "native", 1, 40), trained(settings[1:2], "native", 2, 25)
    continued = build_learner(settings[1:2], OBSERVATION_DIM, ACTION_DIM)
    continued.load(0, copy.deepcopy(alone.state(0)))
    for learner in (alone, continued):
        advanced(learner, "native", 2, 15)
        assert largest_difference(pack.network_state(1), learner.network_state(0)) == 0


@pytest.mark.parametrize("cloning", [False, True])
def test_discrete_actions(cloning):
    data = random_transitions(OBSERVATION_DIM, ACTION_DIM)
    data.actions[:] = torch.eye(ACTION_DIM).numpy()[(data.actions[:, 0] > 0).astype(int)]
    algorithm = {"_target_": "iql.algorithms.bc.BC", "top_fraction": None, "return_discount": 1.0}
    own = {"algorithm": {**algorithm, "policy_schedule": "cosine"}} if cloning else {}
    plain, ours = (make_learner([3, 4], networks=DISCRETE, **own) for _ in range(2))
    expected, metrics = advanced(plain, "plain", 1, 40, data), advanced(ours, "native", 2, 40, data)
    assert_close(metrics, expected)
    assert largest_difference(plain.network_state(1), ours.network_state(1)) < 2e-5


class Penalised(Algorithm):
    """A user's algorithm that differentiates a gradient, sees a network twice in a loss, and at two sizes."""

    networks = ("q",)

    def update(self, step):
        batch, q = step.batch, step.networks["q"]
        actions = (0.5 * batch.actions).requires_grad_()
        first, other = q(batch.observations, actions), q(batch.observations, batch.actions)
        few = q(batch.observations[:, :5], batch.actions[:, :5])
        (slope,) = torch.autograd.grad(first.sum(), actions, create_graph=True)
        step.minimize("q", slope.square().mean((1, 2)) + (first * other).mean((1, 2)) + few.square().mean((1, 2)))


class Late(Algorithm):
    """Asks for a gradient one update late."""

    networks = ("policy",)
    kept: list[Tensor] = []

    def update(self, step):
        mean, _ = step.networks["policy"](step.batch.observations)
        self.kept.append(mean.square().mean((1, 2)))
        if len(self.kept) > 1:
            step.minimize("policy", self.kept[0])


def test_an_algorithm_of_the_users_own_may_differentiate_twice():
    own = {"_target_": f"{__name__}.Penalised"}
    plain, ours = (make_learner([3, 4], algorithm=own) for _ in range(2))
    assert_close(advanced(ours, "native", 2, 40), advanced(plain, "plain", 1, 40))
    assert largest_difference(plain.network_state(1), ours.network_state(1)) < 2e-5
    late = make_learner([3], algorithm={"_target_": f"{__name__}.Late"})
    with pytest.raises(RuntimeError, match="in another update than its network was called in"):
        advanced(late, "native", 1, 2)


@pytest.mark.usefixtures("always_two")
@pytest.mark.parametrize("layer_norm", [None, "before", "after"])
def test_a_critics_gradients_are_those_of_torchs_operations(layer_norm):
    q = {"_target_": "iql.networks.critics.TwinQ", "hidden_dims": [33, 40, 24], "initialization": "pytorch"}
    learner = make_learner([3], networks={"q": {**q, "layer_norm": layer_norm}})
    own = NativeAutograd(learner, range(1), native_library(), two_threads=True)._learner.networks["q"]
    theirs, generator = learner.networks["q"], torch.Generator().manual_seed(5)
    observations = torch.randn(1, 50, OBSERVATION_DIM, generator=generator)
    actions = torch.randn(1, 50, ACTION_DIM, generator=generator)
    found = []
    for network in (theirs, own):
        given = actions.clone().requires_grad_()
        output = network(observations, given)
        loss = (output[:, 0] * output[:, 1]).sum()
        found.append([output, *torch.autograd.grad(loss, [given, *network.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    assert isinstance(own, TwinQ) and own is not theirs


def test_an_input_that_was_changed_in_place_is_noticed():
    learner = make_learner([3])
    policy = NativeAutograd(learner, range(1), native_library(), two_threads=False)._learner.networks["policy"]
    observations = torch.ones(1, 6, OBSERVATION_DIM)
    mean, _ = policy(observations)
    observations.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        mean.sum().backward()


@pytest.mark.usefixtures("always_two")
def test_two_runs_of_a_process_may_share_the_other_thread():
    settings = settings_of("td3_bc", "network.hidden_dims=[64,64]")[:1]
    alone, _ = trained(settings, "native", 2, 60)
    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(trained, settings, "native", 2, 60) for _ in range(2)]:
            learner, _ = run.result()
            assert largest_difference(alone.network_state(0), learner.network_state(0)) == 0


@pytest.mark.usefixtures("always_two")
def test_a_forked_process_starts_another_thread_of_its_own():
    settings = settings_of("td3_bc")[:1]
    alone, _ = trained(settings, "native", 2, 10)
    child = os.fork()
    if child == 0:
        try:
            learner, _ = trained(settings, "native", 2, 10)
            os._exit(largest_difference(alone.network_state(0), learner.network_state(0)) != 0)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_no_perceptron_of_ours_stays_on_the_plain_path():
    for replaced, reason in (
        ({"networks": {"policy": target(OwnPolicy)}}, "network.policy is a Lifted"),
        ({"optimizer": {"_target_": "torch.optim.SGD"}}, "optimizer is not torch.optim.Adam"),
    ):
        learner = make_learner([3], extraction="ddpg_bc", **replaced)
        assert isinstance(choose(learner, BATCH, "auto", 1), Eager)
        with pytest.raises(UserError, match=f"code_path=native: {reason}.*; use code_path=auto or plain"):
            choose(learner, BATCH, "native", 1)
    assert isinstance(choose(make_learner([3], extraction="ddpg_bc"), BATCH, "auto", 4), Eager)  # more threads than two


def test_without_a_compiler_it_is_plain_and_says_why(monkeypatch, caplog):
    def load() -> None:
        raise Unavailable("no C compiler (cc) on this machine")

    monkeypatch.setattr("iql.execution.paths.load", load)
    learner = make_learner([3], extraction="ddpg_bc")
    with caplog.at_level(logging.WARNING):
        assert isinstance(choose(learner, BATCH, "auto", 1), Eager)
    assert caplog.messages == ["code_path=plain, which is slower than native: no C compiler (cc) on this machine"]


def test_modules_keep_no_trace_of_it():
    learner = make_learner([3], extraction="ddpg_bc")
    choose(learner, BATCH, "native", 1)
    modules: list[nn.Module] = list(learner.networks.values())
    assert all(network.net.computed_by is None for network in modules)
