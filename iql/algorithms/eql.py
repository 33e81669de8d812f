"""Exponential Q-Learning (Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv:2303.15810), as in ryanxhr/IVR."""

from __future__ import annotations

from torch import Tensor

from iql.algorithms import losses, value_losses
from iql.algorithms.algorithm import PerMember
from iql.algorithms.iql import IQL


class EQL(IQL):
    """IQL's update with V from a value that is regularised by the reverse KL divergence to the data's policy.

    alpha     strength of the regularisation, the temperature of V
    max_clip  upper limit of (q − v)/alpha in the exponential; 5 in the authors' code
    beta      inverse temperature of the policy's weights exp(beta · A/alpha): 10 in the authors' code, 1 in the paper
    Others as in IQL.
    """

    fresh_value, q_loss_scale, extraction = True, 1.0, "awr"

    def __init__(
        self,
        alpha: PerMember,
        max_clip: PerMember,
        beta: PerMember,
        discount: PerMember,
        polyak: PerMember,
        advantage_cap: PerMember,
        policy_schedule: str,
    ):
        self.alpha, self.max_clip, self.beta = alpha, max_clip, beta
        self.discount, self.polyak, self.advantage_cap = discount, polyak, advantage_cap
        self.schedules = {"policy": policy_schedule}

    def value_loss(self, target_q: Tensor, v: Tensor) -> Tensor:
        return value_losses.exponential_value_loss(target_q, v, self.alpha, self.max_clip)

    def value_loss_gradient(self, target_q: Tensor, v: Tensor) -> Tensor:
        return value_losses.exponential_value_loss_gradient(target_q, v, self.alpha, self.max_clip)

    def policy_weights(self, advantage: Tensor) -> Tensor:
        return losses.advantage_weights(advantage, self.beta / self.alpha, self.advantage_cap)
