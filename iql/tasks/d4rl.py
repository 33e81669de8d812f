"""D4RL's tasks: a data file in D4RL's layout, D4RL's dynamics and D4RL's score."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from iql.episodes import split
from iql.errors import UserError
from iql.tasks import files, hdf5
from iql.transitions import BLOCK, REWARDS, Transitions, from_rows

if TYPE_CHECKING:
    from iql.tasks.maze2d import Maze

log = logging.getLogger(__name__)


class D4RLTask:
    """A task of D4RL, or one like it on a file of the user's own.

    name             as on the command line, hopper-medium-v2
    simulator        key of iql.tasks.simulators.SIMULATORS
    url              where the file is downloaded from if it is nowhere here; None: nowhere
    rows             rows on file, None where unknown; another number means another file
    observation_dim, action_dim, horizon  of the simulator
    ref_min, ref_max  returns of the random policy and of the expert, whose scores are 0 and 100
    reward           what is done to the data's rewards: "none", "return_range" or "minus_one"
    path             a file to take instead of D4RL's; the task is then custom
    physics          "d4rl" or "gymnasium"
    normalize        whether observations are shifted and scaled to mean 0 and standard deviation 1
    """

    def __init__(
        self,
        name: str,
        simulator: str,
        url: str | None,
        rows: int | None,
        observation_dim: int,
        action_dim: int,
        horizon: int,
        ref_min: float,
        ref_max: float,
        reward: str,
        path: str | Path | None = None,
        physics: str = "d4rl",
        normalize: bool = False,
    ) -> None:
        if reward not in REWARDS:
            raise UserError(f"env.reward={reward} is not known; use one of {', '.join(REWARDS)}")
        self.name = name
        self.simulator = simulator
        self.url = url
        self.rows = rows
        self.observation_dim = observation_dim
        self.action_dim = action_dim
        self.horizon = horizon
        self.ref_min = ref_min
        self.ref_max = ref_max
        self.reward = reward
        self.path = path
        self.physics = physics
        self.normalize = normalize
        self._data_facts: dict[str, object] | None = None

    @property
    def custom(self) -> bool:
        """Whether the data is the user's own, so that no published number stands beside its score."""
        return self.path is not None

    @property
    def maze(self) -> Maze | None:
        """The maze of a maze2d simulator, to draw a value map of."""
        if not self.simulator.startswith("maze2d-"):
            return None
        from iql.tasks.maze2d import MAZES

        return MAZES[self.simulator]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file's bytes."""
        return files.sha256(self.locate())

    def locate(self) -> Path:
        """The data file, downloaded if it is nowhere. Raises UserError."""
        return files.find(self.url, self.path)

    def transitions(self) -> Transitions:
        """The dataset, checked and ready to sample. Raises UserError for data that cannot be trusted."""
        path = self.locate()
        data = hdf5.read(path, self.horizon)
        self._check_sizes(data, path)
        self._check_rows(data, path)
        episodes = split(data.rewards, data.terminals, data.timeouts)
        beyond = _count_beyond(data.actions)
        if beyond:
            log.warning(
                "%s: %s of %s action entries lie beyond ±1; they are clipped to ±(1 − 1e-5)",
                path,
                f"{beyond:,}",
                f"{data.actions.size:,}",
            )
        facts: dict[str, object] = {
            "dataset": str(path),
            "rows": len(data),
            "custom": self.custom,
            "episodes": len(episodes.returns),
            "clipped_actions": beyond,
            "data_score": _mean(self.score(episodes.finished())),
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
            )
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        self._data_facts = {**facts, "transitions": len(transitions)}
        return transitions

    def make_envs(self, num: int) -> VectorEnv:
        """`num` simulators side by side, autoreset disabled: who steps them resets what ended."""
        from iql.tasks.simulators import make

        one = partial(make, self.simulator, self.physics, self.horizon)
        return SyncVectorEnv([one] * num, autoreset_mode=AutoresetMode.DISABLED)

    def score(self, returns: np.ndarray) -> np.ndarray:
        """D4RL's normalised scores of episode returns, same shape: 0 is random, 100 the expert."""
        return 100 * (np.asarray(returns) - self.ref_min) / (self.ref_max - self.ref_min)

    def facts(self) -> dict[str, object]:
        """What belongs beside every score: mujoco, physics; of the dataset its path, rows, transitions,
        episodes, clipped_actions, data_score (mean score of its finished episodes, None without one) and
        whether it is custom. Reads the file if transitions() has not been called yet.
        """
        from iql.tasks import physics

        if self._data_facts is None:
            self.transitions()
        return {**physics.facts(self.physics), **(self._data_facts or {})}

    def _check_sizes(self, data: hdf5.Rows, path: Path) -> None:
        have = data.observations.shape[1], data.actions.shape[1]
        need = self.observation_dim, self.action_dim
        if have == need:
            return
        from iql.tasks.simulators import SIMULATORS

        fits = [f"{key}-…" for key, it in SIMULATORS.items() if (it.observation_dim, it.action_dim) == have]
        advice = f"such a file fits env={' or '.join(fits)}" if fits else "no simulator here has those sizes"
        raise UserError(
            f"{path} has observations of {have[0]} entries and actions of {have[1]}, but {self.name} takes "
            f"{need[0]} and {need[1]}; {advice}"
        )

    def _check_rows(self, data: hdf5.Rows, path: Path) -> None:
        if self.rows is None or len(data) == self.rows:
            return
        found = f"{path} has {len(data):,} rows where D4RL's {self.name} has {self.rows:,}"
        if not self.custom:
            raise UserError(
                f"{found}: it is another file. Delete it to have D4RL's downloaded, or give env.path={path} "
                "to train on it as a file of your own"
            )
        log.warning("%s: published scores do not apply to it", found)


def _count_beyond(actions: np.ndarray) -> int:
    """Entries of actions [R, A] outside ±1, counted in blocks to spare memory."""
    return sum(
        int(np.count_nonzero(np.abs(actions[first : first + BLOCK]) > 1)) for first in range(0, len(actions), BLOCK)
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
