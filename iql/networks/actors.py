"""The policy networks, for a whole pack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iql.networks.distributions import Categorical, Gaussian
from iql.networks.dropout import DropoutMasks
from iql.networks.mlp import MLP


class Policy(nn.Module):
    """The policy: observations [M, B, observation_dim] → mean [M, B, action_dim] and log_std.

    distribution: gaussian, whose log_std [M, 1, action_dim] is a parameter that does not depend on the
    state, starts at 0 and is clipped to `log_std_range`; or deterministic, whose log_std is None and which
    learns by least squares. mean: tanh (the authors, CORL) or linear (gwthomas' Gaussian). dropout: share of
    hidden units dropped while training, drawn by (seed, `update_number`).
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
        distribution: str,
        mean: str,
        dropout: float | None,
        log_std_range: Sequence[float],
    ):
        super().__init__()
        self.net = MLP([observation_dim, *hidden_dims, action_dim], seeds, ["policy"], initialization)
        gaussian = _chosen(distribution, "gaussian", "deterministic")
        self.log_std = nn.Parameter(torch.zeros(len(seeds), action_dim)) if gaussian else None
        self.squash = _chosen(mean, "tanh", "linear")
        self.dropout = DropoutMasks(dropout, hidden_dims, seeds) if dropout else None
        self.log_std_range = tuple(log_std_range)

    def forward(self, observations: Tensor) -> Gaussian:
        masks = None
        if self.training and self.dropout is not None:
            masks = self.dropout.at(self.update_number, observations.shape[1])
        mean = self.net(observations, masks)
        log_std = None if self.log_std is None else self.log_std.clamp(*self.log_std_range).unsqueeze(1)
        return Gaussian(torch.tanh(mean) if self.squash else mean, log_std)


class CategoricalPolicy(nn.Module):
    """The policy for discrete actions: observations [M, B, observation_dim] → logits [M, B, action_dim].

    action_dim: the number of actions. dropout as in Policy.
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
    ):
        super().__init__()
        self.net = MLP([observation_dim, *hidden_dims, action_dim], seeds, ["policy"], initialization)
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
