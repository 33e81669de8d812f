"""What is trained on and evaluated in: data, simulator and score of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # so that what only reads a table here imports no simulator
    import numpy as np
    from gymnasium.vector import VectorEnv

    from iql.tasks.mazes import Maze
    from iql.transitions import Transitions


class Task(Protocol):
    """What the rest of the project knows of a task.

    name             as on the command line, hopper-medium-v2
    observation_dim  entries of an observation
    action_dim       entries of an action, each within ±1
    digest           SHA-256 (hex) of the data; part of a run's identity
    maze             the maze to draw a value map of, or None

    observation_dim and action_dim are asked for after transitions(). Besides, a task may have `run_seeded`
    (bool; see inflight.episode_seeds) and `baselines()`, lines for the end of train.py. It is pickled for the
    processes that play (iql.players).
    """

    name: str
    observation_dim: int
    action_dim: int
    maze: Maze | None

    @property
    def digest(self) -> str: ...

    def transitions(self) -> Transitions:
        """The dataset, ready to sample. Raises UserError for data that cannot be trusted."""
        ...

    def make_envs(self, num: int) -> VectorEnv:
        """`num` environments side by side, autoreset disabled: who steps them resets what ended.

        With `skips_ended` (tasks.lockstep) ended ones may also be left as they are.
        """
        ...

    def score(self, returns: np.ndarray) -> np.ndarray:
        """Normalised scores of episode returns, same shape: 0 is random, 100 the expert."""
        ...

    def facts(self) -> dict[str, object]:
        """What belongs beside every score: mujoco, physics, dataset (path, rows, custom or not)."""
        ...
