"""The losses of SQL, EQL and XQL against numbers computed by hand, and their gradients against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from iql.algorithms import value_losses as losses
from iql.algorithms.losses import action_distance, normalized, smoothed


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def number(value: float) -> torch.Tensor:
    return torch.tensor([[value]])


def test_the_sparse_loss_by_hand():
    """z = (1/2 + 1, −4/2 + 1) = (1.5, −1): 1.5² + v/α, 0 + v/α."""
    loss = losses.sparse_value_loss(row(2, -3), row(1, 1), number(1))
    assert loss.tolist() == pytest.approx([(2.25 + 1 + 0 + 1) / 2])


def test_the_exponential_loss_by_hand():
    """z = (0.5, 5 where 6 is clipped), c = 5; the linear term keeps v of the clipped row."""
    loss = losses.exponential_value_loss(row(2, 13), row(1, 1), number(2), number(5))
    expected = (math.exp(0.5 - 5) + math.exp(-5) / 2 + 1 + math.exp(-5) / 2) / 2
    assert loss.tolist() == pytest.approx([expected])


def test_the_gumbel_loss_by_hand():
    """z = (0.5, 5 where 6 is clipped, in both terms), c = 5; and c is not below −1."""
    loss = losses.gumbel_value_loss(row(2, 13), row(1, 1), number(2), number(5))
    expected = (math.exp(-4.5) - 0.5 * math.exp(-5) - math.exp(-5) + 1 - 5 * math.exp(-5) - math.exp(-5)) / 2
    assert loss.tolist() == pytest.approx([expected])
    low = losses.gumbel_value_loss(row(-3), row(1), number(2), number(5))  # z = −2, c = −1
    assert low.tolist() == pytest.approx([math.exp(-1) + 2 * math.e - math.e])


def test_the_huber_loss_by_hand():
    """Errors 3 and −50 of Q1, 0 and 20 of Q2, δ 20: ½·9, 20 (50 − 10), 0, ½·400."""
    q = torch.tensor([[[4.0, -49.0], [1.0, 21.0]]])
    assert losses.huber_q_loss(q, row(1, 1), number(20)).tolist() == pytest.approx([(4.5 + 800 + 0 + 200) / 2])


def test_sparse_weights_are_the_positive_advantages_up_to_the_cap():
    assert losses.sparse_weights(row(-1, 0, 2, 200), number(100)).tolist() == [[0, 0, 2, 100]]


VALUE_LOSSES = {
    "sparse": (losses.sparse_value_loss, losses.sparse_value_loss_gradient, ()),
    "exponential": (losses.exponential_value_loss, losses.exponential_value_loss_gradient, (0.8,)),
    "gumbel": (losses.gumbel_value_loss, losses.gumbel_value_loss_gradient, (0.8,)),
}


@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_gradients_are_those_of_autograd(name):
    loss, gradient, limits = VALUE_LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    q, v = 2 * torch.randn(2, 64, generator=generator), torch.randn(2, 64, generator=generator, requires_grad=True)
    settings = [torch.tensor([[0.7], [1.5]]), *(torch.tensor([[limit], [limit]]) for limit in limits)]
    assert limits == () or ((q - v) / settings[0] > limits[0]).any()
    (expected,) = torch.autograd.grad(loss(q, v, *settings).sum(), v)
    torch.testing.assert_close(gradient(q, v.detach(), *settings), expected)
    alone = gradient(q[1:], v.detach()[1:], *(each[1:] for each in settings))
    torch.testing.assert_close(alone, expected[1:])  # each member is rescaled by its own batch


def test_the_huber_gradient_is_that_of_autograd():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2, 64, generator=generator, requires_grad=True)
    target, delta = torch.randn(2, 64, generator=generator), torch.tensor([[0.5], [1.0]])
    (expected,) = torch.autograd.grad(losses.huber_q_loss(q, target, delta).sum(), q)
    torch.testing.assert_close(losses.huber_q_loss_gradient(q.detach(), target, delta), expected)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="shapes must be equal"):
        losses.gumbel_value_loss(torch.zeros(1, 4), torch.zeros(1, 1, 4), number(1), number(1))


def test_smoothing_clips_the_noise_and_then_the_action():
    actions, noise = torch.tensor([[[0.0], [0.9], [-0.5]]]), torch.tensor([[[1.0], [10.0], [-1.0]]])
    result = smoothed(actions, noise, number(0.2), number(0.5))
    torch.testing.assert_close(result, torch.tensor([[[0.2], [1.0], [-0.7]]]))


def test_normalized_q_has_a_mean_size_of_one_and_a_constant_scale():
    q = torch.tensor([[2.0, -4.0]], requires_grad=True)
    assert normalized(q).tolist() == [[pytest.approx(2 / 3), pytest.approx(-4 / 3)]]
    (gradient,) = torch.autograd.grad(normalized(q).sum(), q)
    assert gradient.tolist() == [[pytest.approx(1 / 3), pytest.approx(1 / 3)]]


def test_the_distance_of_actions_is_summed_over_dimensions():
    assert action_distance(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 0.0]]])).tolist() == [[5.0]]
