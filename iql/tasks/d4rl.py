"""The tasks of D4RL: a data file in D4RL's layout, D4RL's dynamics and D4RL's score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from iql.dataset_files import data_file
from iql.dataset_files.checks import version_warning
from iql.dataset_files.discrete_actions import refuse
from iql.dataset_files.rows import Rows
from iql.envs.d4rl.mazes import MAZES
from iql.errors import UserError
from iql.system import data_cache
from iql.tasks.offline import RecordedTask

log = logging.getLogger(__name__)


class D4RLTask(RecordedTask):
    """A task of D4RL, or one like it on a file of the user's own.

    name             as on the command line, hopper-medium-v2
    simulator        key of iql.envs.registry.SIMULATORS
    url              where the file is downloaded from if no local folder has it; None: it is not downloaded
    rows             number of rows on file, None where unknown; a file with another number is another file
    observation_dim, action_dim, horizon  of the simulator
    ref_min, ref_max  returns of the random policy and of the expert, whose scores are 0 and 100
    reward           transform of the data's rewards: "none", "return_range" or "minus_one"
    path             a file to use instead of D4RL's; the task is then custom
    physics          "d4rl", "gymnasium" or "legacy" (gym and mujoco-py in an environment of their own)
    normalize        whether observations are shifted and scaled to mean 0 and standard deviation 1
    keys, next_observations  how a file of the user's own is read, see iql.dataset_files.data_file.read
    """

    horizon: int

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
        keys: Mapping[str, Any] | None = None,
        next_observations: str = "row",
    ) -> None:
        super().__init__(
            name=name, horizon=horizon, ref_min=ref_min, ref_max=ref_max, reward=reward, normalize=normalize
        )
        self.simulator = simulator
        self.url = url
        self.rows = rows
        self.observation_dim = observation_dim
        self.action_dim = action_dim
        self.path = path
        self.keys = keys
        self.next_observations = next_observations
        self.physics = physics
        self.custom = path is not None
        self.maze = MAZES.get(simulator)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file's bytes."""
        return data_cache.sha256(self.locate())

    def locate(self) -> Path:
        """The data file, downloaded if no local folder has it. Raises UserError."""
        return data_cache.find(self.url, self.path)

    def read(self) -> tuple[Rows, Path]:
        """The file's rows, checked against the task, and its path. Raises UserError."""
        path = self.locate()
        own = self.next_observations if self.custom else None  # D4RL's own files are read as D4RL reads them
        data = data_file.read(path, self.horizon, self.keys, own)
        refuse(data, path, self.name)
        self._check_sizes(data, path)
        self._check_rows(data, path)
        if warning := version_warning(path, self.name, self.url):
            log.warning("%s: %s", path, warning)
        return data, path

    def make_envs(self, num: int) -> VectorEnv:
        """A vector of `num` simulators, autoreset disabled: the caller resets those whose episode ended."""
        if self.physics == "legacy":
            from iql.envs.legacy.client import LegacyEnvs

            return LegacyEnvs(self.name, num, self.horizon, self.observation_dim, self.action_dim)
        return super().make_envs(num)

    def env_makers(self, num: int) -> list[Callable[[], gymnasium.Env]]:
        """A constructor for each of `num` simulators."""
        from iql.envs.registry import make

        return [partial(make, self.simulator, self.physics, self.horizon)] * num

    def simulator_facts(self) -> dict[str, object]:
        """mujoco's version, the physics profile and whether it is exact there."""
        if self.physics == "legacy":
            from iql.envs.legacy import client

            return dict(client.facts())
        from iql.envs.d4rl import physics

        return physics.facts(self.physics, self.simulator)

    def _check_sizes(self, data: Rows, path: Path) -> None:
        have = data.observations.shape[1], data.actions.shape[1]
        need = self.observation_dim, self.action_dim
        if have == need:
            return
        from iql.envs.registry import SIMULATORS

        fits = [f"{key}-…" for key, it in SIMULATORS.items() if (it.observation_dim, it.action_dim) == have]
        advice = f"such a file fits env={' or '.join(fits)}" if fits else "for data of other sizes there is env=hdf5"
        raise UserError(
            f"{path} has observations of {have[0]} entries and actions of {have[1]}, but {self.name} takes "
            f"{need[0]} and {need[1]}; {advice}"
        )

    def _check_rows(self, data: Rows, path: Path) -> None:
        if self.rows is None or len(data) == self.rows:
            return
        found = f"{path} has {len(data):,} rows where D4RL's {self.name} has {self.rows:,}"
        if not self.custom:
            raise UserError(
                f"{found}: it is another file. Delete it to have D4RL's downloaded, or give env.path={path} "
                "to train on it as a file of your own"
            )
        log.warning("%s: published scores do not apply to it", found)


class AntMazeTask(D4RLTask):
    """D4RL's antmaze, with a random goal.

    goal  "run": drawn once for all episodes of a run, from its seed, as D4RL's v0 draws it once per environment;
          "episode": drawn at every reset, as in v2

    The other arguments are D4RLTask's.
    """

    antmaze = True

    def __init__(self, goal: str, **task: Any) -> None:
        super().__init__(**task)
        if goal not in ("run", "episode"):
            raise UserError(f"env.goal={goal} is not known; use run (v0) or episode (v2)")
        self.run_seeded = goal == "run"
