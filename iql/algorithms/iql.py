"""Implicit Q-Learning (Kostrikov, Nair, Levine 2021, arXiv:2110.06169)."""

from __future__ import annotations

import torch
from torch import Tensor

from iql.algorithms import losses
from iql.algorithms.algorithm import Algorithm, Draws, PerMember, Step
from iql.networks.distributions import Categorical, Gaussian, distribution

_TINY = torch.finfo(torch.float32).tiny


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
    extraction     of the policy: awr, cloning weighted by the advantage (equation 7), or ddpg_bc, climbing Q near the
                   data (Park, Frans, Levine, Kumar 2024, arXiv:2406.09329)
    bc_coef        weight of cloning in ddpg_bc
    """

    networks = ("value", "q", "policy")
    targets = ("q",)
    simultaneous = False
    """Whether the advantage is that of Q itself, and the target follows Q as it was before the update (FQLIQL)."""

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
        extraction: str = "awr",  # runs of before have neither this nor the next one
        bc_coef: PerMember | None = None,
    ):
        self.tau, self.beta, self.discount = tau, beta, discount
        self.polyak, self.advantage_cap = polyak, advantage_cap
        self.fresh_value, self.q_loss_scale = fresh_value, q_loss_scale
        self.schedules = {"policy": policy_schedule}
        self.extraction, self.bc_coef = extraction, bc_coef

    def update(self, step: Step) -> None:
        """V, the policy, Q, the target, in the authors' order."""
        batch = step.batch
        target_q = step.targets["q"](batch.observations, batch.actions).amin(1)

        if not self.fresh_value:
            next_v = step.frozen["value"](batch.next_observations)
        v = self.fit_value(step, target_q)
        current_v = v.detach()
        if self.fresh_value:
            both = torch.cat([batch.observations, batch.next_observations], 1)  # one product is faster than two
            current_v, next_v = step.frozen["value"](both).chunk(2, 1)
        advantage = target_q - current_v
        weights = self.policy_weights(advantage)
        policy = distribution(step.networks["policy"](batch.observations))
        step.minimize("policy", self.policy_loss(step, policy, weights))

        q = step.networks["q"](batch.observations, batch.actions)
        target = losses.q_target(batch.rewards, batch.masks, next_v, self.discount)
        step.minimize("q", self.q_loss(q, target))  # equation 6
        step.move_target("q", self.polyak)

        if step.measured:
            step.record(**iql_diagnostics(v, q, advantage, weights, self.advantage_cap, policy))

    def policy_loss(self, step: Step, policy: Gaussian | Categorical, weights: Tensor) -> Tensor:
        """That of the extraction, [M], for what the policy gave and the weights [M, B] of equation 7."""
        log_prob = losses.policy_log_prob(policy, step.batch.actions)
        if self.extraction == "awr":
            return losses.policy_loss(weights, log_prob)  # equation 7
        assert self.bc_coef is not None and isinstance(policy, Gaussian)
        action, log_std = policy
        if log_std is not None and log_std.requires_grad:  # a constant one only weighs the distance to the data
            action = action + log_std.exp() * step.normal("action", *action.shape[1:])
        climbed = losses.normalized(step.networks["q"](step.batch.observations, action.clamp(-1, 1)).amin(1))
        return -(climbed + self.bc_coef * log_prob).mean(-1)

    def fit_value(self, step: Step, target_q: Tensor) -> Tensor:
        """V's step towards the target Q at the data's actions, [M, B]; returns V before it, [M, B]."""
        v: Tensor = step.networks["value"](step.batch.observations)
        step.minimize("value", self.value_loss(target_q, v))
        return v

    # What SQL, EQL and XQL have in place of IQL's. A gradient is that of the method before it, for the updates without
    # autograd (execution.paths.WRITTEN_OUT).

    def value_loss(self, target_q: Tensor, v: Tensor) -> Tensor:
        """Equation 5, [M, B] each → [M]."""
        return losses.value_loss(target_q, v, self.tau)

    def value_loss_gradient(self, target_q: Tensor, v: Tensor) -> Tensor:
        """With respect to v, [M, B]."""
        return losses.value_loss_gradient(target_q, v, self.tau)

    def policy_weights(self, advantage: Tensor) -> Tensor:
        """The weights of equation 7, [M, B]."""
        return losses.advantage_weights(advantage, self.beta, self.advantage_cap)

    def q_loss(self, q: Tensor, target: Tensor) -> Tensor:
        """Equation 6: q [M, 2, B], target [M, B] → [M]."""
        return self.q_loss_scale * losses.q_loss(q, target)

    def q_loss_gradient(self, q: Tensor, target: Tensor) -> Tensor:
        """With respect to q [M, copies, B], any number of the two."""
        return losses.q_loss_gradient(q, target).mul_(self.q_loss_scale)

    # XQL fits V to Q at further actions, and in more than one step.

    value_updates: int = 1
    """Steps of V an update."""
    further: int = 0
    """Actions besides the data's at each observation."""

    def further_actions(self, actions: Tensor, draws: Draws) -> Tensor:
        """[M, B · further, action_dim], those at one observation together; asked for where `further` is above 0."""
        raise NotImplementedError

    def value_targets(self, target_q: Tensor, further_q: Tensor) -> Tensor:
        """What V is fitted to: target_q [M, B], further_q [M, B · further] → target_q of value_loss."""
        raise NotImplementedError


def iql_diagnostics(
    v: Tensor, q: Tensor, advantage: Tensor, weights: Tensor, cap: Tensor, policy: Gaussian | Categorical
) -> dict[str, Tensor]:
    """Metrics that explain an update of IQL, each [M]; nothing is synchronised to the host.

    v, advantage, weights [M, B]; q [M, 2, B]; cap [M, 1]; policy: what the network gave.
    """
    return {
        "v": v.mean(1),
        "q": q.mean((1, 2)),
        "advantage_p10": advantage.quantile(0.1, dim=1),
        "advantage_p50": advantage.quantile(0.5, dim=1),
        "advantage_p90": advantage.quantile(0.9, dim=1),
        "capped_share": (weights >= cap).float().mean(1),
        # 0 where every weight is 0, as SQL's may be
        "effective_sample_size": weights.sum(1).square() / weights.square().sum(1).clamp(min=_TINY),
        **policy.metrics(),
    }
