"""The interface of a task: its dataset, its environments and its score."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from gymnasium.vector import VectorEnv

from iql.data.transitions import Transitions
from iql.envs.d4rl.mazes import Maze


class Task(Protocol):
    """The part of a task that training, evaluation and reports use.

    name             as on the command line, hopper-medium-v2
    observation_dim  entries of an observation
    action_dim       entries of an action, each within ±1; of discrete actions their number
    digest           SHA-256 (hex) of the data; part of a run's identity
    maze             the maze to draw a value map of, or None

    observation_dim and action_dim are known after transitions(). A task may also have `run_seeded` (bool; see
    evaluation.pending.episode_seeds), `discrete` (bool: actions are one-hot vectors) and `baselines()`, lines that
    train.py prints at its end. One whose environments have other rewards than its data, for the score's sake, also has
    `make_learning_envs(num)`, whose environments have those of the data and tell success, which the score is of. A task
    is pickled for the rollout workers (evaluation.workers).
    """

    name: str
    observation_dim: int
    action_dim: int
    maze: Maze | None

    @property
    def digest(self) -> str: ...

    def transitions(self) -> Transitions:
        """The dataset, ready to sample. Raises UserError for damaged or implausible data."""
        ...

    def make_envs(self, num: int) -> VectorEnv:
        """A vector of `num` environments with autoreset disabled: the caller resets those whose episode ended.

        There may be fewer, of environments that are costly to make; the episodes are the same.
        With `skips_ended` (envs.vector) ended environments may also be left as they are.
        """
        ...

    def score(self, returns: np.ndarray) -> np.ndarray:
        """Normalised scores of episode returns, same shape: 0 for a random policy, 100 for the expert."""
        ...

    def facts(self) -> dict[str, object]:
        """What is recorded beside every score: mujoco, physics, dataset (path, rows, custom or not)."""
        ...
