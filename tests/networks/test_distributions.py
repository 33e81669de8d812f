"""What policies give, and the Q with a head for each action; also of a user's own policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from iql.evaluation.numpy_policies import NumpyCategorical, NumpyPerceptron, TorchPolicy
from iql.evaluation.pending import actor, policy_weights
from iql.networks.actors import CategoricalPolicy, Policy
from iql.networks.critics import DiscreteTwinQ
from iql.networks.distributions import Categorical, Gaussian, distribution
from iql.networks.lifting import build

SEEDS = (3, 5)


class OwnCategorical(nn.Module):
    def __init__(self, observation_dim: int, action_dim: int):
        super().__init__()
        self.head = nn.Linear(observation_dim, action_dim)

    def forward(self, observations):
        return Categorical(self.head(observations))


def test_q_is_the_head_of_the_action():
    q = DiscreteTwinQ(4, 3, SEEDS, [8], "orthogonal")
    observations = torch.randn(2, 6, 4)
    heads = q.net(observations)
    assert heads.shape == (2, 2, 6, 3)
    for action in range(3):
        one_hot = torch.eye(3)[action].expand(2, 6, 3)
        assert torch.equal(q(observations, one_hot), heads[..., action])


def test_the_greedy_action_is_the_likeliest_one():
    greedy = Categorical(torch.tensor([[[0.1, 3.0, -1.0], [2.0, 2.0, 0.0]]])).greedy()
    assert greedy.tolist() == [[[0, 1, 0], [1, 0, 0]]]
    assert Gaussian(torch.tensor([[[-3.0, 0.5]]]), None).greedy().tolist() == [[[-1, 0.5]]]


def test_a_pair_of_a_users_policy_is_a_gaussian():
    mean, log_std = torch.zeros(1, 2, 3), torch.ones(1, 1, 3)
    assert distribution((mean, log_std)) == Gaussian(mean, log_std)
    own, other = Gaussian(mean, log_std)  # as users unpack it
    assert own is mean and other is log_std
    categorical = Categorical(mean)
    assert distribution(categorical) is categorical


def test_our_policies_say_what_they_give():
    common = {"observation_dim": 4, "action_dim": 3, "seeds": SEEDS, "hidden_dims": [8], "initialization": "orthogonal"}
    gaussian = Policy(**common, distribution="gaussian", mean="tanh", dropout=None, log_std_range=[-5, 2])
    assert isinstance(gaussian(torch.zeros(2, 1, 4)), Gaussian)
    given = CategoricalPolicy(**common, dropout=None)(torch.zeros(2, 1, 4))
    assert isinstance(given, Categorical) and given.logits.shape == (2, 1, 3)


def test_a_standard_deviation_that_is_fixed_is_no_parameter():
    common = {"observation_dim": 4, "action_dim": 3, "seeds": SEEDS, "hidden_dims": [8], "initialization": "xavier"}
    rest = {"mean": "linear", "dropout": None, "log_std_range": [-5.0, -4.0]}  # which is for one that is learned
    policy = Policy(**common, **rest, distribution="gaussian", std=0.5)
    given = policy(torch.zeros(2, 7, 4))
    assert given.log_std.shape == (2, 1, 3)
    torch.testing.assert_close(given.log_std.exp(), torch.full((2, 1, 3), 0.5))
    assert not given.log_std.requires_grad
    assert not any("log_std" in name for name in policy.state_dict())
    for wrong in ({"distribution": "deterministic", "std": 0.5}, {"distribution": "gaussian", "std": 0.0}):
        with pytest.raises(ValueError, match="std is above 0 and of a gaussian policy"):
            Policy(**common, **rest, **wrong)


def test_rollout_workers_play_the_likeliest_action():
    mean, std = np.float32([1, 0, -1, 2]), np.float32([2, 1, 0.5, 3])
    observations = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    inputs = torch.from_numpy((observations - mean) / std)
    own = CategoricalPolicy(4, 3, SEEDS, [8, 8], "orthogonal", None)
    lifted = build(OwnCategorical, ["policy"], SEEDS, observation_dim=4, action_dim=3)
    for policy, kind in ((own, NumpyCategorical), (lifted, TorchPolicy)):
        given = policy(inputs.expand(2, -1, -1))
        assert isinstance(given, Categorical)
        for member in range(2):
            act = actor(policy, policy_weights(policy, member), mean, std)
            assert type(act) is kind
            actions = act(observations)
            assert actions.dtype == np.float32
            np.testing.assert_array_equal(actions, given.greedy()[member].numpy())
            assert len(np.unique(actions.argmax(1))) > 1


def test_logits_that_are_not_finite_are_no_action():
    """The rollout reports an action that is not finite (evaluation.rollout)."""
    kernel, zeros = np.float32([[np.nan, 1]]), np.zeros(1, np.float32)
    net = NumpyPerceptron([kernel], [np.zeros(2, np.float32)], "relu", None, 1e-6, [], [])
    act = NumpyCategorical(net, zeros, zeros + 1)
    assert np.isnan(act(np.ones((1, 1), np.float32))).any()
