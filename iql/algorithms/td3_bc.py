"""TD3+BC (Fujimoto, Gu 2021, arXiv:2106.06860), as in CORL's td3_bc.py."""

from __future__ import annotations

from torch import Tensor

from iql.algorithms import losses
from iql.algorithms.algorithm import Algorithm, PerMember, Step


class TD3BC(Algorithm):
    """TD3 whose policy maximises Q and stays near the data's actions; every `policy_freq`-th update moves it.

    alpha         weight of Q beside the distance to the data's action, after Q was normalised by its size
    discount      of future rewards
    polyak        step of the targets of Q and policy, in the updates that move the policy
    policy_noise  standard deviation of the noise on the target policy's actions
    noise_clip    largest size of that noise
    policy_freq   updates of Q for one of the policy
    """

    networks = ("q", "policy")
    targets = ("q", "policy")

    def __init__(
        self,
        alpha: PerMember,
        discount: PerMember,
        polyak: PerMember,
        policy_noise: PerMember,
        noise_clip: PerMember,
        policy_freq: int,
    ):
        self.alpha, self.discount, self.polyak = alpha, discount, polyak
        self.policy_noise, self.noise_clip, self.cycle = policy_noise, noise_clip, policy_freq

    def update(self, step: Step) -> None:
        """Both Q; then, in the last update of a cycle, the policy and all targets."""
        batch = step.batch
        target_action, _ = step.targets["policy"](batch.next_observations)
        noise = step.normal("target_action", *batch.actions.shape[1:])
        next_action = losses.smoothed(target_action, noise, self.policy_noise, self.noise_clip)
        next_q = step.targets["q"](batch.next_observations, next_action).amin(1)
        q = step.networks["q"](batch.observations, batch.actions)
        target = losses.q_target(batch.rewards, batch.masks, next_q, self.discount)
        step.minimize("q", losses.q_loss(q, target))

        moves = step.phase == self.cycle - 1
        if moves:
            step.minimize("policy", self.policy_loss(step))
            step.move_target("q", self.polyak)
            step.move_target("policy", self.polyak)
        if step.measured:
            step.record(q=q.mean((1, 2)), target_q=target.mean(1))
            if not moves:
                step.record(policy_loss=self.policy_loss(step))

    def policy_loss(self, step: Step) -> Tensor:
        """−α Q1(s, π(s)) / mean |Q1| + the mean squared distance to the data's action, [M]."""
        observations, actions = step.batch.observations, step.batch.actions
        action, _ = step.networks["policy"](observations)
        q = step.networks["q"](observations, action)[:, 0]
        distance = losses.action_distance(action, actions) / actions.shape[-1]
        return (distance - self.alpha * losses.normalized(q)).mean(-1)
