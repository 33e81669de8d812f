"""The equations as pure functions on tensors; numbers are those of IQL's paper (arXiv:2110.06169).

[M, B] is members × batch. Every loss is [M], one number a member, so that the gradient of
a pack's sum is that of each member. Beside each loss stands its gradient, for updates without autograd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iql.networks.distributions import Categorical, Gaussian


def same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all have one shape: broadcasting would hide a mistake."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes must be equal, got {shapes}")


def value_loss(q: Tensor, v: Tensor, tau: Tensor) -> Tensor:
    """Expectile regression of V on Q, equation 5: mean |tau − 1(q − v < 0)| · (q − v)².

    q, v [M, B]; tau [M, 1], the expectile. At tau 0.5 it is half the mean squared error. Returns [M].
    """
    same_shape(q=q, v=v)
    difference = q - v
    weight = torch.where(difference < 0, 1 - tau, tau)
    return (weight * difference.square()).mean(-1)


def value_loss_gradient(q: Tensor, v: Tensor, tau: Tensor) -> Tensor:
    """The gradient of value_loss with respect to v, [M, B]."""
    difference = q - v
    scale = -2 / v.shape[-1]
    return torch.where(difference < 0, (1 - tau) * scale, tau * scale).mul_(difference)


def q_target(rewards: Tensor, masks: Tensor, next_v: Tensor, discount: Tensor) -> Tensor:
    """What Q is regressed on, equation 6: r + discount · mask · V(s′), all [M, B], discount [M, 1]."""
    same_shape(rewards=rewards, masks=masks, next_v=next_v)
    return rewards + discount * masks * next_v


def q_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of both Q networks, equation 6, summed over the two: q [M, 2, B], target [M, B] → [M]."""
    same_shape(q=q[:, 0], target=target)
    return (q - target.unsqueeze(1)).square().sum(1).mean(-1)


def q_loss_gradient(q: Tensor, target: Tensor) -> Tensor:
    """The gradient of q_loss with respect to q, [M, 2, B]."""
    return (q - target.unsqueeze(1)).mul_(2 / q.shape[-1])


def advantage_weights(advantage: Tensor, beta: Tensor, cap: Tensor) -> Tensor:
    """min(exp(beta · A), cap), equation 7 with the authors' cap of 100; advantage [M, B], beta, cap [M, 1]."""
    return torch.minimum(torch.exp(beta * advantage), cap)


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Log-density of actions under a diagonal Gaussian, summed over action dimensions.

    mean, actions [M, B, action_dim]; log_std broadcasts to them. Returns [M, B].
    """
    same_shape(mean=mean, actions=actions)
    normalized = (actions - mean) * torch.exp(-log_std)
    return -0.5 * normalized.square().sum(-1) - (log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def squared_log_prob(mean: Tensor, actions: Tensor) -> Tensor:
    """What stands for the log-density of a deterministic policy, −‖a − π(s)‖²: [M, B, action_dim] → [M, B]."""
    same_shape(mean=mean, actions=actions)
    return -(actions - mean).square().sum(-1)


def categorical_log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """Log-probability of one-hot actions, both [M, B, action_dim]. Returns [M, B]."""
    same_shape(logits=logits, actions=actions)
    return (torch.log_softmax(logits, -1) * actions).sum(-1)


def log_prob(mean: Tensor, log_std: Tensor | None, actions: Tensor) -> Tensor:
    """Log-density of actions [M, B, action_dim] under what a policy gives: Gaussian, or deterministic without log_std.

    log_std [M, 1 or B, action_dim], or [M, action_dim] of a policy whose standard deviation depends on no state.
    Returns [M, B].
    """
    if log_std is None:
        return squared_log_prob(mean, actions)
    return gaussian_log_prob(mean, log_std.unsqueeze(1) if log_std.dim() == 2 else log_std, actions)


def policy_log_prob(policy: Gaussian | Categorical, actions: Tensor) -> Tensor:
    """Log-density or, of one-hot actions, log-probability under what a policy gives: [M, B, action_dim] → [M, B]."""
    if isinstance(policy, Categorical):
        return categorical_log_prob(policy.logits, actions)
    return log_prob(policy.mean, policy.log_std, actions)


def policy_loss(weights: Tensor, log_prob: Tensor) -> Tensor:
    """Advantage-weighted regression, equation 7: −mean weight · log π(a|s), both [M, B]. Returns [M]."""
    same_shape(weights=weights, log_prob=log_prob)
    return -(weights * log_prob).mean(-1)


def cloning_loss(policy: Gaussian | Categorical, actions: Tensor) -> Tensor:
    """Behaviour cloning: −mean log π(a|s), of a Categorical the cross entropy; of a deterministic policy the squared
    error's mean, over dimensions too.

    Shapes as in policy_log_prob. Returns [M].
    """
    per_row = -policy_log_prob(policy, actions).mean(-1)
    deterministic = isinstance(policy, Gaussian) and policy.log_std is None
    return per_row / actions.shape[-1] if deterministic else per_row


def gaussian_policy_gradient(weights: Tensor, mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of policy_loss under gaussian_log_prob with respect to mean [M, B, action_dim] and log_std.

    log_std [M, 1, action_dim], as its gradient.
    """
    inverse = torch.exp(-log_std)
    normalized = (actions - mean) * inverse
    share = weights.unsqueeze(-1) / -weights.shape[-1]
    of_log_std = (share * (normalized.square() - 1)).sum(1, keepdim=True)
    return normalized.mul_(inverse).mul_(share), of_log_std


def squared_policy_gradient(weights: Tensor, mean: Tensor, actions: Tensor) -> Tensor:
    """The gradient of policy_loss under squared_log_prob with respect to mean, [M, B, action_dim]."""
    return (actions - mean).mul_(weights.unsqueeze(-1) * (-2 / weights.shape[-1]))


def smoothed(actions: Tensor, noise: Tensor, scale: Tensor, clip: Tensor) -> Tensor:
    """TD3's target policy smoothing: actions plus clipped noise, within ±1.

    actions, noise [M, B, action_dim], noise standard normal; scale, clip [M, 1], of the noise.
    """
    scale, clip = scale.unsqueeze(-1), clip.unsqueeze(-1)
    return (actions + torch.minimum(torch.maximum(scale * noise, -clip), clip)).clamp(-1, 1)


def normalized(q: Tensor) -> Tensor:
    """q [M, B] divided by the mean of |q| over the batch, a constant."""
    return q / q.detach().abs().mean(-1, keepdim=True)


def action_distance(actions: Tensor, others: Tensor) -> Tensor:
    """Squared distance of actions, summed over their dimensions: [M, B, action_dim] each → [M, B]."""
    return (actions - others).square().sum(-1)
