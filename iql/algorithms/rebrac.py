"""ReBRAC (Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, arXiv:2305.09836), as in CORL's rebrac.py."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from iql.algorithms import losses
from iql.algorithms.algorithm import Algorithm, PerMember, Step


class ReBRAC(Algorithm):
    """TD3+BC with a penalty in the critic's target too, and deeper critics with layer normalisation.

    actor_bc_coef     weight of the policy's distance to the data's action
    critic_bc_coef    weight of the next action's distance to the data's next action
    discount          of future rewards
    polyak            step of the targets, in the updates that move the policy
    policy_noise      standard deviation of the noise on the target policy's actions
    noise_clip        largest size of that noise
    policy_freq       updates of Q for one of the policy
    normalize_q       whether the policy's Q is divided by its mean size
    policy_lr_factor  the policy's learning rate, as a factor of that of Q

    Unlike TD3+BC: the first update of a cycle moves the policy, which climbs the smaller Q; its target follows the
    policy of before the step; distances are sums over the action's dimensions.
    """

    networks = ("q", "policy")
    targets = ("q", "policy")
    next_actions = True

    def __init__(
        self,
        actor_bc_coef: PerMember,
        critic_bc_coef: PerMember,
        discount: PerMember,
        polyak: PerMember,
        policy_noise: PerMember,
        noise_clip: PerMember,
        policy_freq: int,
        normalize_q: bool,
        policy_lr_factor: float,
    ):
        self.actor_bc_coef, self.critic_bc_coef = actor_bc_coef, critic_bc_coef
        self.discount, self.polyak = discount, polyak
        self.policy_noise, self.noise_clip, self.cycle = policy_noise, noise_clip, policy_freq
        self.normalize_q = normalize_q
        self.lr_factors: Mapping[str, float] = {"policy": policy_lr_factor}

    def update(self, step: Step) -> None:
        """Both Q; then, in the first update of a cycle, the policy and all targets."""
        batch = step.batch
        assert batch.next_actions is not None
        target_action, _ = step.targets["policy"](batch.next_observations)
        noise = step.normal("target_action", *batch.actions.shape[1:])
        next_action = losses.smoothed(target_action, noise, self.policy_noise, self.noise_clip)
        penalty = self.critic_bc_coef * losses.action_distance(next_action, batch.next_actions)
        next_q = step.targets["q"](batch.next_observations, next_action).amin(1) - penalty
        q = step.networks["q"](batch.observations, batch.actions)
        target = losses.q_target(batch.rewards, batch.masks, next_q, self.discount)
        step.minimize("q", losses.q_loss(q, target))

        moves = step.phase == 0
        if moves:
            loss = self.policy_loss(step)
            step.move_target("policy", self.polyak)  # before its step
            step.minimize("policy", loss)
            step.move_target("q", self.polyak)
        if step.measured:
            step.record(q=q.mean((1, 2)), target_q=target.mean(1), next_action_penalty=penalty.mean(1))
            if not moves:
                step.record(policy_loss=self.policy_loss(step))

    def policy_loss(self, step: Step) -> Tensor:
        """β ‖π(s) − a‖² − min Q(s, π(s)) / mean |min Q|, [M]."""
        observations, actions = step.batch.observations, step.batch.actions
        action, _ = step.networks["policy"](observations)
        q = step.networks["q"](observations, action).amin(1)
        climbed = losses.normalized(q) if self.normalize_q else q
        return (self.actor_bc_coef * losses.action_distance(action, actions) - climbed).mean(-1)
