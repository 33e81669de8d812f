"""The base of all tasks on recorded data: checks, warnings, the score and the facts recorded beside it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from iql.data.trajectories import split
from iql.data.transitions import BLOCK, REWARDS, Transitions, from_rows
from iql.dataset_files.checks import data_warnings
from iql.dataset_files.rows import Rows
from iql.envs.d4rl.mazes import Maze
from iql.envs.vector import Lockstep
from iql.errors import UserError

log = logging.getLogger(__name__)


class RecordedTask(ABC):
    """A task that is learned from recorded rows and can be evaluated in a simulator.

    name       as on the command line, hopper-medium-v2
    horizon    steps after which an episode is cut; None where the data or the environment give it
    ref_min, ref_max  returns of the random policy and of the expert, whose scores are 0 and 100; both None:
               a score is the return itself
    reward     transform of the data's rewards: "none", "return_range" or "minus_one"
    normalize  whether observations are shifted and scaled to mean 0 and standard deviation 1
    discrete   whether actions are one-hot vectors of discrete ones, action_dim being their number
    custom     whether the data is the user's own, so that its score is not compared with published numbers
    maze       the maze to draw a value map of, or None
    antmaze    whether the reward is 1 at a goal that ends the episode and else 0
    run_seeded whether a run's episodes share something drawn from the run's seed (evaluation.pending.episode_seeds)

    observation_dim, action_dim and discrete are known at the latest after transitions().
    """

    observation_dim: int
    action_dim: int
    discrete: bool = False
    custom: bool = True
    maze: Maze | None = None
    antmaze: bool = False
    run_seeded: bool = False

    def __init__(
        self,
        *,
        name: str,
        horizon: int | None,
        ref_min: float | None,
        ref_max: float | None,
        reward: str,
        normalize: bool,
    ) -> None:
        if reward not in REWARDS:
            raise UserError(f"env.reward={reward} is not known; use one of {', '.join(REWARDS)}")
        if (ref_min is None) != (ref_max is None) or (ref_min is not None and ref_min == ref_max):
            raise UserError(
                f"env.ref_min={ref_min} and env.ref_max={ref_max}: give two different returns, those of a random "
                "policy and of an expert, or neither"
            )
        self.name = name
        self.horizon = horizon
        self.ref_min, self.ref_max = ref_min, ref_max
        self.reward = reward
        self.normalize = normalize
        self._data_facts: dict[str, object] | None = None

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) of the data; part of a run's identity. Raises UserError without data."""

    @abstractmethod
    def read(self) -> tuple[Rows, Path | str]:
        """The rows, with actions scaled to ±1 by the environment's bounds or one-hot, and the name of their source.

        Raises UserError for data that is missing, damaged, or does not fit the task.
        """

    @abstractmethod
    def env_makers(self, num: int) -> list[Callable[[], gymnasium.Env]]:
        """A constructor for each of `num` environments. Raises UserError for a task without an environment."""

    @abstractmethod
    def simulator_facts(self) -> dict[str, object]:
        """The facts of the simulator that are recorded beside every score: mujoco's version and the physics."""

    def transitions(self) -> Transitions:
        """The dataset, checked and ready to sample. Raises UserError for damaged or implausible data."""
        data, source = self.read()
        episodes = split(data.rewards, data.terminals, data.timeouts)
        beyond = 0 if self.discrete else _count_beyond(data.actions)
        if beyond:
            share = f"{beyond:,} of {data.actions.size:,} action entries"
            log.warning("%s: %s lie beyond ±1; they are clipped to ±(1 − 1e-5)", source, share)
        for warning in data_warnings(data, self.reward, self.antmaze, self.normalize, self.discrete):
            log.warning("%s: %s", source, warning)
        finished = episodes.finished()
        lone = episodes.cut and episodes.lengths[-1] == 1  # a last row without a successor is no episode
        facts: dict[str, object] = {
            "dataset": str(source),
            "rows": len(data),
            "custom": self.custom,
            "episodes": len(episodes.returns) - int(lone),
            "clipped_actions": beyond,
            "data_score": float(self.score(finished).mean()) if len(finished) else None,
            "scored": "return" if self.ref_max is None else "normalised",
        }
        try:
            transitions = from_rows(
                data.observations,
                data.actions,
                data.rewards,
                data.terminals,
                data.timeouts,
                reward=self.reward,
                normalize=self.normalize,
                discrete=self.discrete,
            )
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        self._data_facts = {**facts, "transitions": len(transitions)}
        return transitions

    def make_envs(self, num: int) -> VectorEnv:
        """A vector of `num` simulators, autoreset disabled: the caller resets those whose episode ended."""
        return Lockstep(self.env_makers(num))

    def __getstate__(self) -> dict[str, Any]:
        """The state without cached properties (an open file, an environment), which the other process computes anew."""
        cached = {
            name for cls in type(self).__mro__ for name, of in vars(cls).items() if isinstance(of, cached_property)
        }
        return {name: value for name, value in self.__dict__.items() if name not in cached}

    def score(self, returns: np.ndarray) -> np.ndarray:
        """Normalised scores of returns, same shape: 0 for random, 100 for the expert; returns without references."""
        if self.ref_min is None or self.ref_max is None:
            return np.asarray(returns)
        return 100 * (np.asarray(returns) - self.ref_min) / (self.ref_max - self.ref_min)

    def facts(self) -> dict[str, object]:
        """What is recorded beside every score: the simulator's facts and the dataset's.

        Of the dataset: its path, rows, transitions, episodes, clipped_actions, data_score (mean score of its finished
        episodes, None without one), how episodes are scored and whether the data is the user's own. Reads the data if
        transitions() has not been called.
        """
        if self._data_facts is None:
            self.transitions()
        return {**self.simulator_facts(), **(self._data_facts or {})}


def _count_beyond(actions: np.ndarray) -> int:
    """Entries of actions [R, A] outside ±1, counted in blocks to spare memory."""
    return sum(
        int(np.count_nonzero(np.abs(actions[first : first + BLOCK]) > 1)) for first in range(0, len(actions), BLOCK)
    )
