"""The paper's equations against tables computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from iql.algorithms import losses


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers).unsqueeze(1)


def test_value_loss_weighs_positive_differences_by_tau_and_negative_ones_by_the_rest():
    q = torch.tensor([[3.0, 1.0, 0.0, 2.0]])
    v = torch.tensor([[1.0, 2.0, 0.0, 5.0]])
    # differences 2, -1, 0, -3: (0.7·4 + 0.3·1 + 0 + 0.3·9) / 4
    assert losses.value_loss(q, v, column(0.7)).item() == pytest.approx((2.8 + 0.3 + 2.7) / 4)


def test_value_loss_at_tau_one_half_is_half_the_mean_squared_error():
    q, v = torch.randn(2, 3, 7)
    expected = 0.5 * (q - v).square().mean(1)
    torch.testing.assert_close(losses.value_loss(q, v, column(0.5, 0.5, 0.5)), expected)


def test_each_member_has_its_own_expectile():
    q, v = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [0.0]])
    assert losses.value_loss(q, v, column(0.5, 0.9)).tolist() == pytest.approx([0.5, 0.9])


def test_q_target_does_not_look_past_a_terminal():
    rewards, masks = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    next_v = torch.tensor([[10.0, 10.0]])
    assert losses.q_target(rewards, masks, next_v, column(0.9)).tolist() == [[10.0, 2.0]]


def test_q_loss_is_the_sum_of_both_squared_errors():
    q = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    target = torch.tensor([[2.0, 2.0]])
    # q1: 1, 0; q2: 1, 4; summed over the two, mean over the batch
    assert losses.q_loss(q, target).tolist() == [(2 + 4) / 2]


@pytest.mark.parametrize(
    ("advantage", "beta", "expected"),
    [
        (1.0, 3.0, math.exp(3)),
        (-1.0, 3.0, math.exp(-3)),
        (2.0, 3.0, 100.0),
        (50.0, 10.0, 100.0),
        (5.0, 0.0, 1.0),
    ],
)
def test_advantage_weights_are_capped_and_beta_zero_weighs_all_alike(advantage, beta, expected):
    weight = losses.advantage_weights(torch.tensor([[advantage]]), column(beta), column(100.0))
    assert weight.item() == pytest.approx(expected, rel=1e-6)


def test_the_policy_loss_at_beta_zero_is_behaviour_cloning():
    advantage, log_prob = torch.randn(2, 2, 5)
    weights = losses.advantage_weights(advantage, column(0.0, 0.0), column(100.0, 100.0))
    torch.testing.assert_close(losses.policy_loss(weights, log_prob), -log_prob.mean(1))


def test_gaussian_log_prob_is_torchs_own_summed_over_dimensions():
    mean, actions = torch.randn(2, 2, 5, 3)
    log_std = torch.tensor([[[0.3, -1.0, 0.0]], [[0.0, 0.5, -2.0]]])
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    torch.testing.assert_close(losses.gaussian_log_prob(mean, log_std, actions), expected)


def test_squared_log_prob_sums_over_dimensions():
    mean, actions = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[2.0, 0.0]]])
    assert losses.squared_log_prob(mean, actions).tolist() == [[-5.0]]


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="shapes must be equal"):
        losses.value_loss(torch.zeros(1, 4), torch.zeros(1, 1), column(0.7))
    with pytest.raises(ValueError, match="shapes must be equal"):
        losses.gaussian_log_prob(torch.zeros(1, 4, 2), torch.zeros(2), torch.zeros(1, 4, 1))


def test_the_gradients_are_those_of_autograd():
    torch.manual_seed(0)
    q, target, advantage = torch.randn(3, 2, 7)
    v = torch.randn(2, 7, requires_grad=True)
    twins = torch.randn(2, 2, 7, requires_grad=True)
    mean, log_std = torch.randn(2, 7, 3, requires_grad=True), torch.randn(2, 1, 3, requires_grad=True)
    actions, tau = torch.rand(2, 7, 3), column(0.7, 0.9)
    weights = losses.advantage_weights(advantage, column(3.0, 1.0), column(5.0, 100.0))

    (expected,) = torch.autograd.grad(losses.value_loss(q, v, tau).sum(), v)
    torch.testing.assert_close(losses.value_loss_gradient(q, v.detach(), tau), expected)
    (expected,) = torch.autograd.grad(losses.q_loss(twins, target).sum(), twins)
    torch.testing.assert_close(losses.q_loss_gradient(twins.detach(), target), expected)
    loss = losses.policy_loss(weights, losses.gaussian_log_prob(mean, log_std, actions)).sum()
    gradients = losses.gaussian_policy_gradient(weights, mean.detach(), log_std.detach(), actions)
    for gradient, of_autograd in zip(gradients, torch.autograd.grad(loss, (mean, log_std)), strict=True):
        torch.testing.assert_close(gradient, of_autograd)
    loss = losses.policy_loss(weights, losses.squared_log_prob(mean, actions)).sum()
    (expected,) = torch.autograd.grad(loss, mean)
    torch.testing.assert_close(losses.squared_policy_gradient(weights, mean.detach(), actions), expected)
