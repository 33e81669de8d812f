"""The policy networks, for a whole pack."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iql.networks.distributions import Categorical, Gaussian
from iql.networks.dropout import DropoutMasks
from iql.networks.mlp import MLP


class Policy(nn.Module):
    """The policy: observations [M, B, observation_dim] → mean [M, B, action_dim] and log_std.

    distribution: gaussian, whose log_std [M, 1, action_dim] is a parameter that does not depend on the
    state, starts at 0 and is clipped to `log_std_range`, or with `std` a constant, its logarithm; or deterministic,
    whose log_std is None and which learns by least squares. mean: tanh (the authors, CORL) or linear (gwthomas'
    Gaussian, FQL). dropout: share of hidden units dropped while training, drawn by (seed, `update_number`). layer_norm
    and activation as in MLP.
    """

    member_axis = True
    update_number: int | Tensor = 0  # the learner counts it up
    fixed_log_std: Tensor | None

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        hidden_dims: Sequence[int],
        initialization: str,
        distribution: str,
        mean: str,
        dropout: float | None,
        log_std_range: Sequence[float],
        layer_norm: str | None = None,  # policies of before have none of these three
        activation: str = "relu",
        std: float | None = None,
    ):
        super().__init__()
        widths = [observation_dim, *hidden_dims, action_dim]
        self.net = MLP(widths, seeds, ["policy"], initialization, layer_norm, activation)
        gaussian, zeros = _chosen(distribution, "gaussian", "deterministic"), torch.zeros(len(seeds), action_dim)
        if std is not None and (not gaussian or std <= 0):
            raise ValueError(f"std is above 0 and of a gaussian policy, got {std} of one that is {distribution}")
        self.log_std = nn.Parameter(zeros) if gaussian and std is None else None
        fixed = None if std is None else zeros + math.log(std)
        self.register_buffer("fixed_log_std", fixed, persistent=False)
        self.squash = _chosen(mean, "tanh", "linear")
        self.dropout = DropoutMasks(dropout, hidden_dims, seeds) if dropout else None
        self.log_std_range = tuple(log_std_range)

    def forward(self, observations: Tensor) -> Gaussian:
        masks = None
        if self.training and self.dropout is not None:
            masks = self.dropout.at(self.update_number, observations.shape[1])
        mean = self.net(observations, masks)
        log_std = self.fixed_log_std if self.log_std is None else self.log_std.clamp(*self.log_std_range)
        return Gaussian(torch.tanh(mean) if self.squash else mean, None if log_std is None else log_std.unsqueeze(1))


class CategoricalPolicy(nn.Module):
    """The policy for discrete actions: observations [M, B, observation_dim] → logits [M, B, action_dim].

    action_dim: the number of actions. dropout, layer_norm and activation as in Policy.
    """

    member_axis = True
    update_number: int | Tensor = 0  # the learner counts it up

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        hidden_dims: Sequence[int],
        initialization: str,
        dropout: float | None,
        layer_norm: str | None = None,  # policies of before have neither of these
        activation: str = "relu",
    ):
        super().__init__()
        widths = [observation_dim, *hidden_dims, action_dim]
        self.net = MLP(widths, seeds, ["policy"], initialization, layer_norm, activation)
        self.dropout = DropoutMasks(dropout, hidden_dims, seeds) if dropout else None

    def forward(self, observations: Tensor) -> Categorical:
        masks = None
        if self.training and self.dropout is not None:
            masks = self.dropout.at(self.update_number, observations.shape[1])
        return Categorical(self.net(observations, masks))


def _chosen(value: str, yes: str, no: str) -> bool:
    """Whether `value` is `yes`. Raises ValueError unless it is one of the two."""
    if value not in (yes, no):
        raise ValueError(f"must be {yes} or {no}, got {value!r}")
    return value == yes
