"""Sparse Q-Learning (Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv:2303.15810), as in ryanxhr/IVR."""

from __future__ import annotations

from torch import Tensor

from iql.algorithms import value_losses
from iql.algorithms.algorithm import PerMember
from iql.algorithms.iql import IQL


class SQL(IQL):
    """IQL's update with V from a χ² regularised value, under which actions far below V have no weight at all.

    alpha          strength of the regularisation; the smaller, the nearer V is to the best action's value
    advantage_cap  upper limit of the policy's weights max(A, 0); 100 in the authors' code
    Others as in IQL.
    """

    fresh_value, q_loss_scale, extraction = True, 1.0, "awr"

    def __init__(
        self, alpha: PerMember, discount: PerMember, polyak: PerMember, advantage_cap: PerMember, policy_schedule: str
    ):
        self.alpha, self.discount, self.polyak, self.advantage_cap = alpha, discount, polyak, advantage_cap
        self.schedules = {"policy": policy_schedule}

    def value_loss(self, target_q: Tensor, v: Tensor) -> Tensor:
        return value_losses.sparse_value_loss(target_q, v, self.alpha)

    def value_loss_gradient(self, target_q: Tensor, v: Tensor) -> Tensor:
        return value_losses.sparse_value_loss_gradient(target_q, v, self.alpha)

    def policy_weights(self, advantage: Tensor) -> Tensor:
        return value_losses.sparse_weights(advantage, self.advantage_cap)
