"""The task of a user's own file, in D4RL's or OGBench's layout, and any Gymnasium environment to evaluate in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium

from iql.dataset_files import data_file
from iql.dataset_files.discrete_actions import is_discrete, one_hot
from iql.dataset_files.rows import Rows
from iql.envs import spaces
from iql.envs.d4rl.physics import version_of
from iql.envs.interface import ADAPT, checked
from iql.errors import UserError
from iql.system import data_cache
from iql.tasks.offline import RecordedTask


class FileTask(RecordedTask):
    """A task on a file of the user's own.

    path      an HDF5 file in D4RL's layout, or a NumPy archive (.npz) in D4RL's or OGBench's
    gym_id    the environment to evaluate in, for gymnasium.make ("module:Name-v0" imports the module first); None:
              no evaluation, and continuous actions on file must lie within ±1
    horizon   steps after which an episode is cut, in evaluation and in files without timeouts; None: the
              environment's own
    ref_min, ref_max  returns that score 0 and 100; None: a score is the return
    keys, next_observations  how the file is read, see iql.dataset_files.data_file.read

    Actions of a type of whole numbers are discrete: as many as the environment has, without one those up to the data's
    largest. The other arguments are RecordedTask's.
    """

    def __init__(
        self,
        path: str | Path | None,
        gym_id: str | None,
        keys: Mapping[str, Any] | None = None,
        next_observations: str = "row",
        **task: Any,
    ) -> None:
        super().__init__(**task)
        if path is None:
            raise UserError("env=hdf5 trains on a file of your own: give env.path=FILE (.hdf5 or .npz)")
        self.path = path
        self.gym_id = gym_id
        self.keys = keys
        self.next_observations = next_observations
        self._scale: spaces.ActionScale | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file's bytes."""
        return data_cache.sha256(self.locate())

    def locate(self) -> Path:
        """The file. Raises UserError."""
        return data_cache.find(None, self.path)

    def read(self) -> tuple[Rows, Path]:
        """The file's rows, with actions scaled to ±1 by the environment's bounds or one-hot, and its path.

        Raises UserError.
        """
        path = self.locate()
        data = data_file.read(path, self._limit, self.keys, self.next_observations)
        self.discrete = is_discrete(data)
        if self.discrete:
            data = one_hot(data, self._count(path), path)
        self.observation_dim, self.action_dim = data.observations.shape[1], data.actions.shape[1]
        if self.gym_id is not None:
            self._check_sizes(path)
            if not self.discrete:
                self._scale = spaces.ActionScale.of(self._env.action_space, data.actions)
                self._scale.to_unit(data.actions)
        return data, path

    def env_makers(self, num: int) -> list[Callable[[], gymnasium.Env]]:
        """A constructor for each of `num` environments, flat and with actions within ±1 or one-hot.

        Raises UserError if none.
        """
        if self.gym_id is None:
            raise UserError(f"{self.name} has nothing to evaluate in: give env.gym_id=ID, or evaluation=none")
        if self._limit is None:
            raise UserError(f"env.gym_id={self.gym_id} has no limit of steps: give env.horizon=STEPS")
        if not hasattr(self, "action_dim"):
            self.read()
        return [partial(_flat, self.gym_id, self.horizon, self._scale)] * num

    def simulator_facts(self) -> dict[str, object]:
        """The environment's id in place of a physics profile, and mujoco's version if it runs on mujoco."""
        return {"mujoco": version_of(self._env) if self.gym_id else None, "physics": self.gym_id}

    @property
    def _limit(self) -> int | None:
        """Steps after which an episode is cut: env.horizon, else the environment's own."""
        if self.gym_id is None:
            return self.horizon
        return self._env.spec.max_episode_steps if self._env.spec else None

    @cached_property
    def _env(self) -> gymnasium.Env:
        """One environment, to read its spaces and limit from. Raises UserError."""
        assert self.gym_id is not None
        env = _made(self.gym_id, self.horizon)
        if missing := [what for what in ("observation_space", "action_space") if not hasattr(env, what)]:
            raise UserError(f"env.gym_id={self.gym_id} has no {' and no '.join(missing)}: give it Gymnasium's spaces")
        spaces.check(env.observation_space, env.action_space, f"env.gym_id={self.gym_id}")
        return env

    def _count(self, path: Path) -> int | None:
        """The number of the environment's actions, None without one. Raises UserError unless they are discrete."""
        if self.gym_id is None:
            return None
        space = self._env.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            raise UserError(
                f"{path} has whole numbers as actions, discrete ones, but {self.gym_id} takes {space}; if they are "
                "continuous, save them as floating-point numbers"
            )
        return int(space.n)

    def _check_sizes(self, path: Path) -> None:
        if not self.discrete and isinstance(self._env.action_space, gymnasium.spaces.Discrete):
            raise UserError(
                f"{path} has floating-point numbers as actions, continuous ones, but {self.gym_id} takes "
                f"{self._env.action_space}; save them as integers, [rows] or [rows, 1]"
            )
        have = self.observation_dim, self.action_dim
        need = tuple(gymnasium.spaces.flatdim(s) for s in (self._env.observation_space, self._env.action_space))
        if have != need:
            raise UserError(
                f"{path} has observations of {have[0]} entries and actions of {have[1]}, but {self.gym_id} has "
                f"{need[0]} and {need[1]}: give the environment that the data was recorded in"
            )


def _made(gym_id: str, horizon: int | None) -> gymnasium.Env:
    try:
        return checked(gymnasium.make(gym_id, max_episode_steps=horizon, disable_env_checker=True))
    except (Exception, SystemExit) as error:  # a user's module or constructor may raise anything
        reason = " ".join(str(error).split())
        advice = "install its package, or name the module that registers it, env.gym_id=MODULE:ID"
        if isinstance(error, TypeError):
            foreign = "Gymnasium" in reason or "gymnasium.Env" in reason
            advice = ADAPT if foreign else "register it with the arguments that it needs (gymnasium.register's kwargs)"
        raise UserError(f"env.gym_id={gym_id} cannot be made ({reason or type(error).__name__}): {advice}") from error


def _flat(gym_id: str, horizon: int | None, scale: spaces.ActionScale | None) -> gymnasium.Env:
    return spaces.flat_env(_made(gym_id, horizon), scale)
