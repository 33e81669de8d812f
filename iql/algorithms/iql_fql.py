"""IQL as the authors of FQL have it (Park, Li, Levine 2025, arXiv:2502.02538), seohongpark/fql, agents/iql.py."""

from __future__ import annotations

from iql.algorithms import losses
from iql.algorithms.algorithm import PerMember, Step
from iql.algorithms.iql import IQL, iql_diagnostics
from iql.networks.distributions import distribution


class FQLIQL(IQL):
    """IQL whose losses are all taken at the parameters before the update, and the policy's advantage from Q itself.

    There one Adam takes a step on the sum of the three losses. As no parameter has a gradient of two of them, and Adam
    treats each number by itself, that is the same as one Adam a network with equal settings, which is what we have.

    Settings as in IQL; bc_coef is called alpha there, as is beta.
    """

    fresh_value, q_loss_scale, simultaneous = False, 1.0, True

    def __init__(
        self,
        tau: PerMember,
        beta: PerMember,
        discount: PerMember,
        polyak: PerMember,
        advantage_cap: PerMember,
        policy_schedule: str,
        extraction: str,
        bc_coef: PerMember,
    ):
        self.tau, self.beta, self.discount = tau, beta, discount
        self.polyak, self.advantage_cap = polyak, advantage_cap
        self.schedules = {"policy": policy_schedule}
        self.extraction, self.bc_coef = extraction, bc_coef

    def update(self, step: Step) -> None:
        """V, the policy, the target, Q: a network is called before its step alone, and the target follows the old Q."""
        batch = step.batch
        next_v = step.frozen["value"](batch.next_observations)
        q = step.networks["q"](batch.observations, batch.actions)
        target_q = step.targets["q"](batch.observations, batch.actions).amin(1)
        v = self.fit_value(step, target_q)
        advantage = q.detach().amin(1) - v.detach()
        weights = self.policy_weights(advantage)
        policy = distribution(step.networks["policy"](batch.observations))
        step.minimize("policy", self.policy_loss(step, policy, weights))
        step.move_target("q", self.polyak)
        target = losses.q_target(batch.rewards, batch.masks, next_v, self.discount)
        step.minimize("q", self.q_loss(q, target))
        if step.measured:
            step.record(**iql_diagnostics(v, q, advantage, weights, self.advantage_cap, policy))
