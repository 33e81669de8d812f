"""The value network V and the two Q networks, for a whole pack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iql.networks.mlp import MLP


class Value(nn.Module):
    """V(s): observations [M, B, observation_dim] → [M, B]."""

    member_axis = True

    def __init__(
        self,
        observation_dim: int,
        seeds: Sequence[int],
        hidden_dims: Sequence[int],
        initialization: str,
        layer_norm: str | None = None,
        activation: str = "relu",
    ):
        super().__init__()
        widths = [observation_dim, *hidden_dims, 1]
        self.net = MLP(widths, seeds, ["value"], initialization, layer_norm, activation)

    def forward(self, observations: Tensor) -> Tensor:
        return self.net(observations).squeeze(-1)


class TwinQ(nn.Module):
    """Two Q(s, a): observations [M, B, observation_dim], actions [M, B, action_dim] → [M, 2, B]."""

    member_axis = True

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        hidden_dims: Sequence[int],
        initialization: str,
        layer_norm: str | None = None,
        activation: str = "relu",
    ):
        super().__init__()
        widths = [observation_dim + action_dim, *hidden_dims, 1]
        self.net = MLP(widths, seeds, ["q1", "q2"], initialization, layer_norm, activation)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.net(torch.cat([observations, actions], -1)).squeeze(-1)


class DiscreteTwinQ(nn.Module):
    """Two Q(s, ·) with a head for each of `action_dim` discrete actions.

    observations [M, B, observation_dim], one-hot actions [M, B, action_dim] → the actions' heads, [M, 2, B].
    """

    member_axis = True

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        hidden_dims: Sequence[int],
        initialization: str,
        layer_norm: str | None = None,
        activation: str = "relu",
    ):
        super().__init__()
        widths = [observation_dim, *hidden_dims, action_dim]
        self.net = MLP(widths, seeds, ["q1", "q2"], initialization, layer_norm, activation)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        return (self.net(observations) * actions.unsqueeze(1)).sum(-1)
