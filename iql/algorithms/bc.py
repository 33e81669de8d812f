"""Behaviour cloning, of all data or of the episodes with the best returns."""

from __future__ import annotations

import numpy as np

from iql.algorithms import losses
from iql.algorithms.algorithm import Algorithm, Step
from iql.data.trajectories import best_trajectories
from iql.data.transitions import Transitions
from iql.networks.distributions import distribution


class BC(Algorithm):
    """The policy is fitted to the data's actions; no value is learned.

    top_fraction     share of episodes that are cloned, those of the highest returns (0.1: the "10 % BC" of tables);
                     None: all data
    return_discount  discount of the returns that episodes are ranked by
    policy_schedule  schedule of the learning rate: cosine or constant
    """

    networks = ("policy",)

    def __init__(self, top_fraction: float | None, return_discount: float, policy_schedule: str):
        self.top_fraction, self.return_discount = top_fraction, return_discount
        self.schedules = {"policy": policy_schedule}

    def update(self, step: Step) -> None:
        """One step on the policy's loss."""
        policy = distribution(step.networks["policy"](step.batch.observations))
        step.minimize("policy", losses.cloning_loss(policy, step.batch.actions))
        if step.measured:
            step.record(**policy.metrics())

    def rows(self, data: Transitions) -> np.ndarray:
        """The rows of the best episodes; an episode that the file cuts off belongs to none."""
        if self.top_fraction is None:
            return data.rows
        ends = data.masks == 0
        ends[:-1] |= ~np.isin(np.arange(len(ends) - 1), data.rows)  # timeouts, which begin no transition
        best = best_trajectories(data.rewards, ends, self.top_fraction, self.return_discount)
        return np.intersect1d(np.concatenate(best), data.rows)
