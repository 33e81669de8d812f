"""The losses of SQL, EQL and XQL that stand in place of IQL's, with their gradients, as in losses.py.

[M, B] is members × batch; every loss is [M]. Hyperparameters are [M, 1]. Numbers are those of the authors' code,
ryanxhr/IVR (SQL, EQL; arXiv:2303.15810) and Div99/XQL (arXiv:2301.02328).
"""

from __future__ import annotations

import torch
from torch import Tensor

from iql.algorithms.losses import same_shape


def sparse_value_loss(q: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """SQL: mean 1[z > 0] z² + v/α, z = (q − v)/(2α) + 1; q, v [M, B]. Returns [M]."""
    same_shape(q=q, v=v)
    z = (q - v) / (2 * alpha) + 1
    return (z.clamp(min=0).square() + v / alpha).mean(-1)


def sparse_value_loss_gradient(q: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """The gradient of sparse_value_loss with respect to v, [M, B]."""
    z = (q - v) / (2 * alpha) + 1
    return (1 - z.clamp(min=0)) / (alpha * v.shape[-1])


def exponential_value_loss(q: Tensor, v: Tensor, alpha: Tensor, clip: Tensor) -> Tensor:
    """EQL: mean exp(z − c) + exp(−c) v/α, z = min((q − v)/α, clip), c as in `_offset`; q, v [M, B]. Returns [M].

    The second term has v itself: where z is clipped, v is pushed down.
    """
    same_shape(q=q, v=v)
    z = torch.minimum((q - v) / alpha, clip)
    c = _offset(z)
    return (torch.exp(z - c) + torch.exp(-c) * v / alpha).mean(-1)


def exponential_value_loss_gradient(q: Tensor, v: Tensor, alpha: Tensor, clip: Tensor) -> Tensor:
    """The gradient of exponential_value_loss with respect to v, [M, B]."""
    z = (q - v) / alpha
    c = _offset(torch.minimum(z, clip))
    pushed = torch.exp(-c)
    return torch.where(z >= clip, pushed, pushed - torch.exp(z - c)) / (alpha * v.shape[-1])


def gumbel_value_loss(q: Tensor, v: Tensor, temperature: Tensor, clip: Tensor) -> Tensor:
    """XQL: mean exp(z − c) − z exp(−c) − exp(−c), z = min((q − v)/temperature, clip), c as in `_offset`. Returns [M].

    q, v [M, B]. z is clipped in both terms: rows beyond have no gradient.
    """
    same_shape(q=q, v=v)
    z = torch.minimum((q - v) / temperature, clip)
    c = _offset(z)
    return (torch.exp(z - c) - (z + 1) * torch.exp(-c)).mean(-1)


def gumbel_value_loss_gradient(q: Tensor, v: Tensor, temperature: Tensor, clip: Tensor) -> Tensor:
    """The gradient of gumbel_value_loss with respect to v, [M, B]."""
    z = (q - v) / temperature
    c = _offset(torch.minimum(z, clip))
    gradient = (torch.exp(-c) - torch.exp(z - c)) / (temperature * v.shape[-1])
    return torch.where(z >= clip, 0.0, gradient)


def sparse_weights(advantage: Tensor, cap: Tensor) -> Tensor:
    """SQL's weights of the policy: min(max(A, 0), cap); advantage [M, B], cap [M, 1]."""
    return torch.minimum(advantage.clamp(min=0), cap)


def huber_q_loss(q: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """XQL's loss of both Q: the mean of ½x² where |x| ≤ δ, else δ(|x| − ½δ), of x = Q − target, summed over the two.

    q [M, 2, B], target [M, B], delta [M, 1] → [M].
    """
    same_shape(q=q[:, 0], target=target)
    x, delta = (q - target.unsqueeze(1)).abs(), delta.unsqueeze(1)
    within = torch.minimum(x, delta)
    return (0.5 * within.square() + delta * (x - within)).sum(1).mean(-1)


def huber_q_loss_gradient(q: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """The gradient of huber_q_loss with respect to q, [M, copies, B]."""
    x, delta = q - target.unsqueeze(1), delta.unsqueeze(1)
    return torch.maximum(torch.minimum(x, delta), -delta) / q.shape[-1]


def _offset(z: Tensor) -> Tensor:
    """max(max z, −1) over the batch, [M, 1], a constant: so that no exponential overflows.

    It scales the loss of the whole batch, each member's by its own.
    """
    return z.detach().amax(-1, keepdim=True).clamp(min=-1)
