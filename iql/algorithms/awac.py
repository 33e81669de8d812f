"""Advantage-weighted actor-critic (Nair, Gupta, Dalal, Levine 2020, arXiv:2006.09359), as in CORL's awac.py."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from iql.algorithms import losses
from iql.algorithms.algorithm import Algorithm, PerMember, Step
from iql.networks.distributions import Gaussian, distribution


class AWAC(Algorithm):
    """Q of the policy's own actions; the policy clones the data's, weighted by their advantage over its own.

    awac_lambda    temperature of the weights exp(A / awac_lambda)
    discount       of future rewards
    polyak         step of the target Q towards Q
    advantage_cap  upper limit of the weights
    """

    networks = ("q", "policy")
    targets = ("q",)

    def __init__(self, awac_lambda: PerMember, discount: PerMember, polyak: PerMember, advantage_cap: PerMember):
        self.awac_lambda, self.advantage_cap = awac_lambda, advantage_cap
        self.discount, self.polyak = discount, polyak

    def update(self, step: Step) -> None:
        """Both Q, the policy, the target."""
        batch = step.batch
        next_policy = step.frozen["policy"](batch.next_observations)
        next_action = self.sample(step, "next_action", next_policy)
        next_q = step.targets["q"](batch.next_observations, next_action).amin(1)
        q = step.networks["q"](batch.observations, batch.actions)
        target = losses.q_target(batch.rewards, batch.masks, next_q, self.discount)
        step.minimize("q", losses.q_loss(q, target))

        policy = distribution(step.networks["policy"](batch.observations))
        own_action = self.sample(step, "action", policy).detach()
        v = step.frozen["q"](batch.observations, own_action).amin(1)
        advantage = step.frozen["q"](batch.observations, batch.actions).amin(1) - v
        weights = losses.advantage_weights(advantage, 1 / self.awac_lambda, self.advantage_cap)
        log_prob = losses.policy_log_prob(policy, batch.actions)
        step.minimize("policy", losses.policy_loss(weights, log_prob))
        step.move_target("q", self.polyak)
        if step.measured:
            capped = (weights >= self.advantage_cap).float().mean(1)
            step.record(q=q.mean((1, 2)), v=v.mean(1), capped_share=capped, **policy.metrics())

    def sample(self, step: Step, name: str, policy: Any) -> Tensor:
        """Actions [M, B, action_dim] of a policy, within ±1. Raises ValueError."""
        mean, log_std = policy
        if log_std is None:
            raise ValueError("AWAC draws actions, for which the policy must return a log_std; this one returns None")
        return Gaussian(mean, log_std).sample(step.normal(name, *mean.shape[1:]), 1.0).clamp(-1, 1)
