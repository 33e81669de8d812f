"""The learner: a member alone and in a pack, resumed, with dropout, with a user's own networks and algorithms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import random_transitions
from learners import (
    ACTION_DIM,
    OBSERVATION_DIM,
    OwnPolicy,
    OwnQ,
    WithDropout,
    largest_difference,
    make_learner,
    target,
    train,
)
from torch import nn

from iql.algorithms.algorithm import Algorithm
from iql.data.random_streams import bits, keys, normal
from iql.data.sampling import Batches
from iql.data.transitions import Transitions
from iql.execution.eager import Eager
from iql.execution.graphs import AutogradUpdate, Graphs
from iql.learner.schedules import Horizon
from iql.networks.dropout import DropoutMasks
from iql.networks.lifting import build


@pytest.fixture(scope="module")
def data() -> Transitions:
    return random_transitions(OBSERVATION_DIM, ACTION_DIM)


@pytest.mark.parametrize("variant", ["iql", "iql_gwthomas"])
@pytest.mark.parametrize("dropout", [None, 0.1])
def test_a_member_has_the_same_numbers_alone_and_in_a_pack(data, variant, dropout):
    settings = {"tau": [0.5, 0.7, 0.9], "beta": [0.0, 3.0, 10.0], "lr": [3e-4, 1e-3, 1e-4]}
    pack = make_learner([3, 4, 5], variant=variant, dropout=dropout, **settings)
    train(pack, data, 100)
    for place, seed in enumerate([3, 4, 5]):
        own = {key: [values[place]] for key, values in settings.items()}
        alone = make_learner([seed], variant=variant, dropout=dropout, **own)
        train(alone, data, 100)
        assert largest_difference(alone.network_state(0), pack.network_state(place)) < 1e-5


@pytest.mark.parametrize("optimizer", [{"_target_": "torch.optim.Adam"}, {"_target_": "torch.optim.AdamW"}])
def test_a_learner_continues_bit_for_bit_from_its_state(data, optimizer):
    whole, first, second = (make_learner([0, 1], dropout=0.1, optimizer=optimizer) for _ in range(3))
    train(whole, data, 60)
    train(first, data, 30)
    for member in range(2):
        second.load(member, copy.deepcopy(first.state(member)))
    train(second, data, 30)
    for member in range(2):
        assert largest_difference(whole.network_state(member), second.network_state(member)) == 0.0


def test_a_rate_falls_to_zero_and_stays_there():
    horizon = Horizon(1000)
    rates = [horizon.rate_factor("cosine", update) for update in (0, 500, 1000, 1500)]
    assert rates == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-9)
    on_device = [float(horizon.rate_factor("cosine", torch.tensor(update))) for update in (0, 500, 1000, 1500)]
    assert on_device == pytest.approx(rates, abs=1e-7)
    assert horizon.rate_factor("constant", 700) == 1.0


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("restarted", [1, 0.5, 1, 0.5, 0]),
        ("continued", [1, 0.5, 0, 0.5, 1]),
    ],
)
def test_a_rate_in_the_online_phase(how, expected):
    """Of 1,000 updates offline and 1,000 online: at the start, in the middle, at the border, and on."""
    horizon = Horizon(1000, 1000, how)
    for update, factor in zip((0, 500, 1000, 1500, 2000), expected, strict=True):
        assert horizon.rate_factor("cosine", update) == pytest.approx(factor, abs=1e-9)
        assert float(horizon.rate_factor("cosine", torch.tensor(update))) == pytest.approx(factor, abs=1e-6)
        assert horizon.rate_factor("constant", update) == 1.0


def test_the_policys_rate_alone_is_scheduled(data):
    learner = make_learner([0], updates=10)
    train(learner, data, 10)
    before = learner.network_state(0)
    train(learner, data, 1)
    after = learner.network_state(0)
    assert largest_difference({"policy": before["policy"]}, {"policy": after["policy"]}) == 0
    assert largest_difference({"value": before["value"]}, {"value": after["value"]}) > 0


def test_a_measured_update_is_the_same_update(data):
    plain, measured = make_learner([0, 1]), make_learner([0, 1])
    for _ in range(5):
        assert train(plain, data, 1) is None
        metrics = train(measured, data, 1, measure=True)
    assert all(metric.shape == (2,) for metric in metrics.values())
    assert largest_difference(plain.network_state(0), measured.network_state(0)) == 0.0


def test_a_loss_that_is_not_one_number_a_member_is_refused(data):
    learner = make_learner([0, 1], algorithm={"_target_": "test_learner.Scalar"})
    with pytest.raises(ValueError, match=r"the loss of policy must be \[members\], one number a member, not \[\]"):
        train(learner, data, 1)


def test_noise_is_the_same_alone_in_a_pack_and_after_a_resume(data):
    algorithm = {"_target_": "learners.Noisy"}
    pack, alone, resumed = (make_learner(seeds, algorithm=algorithm) for seeds in ([0, 1], [1], [1]))
    train(pack, data, 10)
    found = [float(train(pack, data, 1, measure=True)["noise"][1])]
    train(alone, data, 10)
    resumed.load(0, copy.deepcopy(alone.state(0)))
    found += [float(train(each, data, 1, measure=True)["noise"]) for each in (alone, resumed)]
    assert found[0] == found[1] == found[2]
    assert float(train(alone, data, 1, measure=True)["noise"]) != found[0]
    assert largest_difference(pack.network_state(1), resumed.network_state(0)) < 1e-6


class EverySecond(Algorithm):
    """Moves the policy in every second update, twice."""

    networks = ("policy",)
    cycle = 2

    def update(self, step):
        def loss():
            return step.networks["policy"](step.batch.observations)[0].square().mean((1, 2))

        if step.phase == 0:
            step.minimize("policy", loss())
            step.minimize("policy", loss())
        else:
            step.record(policy_loss=loss())


@pytest.mark.parametrize("captured", [False, True])
def test_an_update_may_depend_on_its_place_in_a_cycle(data, captured):
    learner = make_learner([0, 1], algorithm={"_target_": "test_learner.EverySecond"})
    execution = Graphs(learner, AutogradUpdate(learner), 1, "plain") if captured else Eager(learner, 1)
    batches = Batches(data, learner.seeds, 32, "cpu")
    steps, losses = [], []
    for count in (1, 1, 1, 20):
        metrics = execution.advance(batches, count, measure=True)
        steps.append(learner.optimizers["policy"].steps.tolist())
        losses.append(metrics["policy_loss"].tolist())
        assert ("grad_norm_policy" in metrics) == (learner.phase(learner.update_count - 1) == 0)
    assert steps == [[2, 2], [2, 2], [4, 4], [24, 24]]
    assert all(later < earlier for earlier, later in zip(losses[0], losses[-1], strict=True))


def test_normal_numbers_are_normal_and_independent():
    drawn = normal(keys([0, 1], "noise/action"), torch.arange(200_000))
    assert drawn.shape == (2, 200_000) and drawn.isfinite().all()
    assert drawn.mean().abs() < 0.01 and (drawn.std() - 1).abs() < 0.01
    assert (drawn.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.004)
    assert torch.corrcoef(torch.stack([drawn[0, :-1], drawn[0, 1:], drawn[1, 1:]]))[0, 1:].abs().max() < 0.01


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda step, loss: step.record(share=0.5), "the metric share must be a tensor"),
        (lambda step, loss: step.record(share=loss.mean()), "the metric share must be a tensor"),
        (lambda step, loss: [step.minimize("policy", loss), step.record(policy_loss=loss)], "policy_loss is recorded"),
    ],
)
def test_what_an_update_may_not_do_is_refused(data, monkeypatch, body, message):
    monkeypatch.setattr(Scalar, "update", lambda self, step: body(step, zero(step)))
    learner = make_learner([0, 1], algorithm={"_target_": "test_learner.Scalar"})
    with pytest.raises(ValueError, match=message):
        train(learner, data, 1)


def zero(step):
    return step.networks["policy"](step.batch.observations)[0].mean((1, 2)) * 0


class Scalar(Algorithm):
    networks = ("policy",)

    def update(self, step):
        step.minimize("policy", step.networks["policy"](step.batch.observations)[0].mean())


def test_mean_actions_are_clipped_to_the_bounds():
    learner = make_learner([0], variant="iql_gwthomas")
    for kernel in learner.networks["policy"].net.kernels:
        kernel.data.mul_(10)
    actions = learner.mean_actions(torch.randn(1, 50, OBSERVATION_DIM))
    unclipped, _ = learner.networks["policy"](torch.randn(1, 50, OBSERVATION_DIM))
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


def test_a_users_network_written_for_one_run_is_lifted_over_the_members(data):
    dims = {"observation_dim": OBSERVATION_DIM, "action_dim": ACTION_DIM}

    pack, alone = (make_learner(seeds, networks={"policy": target(OwnPolicy, width=12)}) for seeds in ([0, 1], [1]))
    train(pack, data, 20)
    train(alone, data, 20)
    assert largest_difference(alone.network_state(0), pack.network_state(1)) < 1e-5
    assert pack.mean_actions(torch.zeros(2, 3, OBSERVATION_DIM)).shape == (2, 3, ACTION_DIM)
    actions = [pack.mean_actions(torch.ones(2, 3, OBSERVATION_DIM)) for _ in range(2)]
    torch.testing.assert_close(*actions, rtol=0, atol=0)  # no dropout while acting

    twin = build(OwnQ, ["q1", "q2"], [0, 1], **dims)
    assert twin(torch.zeros(2, 3, OBSERVATION_DIM), torch.zeros(2, 3, ACTION_DIM)).shape == (2, 2, 3)


@pytest.mark.parametrize("variant", ["iql", "iql_gwthomas"])
def test_a_users_dropout_rests_where_only_targets_are_made(data, variant, monkeypatch):
    monkeypatch.setattr(WithDropout, "passes", set())
    networks = {"value": target(WithDropout), "q": target(WithDropout)}
    learner = make_learner([0, 1], networks=networks, variant=variant)
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
    (mask,) = DropoutMasks(0.1, [256], [0]).at(3, 512)
    assert mask.shape == (1, 512, 256)
    assert (mask == 0).float().mean().item() == pytest.approx(0.1, abs=0.004)
    assert mask.mean().item() == pytest.approx(1.0, abs=0.004)
