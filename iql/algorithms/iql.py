"""Implicit Q-Learning (Kostrikov, Nair, Levine 2021, arXiv:2110.06169)."""

from __future__ import annotations

import torch

from iql.algorithms import losses
from iql.algorithms.algorithm import Algorithm, PerMember, Step
from iql.algorithms.diagnostics import iql_diagnostics


class IQL(Algorithm):
    """V is an expectile of Q under the data's actions; Q is regressed on V; the policy clones actions by advantage.

    tau            expectile of equation 5
    beta           inverse temperature of equation 7
    discount       of future rewards
    polyak         step of the target Q towards Q
    advantage_cap  upper limit of exp(beta · advantage); 100 in the authors' code
    fresh_value    whether the policy and the target of Q use V after this update's step (the authors) or before it
                   (gwthomas, CORL)
    q_loss_scale   factor of Q's loss: 1 (the authors) or 0.5 (gwthomas, CORL)
    policy_schedule  schedule of the policy's learning rate: cosine or constant
    """

    networks = ("value", "q", "policy")
    targets = ("q",)

    def __init__(
        self,
        tau: PerMember,
        beta: PerMember,
        discount: PerMember,
        polyak: PerMember,
        advantage_cap: PerMember,
        fresh_value: bool,
        q_loss_scale: float,
        policy_schedule: str,
    ):
        self.tau, self.beta, self.discount = tau, beta, discount
        self.polyak, self.advantage_cap = polyak, advantage_cap
        self.fresh_value, self.q_loss_scale = fresh_value, q_loss_scale
        self.schedules = {"policy": policy_schedule}

    def update(self, step: Step) -> None:
        """V, the policy, Q, the target, in the authors' order."""
        observations, actions, rewards, masks, next_observations = step.batch
        target_q = step.targets["q"](observations, actions).amin(1)

        v = step.networks["value"](observations)
        if not self.fresh_value:
            current_v, next_v = v.detach(), step.frozen["value"](next_observations)
        step.minimize("value", losses.value_loss(target_q, v, self.tau))  # equation 5
        if self.fresh_value:
            both = torch.cat([observations, next_observations], 1)  # one product is faster than two
            current_v, next_v = step.frozen["value"](both).chunk(2, 1)
        advantage = target_q - current_v
        weights = losses.advantage_weights(advantage, self.beta, self.advantage_cap)
        mean, log_std = step.networks["policy"](observations)
        log_prob = losses.log_prob(mean, log_std, actions)
        step.minimize("policy", losses.policy_loss(weights, log_prob))  # equation 7

        q = step.networks["q"](observations, actions)
        target = losses.q_target(rewards, masks, next_v, self.discount)
        step.minimize("q", self.q_loss_scale * losses.q_loss(q, target))  # equation 6
        step.move_target("q", self.polyak)

        if step.measured:
            step.record(**iql_diagnostics(v, q, advantage, weights, self.advantage_cap, log_std))
