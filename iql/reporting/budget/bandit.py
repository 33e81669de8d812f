"""A bandit that spends episodes on choosing one of several policies, as in unifloral (Jackson et al. 2025).

A repetition draws some of the policies. Then it plays one episode of each of them, and after that, as its t-th episode,
one of the policy with the largest mean + sqrt(2 ln t / n), where mean and n are those of this policy's episodes so far.
An episode is one of the policy's kept ones, drawn with replacement. After each the bandit holds the policy with the
highest mean so far; what counts is the true mean of this one, that of all its kept episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

EXPLORATION = 2.0
"""Of the bonus; the scale is that of D4RL's scores, 0 to 100."""

DRAWN = 8
"""Policies that a repetition chooses from."""

EPISODES = 200
"""The largest budget."""

REPETITIONS = 500
RESAMPLES = 2000
CONFIDENCE = 95.0  # percent


@dataclass(frozen=True)
class Curve:
    """For budgets of 1 to T episodes: the mean of `held` over repetitions and its bootstrap interval, [T] float64."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, episodes: int) -> tuple[float, tuple[float, float]]:
        """Mean and interval after so many episodes."""
        place = episodes - 1
        return float(self.mean[place]), (float(self.low[place]), float(self.high[place]))


def curve(policies: Sequence[np.ndarray]) -> Curve:
    """The curve of a method; policies: of each the scores of its kept episodes, [E_p] float64.

    Seeded: the same scores give the same curve. The interval is of the mean over repetitions, percentiles of resamples
    of the repetitions.
    """
    found = held(policies, min(DRAWN, len(policies)), EPISODES, REPETITIONS, np.random.default_rng(0))
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(_resamples() @ found, [tail, 100 - tail], axis=0)
    return Curve(found.mean(0), low, high)


@cache
def _resamples() -> np.ndarray:
    """The weight of each repetition in each bootstrap mean, [RESAMPLES, REPETITIONS] float64."""
    times = np.random.default_rng(1).multinomial(REPETITIONS, np.full(REPETITIONS, 1 / REPETITIONS), RESAMPLES)
    return times / REPETITIONS


def held(
    policies: Sequence[np.ndarray], drawn: int, episodes: int, repetitions: int, random: np.random.Generator
) -> np.ndarray:
    """The true mean of the policy that the bandit holds after each episode, [repetitions, episodes] float64."""
    scores, counts = np.concatenate(policies), np.array([len(own) for own in policies])
    first, true_means = np.cumsum(counts) - counts, np.array([own.mean() for own in policies])
    order = random.permuted(np.tile(np.arange(len(policies)), (repetitions, 1)), axis=1)
    arms = order[:, :drawn]  # [repetitions, drawn], in random order, so that the first of equal ones is a random one
    played, sums = np.zeros(arms.shape), np.zeros(arms.shape)
    each = np.arange(repetitions)
    result = np.empty((repetitions, episodes))
    means = np.full(arms.shape, -np.inf)
    for number in range(1, episodes + 1):
        if number <= drawn:
            chosen = np.full(repetitions, number - 1)
        else:
            bounds = means + np.sqrt(EXPLORATION * np.log(number) / played)
            ties = bounds == bounds.max(1, keepdims=True)
            chosen = (ties * (1 + random.random(arms.shape))).argmax(1)
        policy = arms[each, chosen]
        played[each, chosen] += 1
        sums[each, chosen] += scores[first[policy] + random.integers(counts[policy])]
        means[each, chosen] = sums[each, chosen] / played[each, chosen]
        result[:, number - 1] = true_means[arms[each, means.argmax(1)]]
    return result
