"""The learner: a member alone and in a pack, resumed, with dropout, with a user's own networks."""

from __future__ import annotations

import copy
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import random_transitions
from torch import nn

from iql.draws import Batches, DropoutMasks, bits, keys
from iql.learner import IQL
from iql.networks import Policy, TwinQ, Value, build
from iql.transitions import Transitions

OBSERVATION_DIM, ACTION_DIM, WIDTHS = 5, 2, [16, 16]


@pytest.fixture(scope="module")
def data() -> Transitions:
    return random_transitions(OBSERVATION_DIM, ACTION_DIM)


def make_learner(seeds, *, variant="iql", dropout=None, taus=None, betas=None, lrs=None, **own) -> IQL:
    ours = variant == "iql"
    common = {"seeds": seeds, "hidden_dims": WIDTHS, "initialization": "orthogonal" if ours else "pytorch"}
    members = len(seeds)
    policy = own.get("policy") or Policy(
        OBSERVATION_DIM,
        ACTION_DIM,
        **common,
        distribution="gaussian",
        mean="tanh" if ours else "linear",
        dropout=dropout,
        log_std_range=(-5.0, 2.0),
    )
    return IQL(
        value=own.get("value") or Value(OBSERVATION_DIM, **common),
        q=own.get("q") or TwinQ(OBSERVATION_DIM, ACTION_DIM, **common),
        policy=policy,
        optimizer=partial(torch.optim.Adam, fused=True),
        seeds=seeds,
        lr=lrs or [3e-4] * members,
        tau=taus or [0.7] * members,
        beta=betas or [3.0] * members,
        discount=[0.99] * members,
        polyak=[0.005] * members,
        advantage_cap=[100.0] * members,
        fresh_value=ours,
        q_loss_scale=1.0 if ours else 0.5,
        policy_schedule="cosine",
        updates=1000,
    )


def train(learner: IQL, data: Transitions, updates: int) -> IQL:
    batches = Batches(data, learner.seeds, 32, "cpu")
    for _ in range(updates):
        learner.update(batches.at(learner.update_count))
    return learner


def largest_difference(one: dict, other: dict) -> float:
    return max(float((one[net][p] - other[net][p]).abs().max()) for net in one for p in one[net])


@pytest.mark.parametrize("variant", ["iql", "iql_gwthomas"])
@pytest.mark.parametrize("dropout", [None, 0.1])
def test_a_member_has_the_same_numbers_alone_and_in_a_pack(data, variant, dropout):
    settings = {"taus": [0.5, 0.7, 0.9], "betas": [0.0, 3.0, 10.0], "lrs": [3e-4, 1e-3, 1e-4]}
    pack = train(make_learner([3, 4, 5], variant=variant, dropout=dropout, **settings), data, 100)
    for place, seed in enumerate([3, 4, 5]):
        own = {key: [values[place]] for key, values in settings.items()}
        alone = train(make_learner([seed], variant=variant, dropout=dropout, **own), data, 100)
        assert largest_difference(alone.network_state(0), pack.network_state(place)) < 1e-5


def test_a_learner_continues_bit_for_bit_from_its_state(data):
    whole = train(make_learner([0, 1], dropout=0.1), data, 60)
    first = train(make_learner([0, 1], dropout=0.1), data, 30)
    states = [copy.deepcopy(first.state(member)) for member in range(2)]
    second = make_learner([8, 9], dropout=0.1)
    second.seeds = [0, 1]
    second.dropout = first.dropout
    for member, state in enumerate(states):
        second.load(member, state)
    train(second, data, 30)
    for member in range(2):
        assert largest_difference(whole.network_state(member), second.network_state(member)) == 0.0


def test_the_policys_learning_rate_falls_to_zero_and_stays_there(data):
    learner = make_learner([0])
    rates = {}
    for update in (0, 500, 1000, 1500):
        learner.update_count = update
        rates[update] = learner._schedule_policy()[0]
    assert rates == pytest.approx({0: 3e-4, 500: 1.5e-4, 1000: 0.0, 1500: 0.0}, abs=1e-12)


def test_a_measured_update_is_the_same_update(data):
    plain, measured = make_learner([0, 1]), make_learner([0, 1])
    batches = Batches(data, [0, 1], 32, "cpu")
    for number in range(5):
        assert plain.update(batches.at(number)) is None
        metrics = measured.update(batches.at(number), measure=True)
    assert all(metric.shape == (2,) for metric in metrics.values())
    assert largest_difference(plain.network_state(0), measured.network_state(0)) == 0.0


def test_mean_actions_are_clipped_to_the_bounds():
    learner = make_learner([0], variant="iql_gwthomas")
    for kernel in learner.policy.net.kernels:
        kernel.data.mul_(10)
    actions = learner.mean_actions(torch.randn(1, 50, OBSERVATION_DIM))
    unclipped, _ = learner.policy(torch.randn(1, 50, OBSERVATION_DIM))
    assert unclipped.abs().max() > 1
    assert actions.abs().max() == 1


def test_not_finite_weights_are_seen_in_their_member_alone():
    learner = make_learner([0, 1, 2])
    learner.networks["policy"].net.kernels[0].data[1, 0, 0] = float("nan")
    assert learner.finite() == [True, False, True]


def test_load_refuses_other_shapes():
    state = make_learner([0]).network_state(0)
    state["value"]["net.kernels.0"] = torch.zeros(OBSERVATION_DIM + 1, 16)
    with pytest.raises(ValueError, match=r"value\.net\.kernels\.0"):
        make_learner([0]).load_networks(0, state)


class OwnPolicy(nn.Module):
    """A user's policy, written for one run."""

    def __init__(self, observation_dim: int, action_dim: int, width: int = 8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(observation_dim, width), nn.Dropout(0.2), nn.Tanh())
        self.head = nn.Linear(width, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observations):
        return self.head(self.body(observations)), self.log_std.expand(len(observations), -1)


class OwnQ(nn.Module):
    def __init__(self, observation_dim: int, action_dim: int):
        super().__init__()
        self.layer = nn.Linear(observation_dim + action_dim, 1)

    def forward(self, observations, actions):
        return self.layer(torch.cat([observations, actions], -1)).squeeze(-1)


def test_a_users_network_written_for_one_run_is_lifted_over_the_members(data):
    dims = {"observation_dim": OBSERVATION_DIM, "action_dim": ACTION_DIM}

    def learner(seeds):
        return make_learner(seeds, policy=build(partial(OwnPolicy, width=12), ["policy"], seeds, **dims))

    pack, alone = train(learner([0, 1]), data, 20), train(learner([1]), data, 20)
    assert largest_difference(alone.network_state(0), pack.network_state(1)) < 1e-5
    assert pack.mean_actions(torch.zeros(2, 3, OBSERVATION_DIM)).shape == (2, 3, ACTION_DIM)
    actions = [pack.mean_actions(torch.ones(2, 3, OBSERVATION_DIM)) for _ in range(2)]
    torch.testing.assert_close(*actions, rtol=0, atol=0)  # no dropout while acting

    twin = build(OwnQ, ["q1", "q2"], [0, 1], **dims)
    assert twin(torch.zeros(2, 3, OBSERVATION_DIM), torch.zeros(2, 3, ACTION_DIM)).shape == (2, 2, 3)


class WithDropout(OwnQ):
    """A user's Q or V that notes of each pass whether something was learned from it, and whether dropout was on."""

    passes: ClassVar[set[tuple[bool, bool]]] = set()

    def forward(self, *inputs):
        WithDropout.passes.add((torch.is_grad_enabled(), self.training))
        return self.layer(nn.functional.dropout(torch.cat(inputs, -1), 0.5, self.training)).squeeze(-1)


@pytest.mark.parametrize("variant", ["iql", "iql_gwthomas"])
def test_a_users_dropout_rests_where_only_targets_are_made(data, variant, monkeypatch):
    monkeypatch.setattr(WithDropout, "passes", set())
    seeds = [0, 1]
    learner = make_learner(
        seeds,
        value=build(partial(WithDropout, action_dim=0), ["value"], seeds, observation_dim=OBSERVATION_DIM),
        q=build(WithDropout, ["q1", "q2"], seeds, observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM),
        variant=variant,
    )
    train(learner, data, 3)
    assert WithDropout.passes == {(True, True), (False, False)}


def test_a_module_that_learns_in_its_buffers_is_refused():
    with pytest.raises(ValueError, match="buffers"):
        build(lambda **dims: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), ["value"], [0])


def test_draws_are_uniform_and_independent_of_the_pack():
    counters = torch.arange(200_000)
    drawn = bits(keys([0, 1], "batch"), counters)
    torch.testing.assert_close(drawn[1:], bits(keys([1], "batch"), counters))
    assert (drawn >= 0).all()
    shares = torch.bincount(drawn[0] % 10, minlength=10) / len(counters)
    assert (shares - 0.1).abs().max() < 0.003  # 4 standard deviations
    correlation = torch.corrcoef(drawn.double())[0, 1]
    assert correlation.abs() < 0.01


def test_batches_give_a_rows_successor_and_repeat_themselves(data):
    batches = Batches(data, [7], 16, "cpu")
    later, first = batches.at(70), batches.at(0)
    again = Batches(data, [7], 16, "cpu").at(70)
    torch.testing.assert_close(later.observations, again.observations)
    assert not torch.equal(first.observations, later.observations)
    for observation, successor in zip(first.observations[0], first.next_observations[0], strict=True):
        row = int(np.flatnonzero((data.observations == observation.numpy()).all(1))[0])
        assert (data.observations[row + 1] == successor.numpy()).all()


def test_dropout_masks_drop_their_share_and_keep_the_mean():
    (mask,) = DropoutMasks(0.1, [256], [0], "cpu").at(3, 512)
    assert mask.shape == (1, 512, 256)
    assert (mask == 0).float().mean().item() == pytest.approx(0.1, abs=0.004)
    assert mask.mean().item() == pytest.approx(1.0, abs=0.004)
