"""Rollouts of a pack's policies and what they score.

Episode k of evaluation (seed, update) has a seed of its own and is row k of a batch of fixed size, so that
the number of environments changes no bit of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from iql.draws import key


class Interrupted(Exception):
    """The evaluation was asked to stop; nothing of it counts."""


@dataclass(frozen=True)
class Episodes:
    """E finished episodes of one member: returns [E] float64, lengths [E], observations [length + 1, obs_dim] each.

    observations is empty unless they were asked for.
    """

    returns: np.ndarray
    lengths: np.ndarray
    observations: list[np.ndarray]


def episode_seeds(seed: int, update: int, episodes: int, run_seeded: bool = False) -> list[int]:
    """The environment seeds of one evaluation, each below 2³¹.

    With `run_seeded` the bits from 31 up hold a number of the run's own, never 0, for what all its episodes
    share (antmaze v0's goal).
    """
    shared = (1 + key(seed, "evaluation") % (1 << 31)) << 31 if run_seeded else 0
    return [shared + key(seed, f"evaluation/{update}/{episode}") % (1 << 31) for episode in range(episodes)]


def evaluate(
    act: Callable[[np.ndarray], np.ndarray],
    envs: VectorEnv,
    seeds: Sequence[Sequence[int]],
    interrupted: Callable[[], bool] = lambda: False,
    keep_observations: bool = False,
) -> list[Episodes]:
    """Roll out one episode for every seed, seeds[m][k] being episode k of member m.

    act: observations [M, E, observation_dim] float32 → actions [M, E, action_dim], always of all rows.
    envs: environments without autoreset; an ended one is reset to the next episode that waits. No step
    counts after an episode's end. Raises Interrupted as soon as `interrupted()`.
    """
    members, episodes = len(seeds), len(seeds[0])
    flat_seeds = [seed for member in seeds for seed in member]
    total, slots = len(flat_seeds), envs.num_envs
    waiting = deque(range(total))
    playing = [waiting.popleft() if waiting else -1 for _ in range(slots)]
    rows = np.zeros((total, *_shape(envs.single_observation_space)), np.float32)
    actions = np.zeros((slots, *_shape(envs.single_action_space)), np.float32)
    returns, lengths = np.zeros(total), np.zeros(total, np.int64)
    seen: list[list[np.ndarray]] = [[] for _ in range(total)]

    def observe(slot: int, observation: np.ndarray) -> None:
        episode = playing[slot]
        rows[episode] = observation
        if keep_observations:
            seen[episode].append(rows[episode].copy())

    reset: Callable = envs.reset  # vector environments take a seed for each, whatever the base class declares
    observations, _ = reset(seed=[flat_seeds[episode] if episode >= 0 else 0 for episode in playing])
    for slot in range(slots):
        if playing[slot] >= 0:
            observe(slot, observations[slot])
    while any(episode >= 0 for episode in playing):
        if interrupted():
            raise Interrupted
        chosen = act(rows.reshape(members, episodes, -1)).reshape(total, -1)
        for slot, episode in enumerate(playing):
            actions[slot] = chosen[episode] if episode >= 0 else 0.0
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        ended = terminated | truncated
        for slot, episode in enumerate(playing):
            if episode < 0:
                continue
            returns[episode] += rewards[slot]
            lengths[episode] += 1
            observe(slot, observations[slot])
            if ended[slot]:
                playing[slot] = waiting.popleft() if waiting else -1
        if ended.any():
            after = [flat_seeds[episode] if episode >= 0 else 0 for episode in playing]
            observations, _ = reset(seed=after, options={"reset_mask": ended})
            for slot in np.flatnonzero(ended).tolist():
                if playing[slot] >= 0:
                    observe(slot, observations[slot])

    per_member = [slice(member * episodes, (member + 1) * episodes) for member in range(members)]
    return [Episodes(returns[own], lengths[own], [np.stack(s) for s in seen[own] if s]) for own in per_member]


def _shape(space: gymnasium.Space) -> tuple[int, ...]:
    assert space.shape is not None
    return space.shape
