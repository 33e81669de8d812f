"""Discrete actions: the losses by hand, a decision process whose best policy is known, packs, and code paths."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_transitions
from learners import ACTION_DIM, DISCRETE, OBSERVATION_DIM, largest_difference, make_learner, train

from iql.algorithms import losses
from iql.data.transitions import Transitions, from_rows
from iql.errors import UserError
from iql.execution.paths import choose, obstacle
from iql.networks.distributions import Categorical, Gaussian

CLONING = {
    "_target_": "iql.algorithms.bc.BC",
    "top_fraction": None,
    "return_discount": 1.0,
    "policy_schedule": "constant",
}
ALGORITHMS = {"iql": None, "bc": CLONING}


def test_the_log_probability_is_that_of_the_softmax():
    """Logits ln 1, ln 2, ln 5 are the probabilities 1/8, 2/8, 5/8."""
    logits = torch.tensor([1.0, 2.0, 5.0]).log().expand(1, 3, 3) + 7
    policy = Categorical(logits)
    actions = torch.eye(3)[None]
    expected = torch.tensor([[1 / 8, 2 / 8, 5 / 8]]).log()
    torch.testing.assert_close(losses.policy_log_prob(policy, actions), expected)
    torch.testing.assert_close(losses.cloning_loss(policy, actions), -expected.mean(1))
    by_hand = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    torch.testing.assert_close(policy.entropy(), torch.full((1, 3), by_hand))
    weights = torch.tensor([[2.0, 0.0, 4.0]])
    loss = losses.policy_loss(weights, losses.policy_log_prob(policy, actions))
    torch.testing.assert_close(loss, torch.tensor([-(2 * math.log(1 / 8) + 4 * math.log(5 / 8)) / 3]))


def test_a_gaussians_losses_are_as_before():
    mean, log_std, actions = torch.randn(2, 4, 3), torch.randn(2, 1, 3), torch.randn(2, 4, 3)
    for given in (log_std, None):
        own = losses.policy_log_prob(Gaussian(mean, given), actions)
        torch.testing.assert_close(own, losses.log_prob(mean, given, actions), rtol=0, atol=0)


def chain() -> Transitions:
    """Five states in a row; action 1 goes right, at whose end is a reward of 1, action 0 left, where there is 0.1.

    Every action is taken in every state, left in seven of ten cases; right is best everywhere (discount 0.9).
    """
    rows = []
    for _ in range(20):
        for state in range(5):
            for action in [0] * 7 + [1] * 3:
                after = state + (1 if action else -1)
                over = after in (-1, 5)
                rows.append((state, action, {-1: 0.1, 5: 1.0}.get(after, 0.0), over, False))
                rows.append((min(max(after, 0), 4), 0, 0.0, False, True))
    states, actions, rewards, terminals, timeouts = (np.array(column) for column in zip(*rows, strict=True))
    one_hot = [np.eye(size, dtype=np.float32)[each] for size, each in ((5, states), (2, actions))]
    return from_rows(*one_hot, rewards.astype(np.float32), terminals, timeouts, discrete=True)


@pytest.mark.parametrize(("algorithm", "best"), [("iql", 1), ("bc", 0)])
def test_the_best_policy_of_a_chain_is_learned_from_values_not_by_cloning(algorithm, best):
    learner = make_learner(
        [0], algorithm=ALGORITHMS[algorithm], networks=DISCRETE, updates=1500,
        lr=[3e-3], tau=[0.9], beta=[30.0], discount=[0.9], polyak=[0.05],
    )  # fmt: skip
    train(learner, chain(), 1500)
    chosen = learner.mean_actions(torch.eye(5)[None])[0]
    assert chosen.tolist() == torch.eye(2)[[best] * 5].tolist()
    if algorithm == "iql":  # of the best policy the values are 0.9 ** steps; those of an expectile lie below
        heads = learner.networks["q"].net(torch.eye(5)[None]).amin(1)[0].detach()
        assert (heads[:, 1] > heads[:, 0]).all() and heads[4, 1] == pytest.approx(1, abs=0.05)
        assert heads[0, 0] == pytest.approx(0.1, abs=0.05)


def discrete_transitions() -> Transitions:
    data = random_transitions(OBSERVATION_DIM, ACTION_DIM)
    return replace(data, actions=np.eye(2, dtype=np.float32)[(data.actions[:, 0] > 0).astype(int)])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_member_is_the_same_alone_and_in_a_pack(algorithm):
    data, own = discrete_transitions(), {"algorithm": ALGORITHMS[algorithm], "networks": DISCRETE}
    pack, alone = make_learner([3, 4], lr=[1e-3, 1e-4], **own), make_learner([4], lr=[1e-4], **own)
    metrics = [train(learner, data, 100, measure=True) for learner in (pack, alone)]
    assert largest_difference(pack.network_state(1), alone.network_state(0)) < 1e-6
    assert "log_std" not in metrics[0] and 0 < float(metrics[1]["entropy"]) <= math.log(2)


def test_dropout_is_drawn_by_the_number_of_the_update():
    networks = {**DISCRETE, "policy": {**DISCRETE["policy"], "dropout": 0.5}}
    learner = make_learner([0], algorithm=CLONING, networks=networks)
    policy, observations = learner.networks["policy"].train(), torch.ones(1, 3, OBSERVATION_DIM)
    given = []
    for number in (0, 1, 0):
        policy.update_number = number
        given.append(policy(observations).logits)
    assert torch.equal(given[0], given[2]) and not torch.equal(given[0], given[1])
    train(learner, discrete_transitions(), 3)
    assert policy.update_number == 2


def test_gradients_that_are_written_out_are_for_continuous_actions():
    learner = make_learner([0], networks=DISCRETE)
    assert obstacle(learner) == "network.q is a DiscreteTwinQ"
    with pytest.raises(UserError, match="code_path=fused: network.q is a DiscreteTwinQ; use code_path=auto or plain"):
        choose(learner, 32, "fused", 1)
