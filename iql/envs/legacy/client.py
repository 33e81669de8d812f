"""env.physics=legacy: D4RL's own environments on MuJoCo 2.1.0, in a subprocess of the old stack's Python.

gym 0.23, mujoco-py and d4rl need numpy < 2 and cannot be installed beside today's torch, so they have a virtual
environment of their own, which `python scripts/legacy.py setup` makes. docs/legacy.md has the details.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from iql.config.folders import INSTALLED, PACKAGE
from iql.envs.legacy import server
from iql.envs.legacy.server import PACKAGES, receive, send
from iql.errors import UserError
from iql.system.atomic_files import expanded

log = logging.getLogger(__name__)

VENV = PACKAGE.parent / ".venv-legacy"
"""The default folder of the old stack's environment, which scripts/legacy.py makes."""

SETUP = (
    "run `python scripts/legacy.py setup` in a checkout of this project, and set IQL_LEGACY_PYTHON to its "
    ".venv-legacy/bin/python"
    if INSTALLED
    else "run `python scripts/legacy.py setup`"
)

SHUTDOWN_SECONDS = 5.0
"""Seconds that a server has to end by itself."""


def interpreter() -> Path:
    """The old stack's Python: IQL_LEGACY_PYTHON, else the one in VENV. Raises UserError where there is none."""
    named = os.environ.get("IQL_LEGACY_PYTHON")
    python = expanded(named) if named else VENV / "bin/python"
    if not os.access(python, os.X_OK) or python.is_dir():
        what = f"IQL_LEGACY_PYTHON={python}" if named else str(python)
        raise UserError(f"env.physics=legacy needs D4RL's old stack, but {what} is not a program; {SETUP}")
    return python


def facts() -> dict[str, str]:
    """The facts recorded beside every score: mujoco, physics, and the versions of gym, d4rl and mujoco_py.

    Raises UserError where the old stack is missing or incomplete.
    """
    return {**_versions(interpreter()), "physics": "legacy"}


@cache
def _versions(python: Path) -> dict[str, str]:
    command = [str(python), server.__file__, "--versions"]
    try:
        done = subprocess.run(command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"{python} cannot be run: {error.strerror}; {SETUP}") from error
    try:
        found: dict[str, str] = json.loads(done.stdout)
    except ValueError as error:
        raise UserError(f"{python} cannot host D4RL's old stack: {_last_line(done.stderr)}; {SETUP}") from error
    if missing := [name for name in (*PACKAGES, "mujoco") if name not in found]:
        raise UserError(f"{python} has no {', '.join(missing)} for env.physics=legacy; {SETUP}")
    return found


class LegacyEnvs(VectorEnv):
    """`num` environments of gym or d4rl in one process of the old stack, autoreset disabled.

    env_id                       D4RL's or gym's, antmaze-umaze-v2
    horizon                      steps after which an episode is truncated
    observation_dim, action_dim  the task's; UserError where the environment has others

    ended  [num] bool: whether an episode is over, or has not begun, so that a reset must precede a step

    An episode depends on its seed alone. A seed from 2³¹ up holds a run's seed in its bits from the 31st:
    antmaze's goal is then drawn from that (-v0: one goal per run), else from the whole seed. Observations
    are float64 [num, observation_dim]. Raises UserError for an environment that the old stack does not
    know and where it is missing, incomplete or dies.
    """

    def __init__(self, env_id: str, num: int, horizon: int, observation_dim: int, action_dim: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.env_id = env_id
        self.num_envs = num
        self.horizon = horizon
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.render_mode = None
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation_dim,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num)
        self.action_space = batch_space(self.single_action_space, num)
        self._observations = np.zeros((num, observation_dim))
        self._steps = np.zeros(num, int)
        self.ended = np.ones(num, bool)
        facts()
        self._start()
        try:
            header, _ = self._ask("open", env_id=env_id, num=num)
            if (have := tuple(header["sizes"])) != (observation_dim, action_dim):
                raise UserError(
                    f"the old stack's {env_id} has observations of {have[0]} entries and actions of {have[1]}, "
                    f"the task {observation_dim} and {action_dim}"
                )
        except BaseException:
            self.close()
            raise

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes: in all, or in those of options["reset_mask"] [num] bool."""
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        which = np.flatnonzero(mask).tolist()
        drawn = [secrets.randbits(31) if seed[index] is None else seed[index] for index in which]
        _, values = self._ask("reset", which=which, seeds=[int(one or 0) for one in drawn])
        self._observations[which] = values.reshape(len(which), -1)
        self._steps[which] = 0
        self.ended[which] = False
        return self._observations.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all environments with actions [num, action_dim]; none may have ended."""
        if self.ended.any():
            raise ValueError(
                f"reset environments {np.flatnonzero(self.ended).tolist()} first: no episode is in progress there"
            )
        actions = np.asarray(actions)
        _, values = self._ask("step", actions, dtype=actions.dtype.name)
        rows = values.reshape(self.num_envs, -1)
        self._observations = rows[:, :-2].copy()
        self._steps += 1
        terminated, truncated = rows[:, -1] != 0, self._steps >= self.horizon
        self.ended = terminated | truncated
        return self._observations.copy(), rows[:, -2].copy(), terminated, truncated, {}

    def get_state(self, index: int) -> dict[str, np.ndarray]:
        """qpos and qvel of one environment, with the goal of an antmaze or the arguments of Adroit's set_env_state."""
        header, _ = self._ask("get_state", index=index)
        return {key: np.array(value) for key, value in header["state"].items()}

    def set_state(self, index: int, state: Mapping[str, np.ndarray]) -> None:
        """Set the state of one environment, as get_state returns it."""
        self._ask("set_state", index=index, state={key: np.asarray(value).tolist() for key, value in state.items()})

    def close_extras(self, **kwargs: Any) -> None:
        """End the server; it has SHUTDOWN_SECONDS seconds."""
        if (process := self._process) is None:
            return
        self._process = None
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
        _wait(process)
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="iql-legacy-")
        self._errors: IO[str] = open(Path(self._folder) / "stderr", "w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(interpreter()), server.__file__, self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**_environment(), "TMPDIR": self._folder},
            start_new_session=True,  # Ctrl-C is for this process, which may finish an evaluation first
        )

    def _ask(self, command: str, values: np.ndarray | None = None, **arguments: Any) -> tuple[dict, np.ndarray]:
        process = self._process
        if process is None:
            raise ValueError("these environments are closed")
        assert process.stdin is not None and process.stdout is not None
        try:
            send(process.stdin, {"command": command, **arguments}, values)  # type: ignore[arg-type]
            while "note" in (reply := receive(process.stdout))[0]:  # type: ignore[arg-type]
                log.info("%s", reply[0]["note"])
        except (EOFError, BrokenPipeError) as error:
            self._errors.seek(0)
            said = _last_line(self._errors.read())
            self.close()
            raise UserError(
                f"the process of env.physics=legacy that held {self.env_id} ended (exit {process.returncode}): {said}"
            ) from error
        if "error" in reply[0]:
            raise UserError(f"{interpreter()}: {reply[0]['error']}")
        return reply


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(SHUTDOWN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """This process's environment without variables by which the other Python would find our packages.

    setuptools from 70 on has a distutils that mujoco-py's builder does not know; Python's own, up to 3.11, it does.
    """
    ours = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**ours, "SETUPTOOLS_USE_DISTUTILS": "stdlib"}


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
