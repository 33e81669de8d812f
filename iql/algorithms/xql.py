"""Extreme Q-Learning (Garg, Hejna, Geist, Ermon 2023, arXiv:2301.02328), as in Div99/XQL, folder offline."""

from __future__ import annotations

import torch
from torch import Tensor

from iql.algorithms import losses, value_losses
from iql.algorithms.algorithm import Draws, PerMember, Step
from iql.algorithms.iql import IQL


class XQL(IQL):
    """IQL's update with V from Gumbel regression on Q, whose solution is the soft maximum of Q.

    loss_temperature   of Gumbel regression; the lower, the nearer V is to the best action's value
    max_clip           upper limit of (q − v)/loss_temperature
    beta               inverse temperature of the policy's weights exp(beta · A)
    huber_delta        where Q's loss changes from squared to absolute errors
    value_updates      steps of V an update
    random_actions     number of uniformly drawn actions for each of the batch's, to which V is fitted too
    action_noise       standard deviation of noise on the actions to which V is fitted; None: none
    action_noise_clip  largest size of that noise
    Others as in IQL. random_actions and action_noise exclude each other, as in the authors' code.
    """

    fresh_value, extraction = True, "awr"

    def __init__(
        self,
        loss_temperature: PerMember,
        max_clip: PerMember,
        beta: PerMember,
        huber_delta: PerMember,
        discount: PerMember,
        polyak: PerMember,
        advantage_cap: PerMember,
        value_updates: int,
        random_actions: int,
        action_noise: float | None,
        action_noise_clip: float,
        policy_schedule: str,
    ):
        if random_actions and action_noise is not None:
            raise ValueError("random_actions and action_noise exclude each other")
        self.loss_temperature, self.max_clip, self.beta = loss_temperature, max_clip, beta
        self.huber_delta, self.discount, self.polyak = huber_delta, discount, polyak
        self.advantage_cap, self.value_updates = advantage_cap, value_updates
        self.random_actions, self.action_noise, self.action_noise_clip = random_actions, action_noise, action_noise_clip
        self.further = 1 if action_noise is not None else random_actions
        self.schedules = {"policy": policy_schedule}

    def fit_value(self, step: Step, target_q: Tensor) -> Tensor:
        """V's steps, on the same rows; returns V(s) before the last one, [M, B]."""
        observations = step.batch.observations
        if self.further:
            actions = self.further_actions(step.batch.actions, step)
            repeated = observations.repeat_interleave(self.further, 1)
            target_q = self.value_targets(target_q, step.targets["q"](repeated, actions).amin(1))
        for _ in range(self.value_updates):
            v: Tensor = step.networks["value"](observations)
            step.minimize("value", self.value_loss(target_q, v))
        return v

    def further_actions(self, actions: Tensor, draws: Draws) -> Tensor:
        """Those of the batch with noise, or uniform within ±1."""
        _, size, dim = actions.shape
        if self.action_noise is None:
            return 2 * draws.uniform("random_actions", self.random_actions * size, dim) - 1
        noise = (self.action_noise * draws.normal("action", size, dim)).clamp(
            -self.action_noise_clip, self.action_noise_clip
        )
        return (actions + noise).clamp(-1, 1)

    def value_targets(self, target_q: Tensor, further_q: Tensor) -> Tensor:
        """Q at actions with noise replaces that at the data's; Q at random ones comes after it."""
        return torch.cat([target_q, further_q], 1) if self.action_noise is None else further_q

    def value_loss(self, target_q: Tensor, v: Tensor) -> Tensor:
        """target_q [M, B], and with random actions [M, B · (1 + random_actions)]; v [M, B]."""
        if self.random_actions:
            v = torch.cat([v, v.repeat_interleave(self.random_actions, 1)], 1)
        return value_losses.gumbel_value_loss(target_q, v, self.loss_temperature, self.max_clip)

    def value_loss_gradient(self, target_q: Tensor, v: Tensor) -> Tensor:
        if not self.random_actions:
            return value_losses.gumbel_value_loss_gradient(target_q, v, self.loss_temperature, self.max_clip)
        members, size = v.shape
        repeated = torch.cat([v, v.repeat_interleave(self.random_actions, 1)], 1)
        of_rows = value_losses.gumbel_value_loss_gradient(target_q, repeated, self.loss_temperature, self.max_clip)
        return of_rows[:, :size] + of_rows[:, size:].view(members, size, -1).sum(-1)

    def policy_weights(self, advantage: Tensor) -> Tensor:
        return losses.advantage_weights(advantage, self.beta, self.advantage_cap)

    def q_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return value_losses.huber_q_loss(q, target, self.huber_delta)

    def q_loss_gradient(self, q: Tensor, target: Tensor) -> Tensor:
        return value_losses.huber_q_loss_gradient(q, target, self.huber_delta)
