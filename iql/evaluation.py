"""Rollouts of a policy: what is played, and that it depends on nothing but the policy and the seeds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv


@dataclass(frozen=True)
class Episodes:
    """E finished episodes of one member: returns [E] float64, lengths [E], observations [length + 1, obs_dim] each.

    observations is empty unless they were asked for.
    """

    returns: np.ndarray
    lengths: np.ndarray
    observations: list[np.ndarray]


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Episodes that were played in parts, in order."""
    return Episodes(
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        [observations for part in parts for observations in part.observations],
    )


def evaluate(
    act: Callable[[np.ndarray], np.ndarray],
    envs: VectorEnv,
    seeds: Sequence[Sequence[int]],
    keep_observations: bool = False,
) -> list[Episodes]:
    """Roll out one episode for every seed, seeds[m][k] being episode k of member m.

    act: observations [M, E, observation_dim] float32 → actions [M, E, action_dim], always of all rows.
    envs: environments without autoreset; an ended one is reset to the next episode that waits. No step
    counts after an episode's end, and where the environments have `skips_ended` (tasks.lockstep) none is made.
    """
    members, episodes = len(seeds), len(seeds[0])
    flat_seeds = [seed for member in seeds for seed in member]
    total, slots = len(flat_seeds), envs.num_envs
    skips = getattr(envs, "skips_ended", False)
    waiting = deque(range(total))
    playing = np.array([waiting.popleft() if waiting else -1 for _ in range(slots)])
    rows = np.zeros((total, *_shape(envs.single_observation_space)), np.float32)
    actions = np.zeros((slots, *_shape(envs.single_action_space)), np.float32)
    returns, lengths = np.zeros(total), np.zeros(total, np.int64)
    seen: list[list[np.ndarray]] = [[] for _ in range(total)]

    def begin(slots_to_reset: np.ndarray) -> None:
        """New episodes in these slots; others would have to be stepped idly and are reset along."""
        drawn = [flat_seeds[episode] if episode >= 0 else 0 for episode in playing]
        reset: Callable = envs.reset  # vector environments take a seed for each, whatever the base class declares
        observations, _ = reset(seed=drawn, options={"reset_mask": slots_to_reset})
        for slot in np.flatnonzero(slots_to_reset & (playing >= 0)).tolist():
            observe(slot, observations[slot])

    def observe(slot: int, observation: np.ndarray) -> None:
        episode = playing[slot]
        rows[episode] = observation
        if keep_observations:
            seen[episode].append(rows[episode].copy())

    begin(playing >= 0 if skips else np.ones(slots, bool))
    while (on := playing >= 0).any():
        chosen = act(rows.reshape(members, episodes, -1)).reshape(total, -1)
        actions[:] = 0.0
        actions[on] = chosen[playing[on]]
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        returns[playing[on]] += rewards[on]
        lengths[playing[on]] += 1
        for slot in np.flatnonzero(on).tolist():
            observe(slot, observations[slot])
        over = terminated | truncated
        ended = over & on
        for slot in np.flatnonzero(ended).tolist():
            playing[slot] = waiting.popleft() if waiting else -1
        again = ended & (playing >= 0) if skips else over
        if again.any():
            begin(again)

    per_member = [slice(member * episodes, (member + 1) * episodes) for member in range(members)]
    return [Episodes(returns[own], lengths[own], [np.stack(s) for s in seen[own] if s]) for own in per_member]


def _shape(space: gymnasium.Space) -> tuple[int, ...]:
    assert space.shape is not None
    return space.shape
