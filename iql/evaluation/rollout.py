"""Rollouts of a policy: episodes that depend on nothing but the policy and the seeds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from iql.envs.vector import EnvironmentFailure, Lockstep
from iql.errors import UserError

CHUNK = 5
"""Episodes that are played side by side; the policy's inputs are batches of this size."""

Act = Callable[[np.ndarray], np.ndarray]
"""A policy: observations [B, observation_dim] float32 → actions [B, action_dim]."""


class EpisodeError(UserError):
    """An episode cannot be played to its end; the message names environment, episode and step."""


@dataclass(frozen=True)
class Episodes:
    """E finished episodes of one member: returns [E] float64, lengths [E], observations [length + 1, obs_dim] each.

    observations is empty unless they were to be kept.
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
    first: int = 0,
) -> list[Episodes]:
    """Roll out one episode for every seed, seeds[m][k] being episode first + k of member m.

    act: observations [M, E, observation_dim] float32 → actions [M, E, action_dim], always of all rows.
    envs: environments without autoreset; one whose episode ended is reset for the next episode in the queue. No step
    after an episode's end counts, and where the environments have `skips_ended` (envs.vector) none is made.

    Raises EpisodeError where an environment raises, or returns a number that is not finite.
    """
    members, episodes = len(seeds), len(seeds[0])
    total = members * episodes
    table = _EpisodeTable(envs, seeds, first, keep_observations)
    actions = np.zeros((envs.num_envs, *_shape(envs.single_action_space)), np.float32)
    skips = getattr(envs, "skips_ended", False)
    if isinstance(envs, Lockstep):
        envs.ended[:] = True  # an evaluation that failed may have left episodes unfinished
    table.begin(table.playing >= 0 if skips else np.ones(envs.num_envs, bool))
    while (on := table.playing >= 0).any():
        chosen = act(table.rows.reshape(members, episodes, -1)).reshape(total, -1)
        actions[:] = 0.0
        actions[on] = chosen[table.playing[on]]
        over = table.step(actions, on)
        again = over & (table.playing >= 0) if skips else over
        if again.any():
            table.begin(again)
    per_member = [slice(member * episodes, (member + 1) * episodes) for member in range(members)]
    return [
        Episodes(table.returns[own], table.lengths[own], [np.stack(s) for s in table.seen[own] if s])
        for own in per_member
    ]


def first_step(envs: VectorEnv, seed: int) -> None:
    """Reset the environments and take one step with zero actions, as a check. Raises as evaluate."""
    table = _EpisodeTable(envs, [[seed + k for k in range(envs.num_envs)]], 0, False)
    table.begin(np.ones(envs.num_envs, bool))
    shape = (envs.num_envs, *_shape(envs.single_action_space))
    table.step(np.zeros(shape, np.float32), np.ones(envs.num_envs, bool))


def evaluate_chunk(
    act: Act, envs: VectorEnv, seeds: Sequence[int], keep_observations: bool = False, first: int = 0
) -> Episodes:
    """At most CHUNK episodes of one member, from number `first` on; act always takes batches [CHUNK, …]."""
    batch = np.zeros((CHUNK, *_shape(envs.single_observation_space)), np.float32)

    def padded(rows: np.ndarray) -> np.ndarray:
        batch[: len(seeds)] = rows[0]
        return act(batch)[None, : len(seeds)]

    return evaluate(padded, envs, [seeds], keep_observations, first)[0]


class _EpisodeTable:
    """The state of all episodes, and which environment (slot) plays which of them.

    rows     [all episodes, observation_dim] float32: each one's last observation
    playing  [slots]: the episode of each environment, -1 for none
    """

    def __init__(self, envs: VectorEnv, seeds: Sequence[Sequence[int]], first: int, keep_observations: bool) -> None:
        self.envs = envs
        self._episodes, self._first, self._keep = len(seeds[0]), first, keep_observations
        self._seeds = [seed for member in seeds for seed in member]
        total = len(self._seeds)
        self._queue = deque(range(total))
        self.playing = np.array([self._next() for _ in range(envs.num_envs)])
        self.rows = np.zeros((total, *_shape(envs.single_observation_space)), np.float32)
        self.returns, self.lengths = np.zeros(total), np.zeros(total, np.int64)
        self.seen: list[list[np.ndarray]] = [[] for _ in range(total)]
        self._resetting = True

    def begin(self, slots: np.ndarray) -> None:
        """Begin new episodes in these slots [slots] bool; those without an episode left may be reset too."""
        drawn = [self._seeds[episode] if episode >= 0 else 0 for episode in self.playing]
        reset: Callable = self.envs.reset  # vector environments take a seed for each, whatever the base class declares
        self._resetting = True
        with self._episode_errors():
            observations, _ = reset(seed=drawn, options={"reset_mask": slots})
        fresh = slots & (self.playing >= 0)
        self._observe(fresh, observations)
        self._check("observation", self.rows[self.playing], fresh)

    def step(self, actions: np.ndarray, on: np.ndarray) -> np.ndarray:
        """Step all environments and count the slots `on`. Returns which ended; those take the next episodes."""
        self._resetting = False
        self._check("action of the policy", actions, on)
        with self._episode_errors():
            observations, rewards, terminated, truncated, _ = self.envs.step(actions)
        over = terminated | truncated
        self._check("reward", rewards, on)
        self.returns[self.playing[on]] += rewards[on]
        self._observe(on, observations)
        self._check("observation", self.rows[self.playing], on & ~over)  # no action follows an episode's last one
        self.lengths[self.playing[on]] += 1
        for slot in np.flatnonzero(over & on).tolist():
            self.playing[slot] = self._next()
        return over

    def _next(self) -> int:
        return self._queue.popleft() if self._queue else -1

    def _observe(self, slots: np.ndarray, observations: np.ndarray) -> None:
        for slot in np.flatnonzero(slots).tolist():
            episode = self.playing[slot]
            with np.errstate(over="ignore"):  # it becomes infinite, which _check reports
                self.rows[episode] = observations[slot]
            if self._keep:
                self.seen[episode].append(self.rows[episode].copy())

    def _check(self, what: str, values: np.ndarray, slots: np.ndarray) -> None:
        """Raise EpisodeError unless the values [slots, …] of these slots are finite."""
        if np.isfinite(values[slots]).all():
            return
        slot = next(slot for slot in np.flatnonzero(slots).tolist() if not np.isfinite(values[slot]).all())
        flat = np.ravel(values[slot])
        entry = int(np.flatnonzero(~np.isfinite(flat))[0])
        raise self._failure(slot, f"{f'entry {entry} of ' if np.ndim(values[slot]) else ''}the {what} is {flat[entry]}")

    @contextmanager
    def _episode_errors(self) -> Iterator[None]:
        """Turns what the environments raise within into an EpisodeError."""
        try:
            yield
        except UserError:
            raise
        except EnvironmentFailure as error:
            raise self._failure(error.index, str(error)) from error
        except Exception as error:
            raise EpisodeError(f"{self._name} raised {type(error).__name__}: {' '.join(str(error).split())}") from error

    def _failure(self, slot: int, what: str) -> EpisodeError:
        episode = max(self.playing[slot], 0)
        number = self._first + episode % self._episodes + 1
        when = "at its reset" if self._resetting else f"step {self.lengths[episode] + 1}"
        return EpisodeError(f"{self._name}, episode {number} (seed {self._seeds[episode]}), {when}: {what}")

    @property
    def _name(self) -> str:
        return f"the environment {getattr(self.envs, 'name', type(self.envs).__name__)}"


def _shape(space: gymnasium.Space) -> tuple[int, ...]:
    assert space.shape is not None
    return space.shape
