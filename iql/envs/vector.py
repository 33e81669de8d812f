"""A vector of environments in one process; a step moves only those whose episode is in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from iql.envs.interface import InterfaceError


class EnvironmentFailure(Exception):
    """One of several environments could not be reset or stepped; index: which one, the message: why."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class Lockstep(SyncVectorEnv):
    """Gymnasium's SyncVectorEnv with autoreset disabled that does not step ended environments.

    name         the environments' id, or the name of their class
    ended        [num] bool: whether an episode is over, or has not begun: such an environment keeps its last
                 observation, gets no reward and takes no time until it is reset
    skips_ended  tells evaluation.rollout so

    Of the environments' infos only "success" is gathered, [num] bool, where one of them says it: all of them would take
    longer than a step.
    """

    skips_ended = True

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]]) -> None:
        super().__init__(makers, autoreset_mode=AutoresetMode.DISABLED)
        space = self.single_observation_space
        self._rows = np.zeros((self.num_envs, *(space.shape or ())), space.dtype)
        self._terminated, self._truncated = np.zeros((2, self.num_envs), bool)
        self.ended = np.ones(self.num_envs, bool)
        first = self.envs[0]
        self.name = first.spec.id if first.spec else type(first.unwrapped).__name__

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes: in all, or in those in options["reset_mask"] [num] bool. Raises EnvironmentFailure."""
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        left = dict(options or {})
        mask = left.pop("reset_mask", np.ones(self.num_envs, bool))
        for index in np.flatnonzero(mask).tolist():
            with _environment_failure(index):
                self._rows[index], _ = self.envs[index].reset(seed=seed[index], options=left or None)
            self._terminated[index] = self._truncated[index] = self.ended[index] = False
        return self._rows.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step those whose episode is in progress, with actions [num, action_dim]. Raises EnvironmentFailure."""
        rewards, success = np.zeros(self.num_envs), {}
        for index in np.flatnonzero(~self.ended).tolist():
            with _environment_failure(index):
                (
                    self._rows[index],
                    rewards[index],
                    self._terminated[index],
                    self._truncated[index],
                    info,
                ) = self.envs[index].step(actions[index])
            if (reached := info.get("success", info.get("is_success"))) is not None:
                success[index] = bool(reached)
        self.ended = self.ended | self._terminated | self._truncated
        infos = {"success": np.array([success.get(index, False) for index in range(self.num_envs)])} if success else {}
        return self._rows.copy(), rewards, self._terminated.copy(), self._truncated.copy(), infos


class _environment_failure:  # noqa: N801
    """Turns what an environment raises within, SystemExit included, into an EnvironmentFailure with its message."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if isinstance(error, InterfaceError):
            raise EnvironmentFailure(self._index, str(error)) from error
        if isinstance(error, Exception | SystemExit):
            message = " ".join(str(error).split())
            raise EnvironmentFailure(
                self._index, f"raised {type(error).__name__}{message and f': {message}'}"
            ) from error
