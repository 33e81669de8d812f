"""The single tasks of OGBench: its files of states and actions, its environments, and success in per cent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from iql.data.transitions import Transitions
from iql.dataset_files import npz, rows
from iql.dataset_files.rows import Rows
from iql.envs import ogbench
from iql.envs.d4rl.physics import version_of
from iql.envs.vector import Lockstep
from iql.errors import UserError
from iql.system import data_cache
from iql.tasks.offline import RecordedTask

TIMINGS = ("post", "pre")


class OGBenchTask(RecordedTask):
    """A single task of OGBench's on one of its files, or on a file of the user's own in its layout.

    dataset  OGBench's name of the task, cube-single-play-singletask-task2-v0; without a task it is the default one
    success_timing  whether success is that of the state after a step ("post", as published) or of the one before it
                    ("pre", which ogbench 1.2 does unless it is asked)
    url      where the file is downloaded from if no local folder has it; None: OGBench's server
    path     a file to use instead; the task is then custom
    observation_dim, action_dim  of the environment; None: those that it has

    Rewards and ends of the task come from the package's relabelling of the recorded states. A score is 100 for an
    episode that succeeds. The other arguments are RecordedTask's.
    """

    def __init__(
        self,
        dataset: str | None,
        success_timing: str,
        path: str | Path | None = None,
        url: str | None = None,
        observation_dim: int | None = None,
        action_dim: int | None = None,
        **task: Any,
    ) -> None:
        super().__init__(ref_min=0.0, ref_max=1.0, **task)
        if dataset is None:
            raise UserError(
                "env=ogbench needs a task: give env.dataset=NAME, e.g. env.dataset=cube-triple-play-singletask-task1-v0"
            )
        if success_timing not in TIMINGS:
            raise UserError(f"env.success_timing={success_timing} is not known; use {' or '.join(TIMINGS)}")
        self.environment_id = ogbench.environment_id(dataset)
        self.dataset = dataset
        self.success_timing = success_timing
        self.path = path
        self.url = url or data_cache.ogbench_url(dataset)
        self.custom = path is not None
        if observation_dim is not None and action_dim is not None:
            self.observation_dim, self.action_dim = observation_dim, action_dim

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file's digest, the environment and the package's version, which give the rewards."""
        parts = [ogbench.package_version(), self.environment_id, data_cache.sha256(self.locate())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def locate(self) -> Path:
        """The file, downloaded if no local folder has it. Raises UserError."""
        ogbench.package_version()  # before a download that could not be used
        return data_cache.find(self.url, self.path)

    def read(self) -> tuple[Rows, Path]:
        """The file's states and actions with the task's rewards and ends, and its path. Raises UserError.

        A row is a state; the last one of a trajectory has no successor. No array of the file is in memory besides
        those that are returned.
        """
        path = self.locate()
        with npz.opened(path) as file:
            states = self._checked(file, path)
            observations, actions = (_table(file, name, path) for name in ("observations", "actions"))
            ends = rows.flags(file["terminals"], "terminals", path)
            rewards, terminals = np.empty(len(ends), np.float32), np.empty(len(ends), bool)
            end = 0
            for block in zip(*(file.blocks(name) for name in states), strict=True):
                qpos = block[0]
                rows.check_finite(qpos, "qpos", path)
                if ogbench.in_walls(self._env, qpos):
                    raise UserError(
                        f"{path}: its positions lie within the walls of {self.environment_id}'s maze: it was recorded "
                        "in another one"
                    )
                here = slice(end, end := end + len(qpos))
                rewards[here], masks = ogbench.relabelled(self._env, qpos, *(block[1:] or (None,)))
                terminals[here] = masks == 0
        return Rows(observations, actions, rewards, terminals, ends), path

    def transitions(self) -> Transitions:
        """As RecordedTask.transitions; the data, which is of no task, has no score."""
        found = super().transitions()
        assert self._data_facts is not None
        self._data_facts |= {"scored": "success", "data_score": None}
        return found

    def make_envs(self, num: int) -> VectorEnv:
        """A vector of `num` environments; of a robot arm's a single one, since it takes seconds to make and 100 MB."""
        return super().make_envs(1 if ogbench.is_costly(self.environment_id) else num)

    def make_learning_envs(self, num: int) -> VectorEnv:
        """As make_envs, with the rewards that the data has."""
        maker = partial(ogbench.make, self.dataset, self.success_timing, self.horizon, rewards_of_data=True)
        return Lockstep([maker] * num)

    def env_makers(self, num: int) -> list[Callable[[], gymnasium.Env]]:
        """A constructor for each of `num` environments. Raises UserError."""
        return [partial(ogbench.make, self.dataset, self.success_timing, self.horizon)] * num

    def simulator_facts(self) -> dict[str, object]:
        """mujoco's version, the package's in place of a physics profile, and when success is taken."""
        return {
            "mujoco": version_of(self._env),
            "physics": f"ogbench {ogbench.package_version()}",
            "success_timing": self.success_timing,
        }

    @cached_property
    def _env(self) -> gymnasium.Env:
        """One environment, to check the file against and to take rewards from. Raises UserError."""
        return ogbench.make(self.dataset, self.success_timing, self.horizon)

    def _checked(self, file: npz.Archive, path: Path) -> list[str]:
        """The columns of the state, after checks of the file's form and sizes; sets those of the task. UserError."""
        widths = ogbench.state_widths(self._env)
        if missing := [name for name in ("observations", "actions", "terminals", *widths) if name not in file]:
            raise UserError(
                f"{path} has no {', '.join(missing)}: {self.environment_id} needs a file as OGBench's server has it, "
                f"with the simulator's states (this one has {', '.join(sorted(file)) or 'nothing'})"
            )
        shapes = {name: file.shape(name) for name in ("observations", "actions", *widths)}
        if len(shapes["observations"]) > 2:
            raise UserError(f"{path}: observations is {list(shapes['observations'])}, images, which no network reads")
        observation_dim, action_dim = (
            gymnasium.spaces.flatdim(space) for space in (self._env.observation_space, self._env.action_space)
        )
        for name, width in ({"observations": observation_dim, "actions": action_dim} | widths).items():
            count = file.shape("terminals")[0] if file.shape("terminals") else 0
            if shapes[name] != (count, width):
                raise UserError(
                    f"{path}: {name} is {list(shapes[name])} where {self.environment_id} has [{count}, {width}]: it "
                    "was recorded in another environment"
                )
        if not count:
            raise UserError(f"{path} has zero rows: there is nothing to learn from")
        self.observation_dim, self.action_dim = observation_dim, action_dim
        return list(widths)


def _table(file: npz.Archive, name: str, path: Path) -> np.ndarray:
    """An array [R, entries] float32, all finite, with no other copy of it in memory. Raises UserError."""
    table, end = np.empty(file.shape(name), np.float32), 0
    for block in file.blocks(name):
        table[end : (end := end + len(block))] = block
    rows.check_finite(table, name, path)
    return table
