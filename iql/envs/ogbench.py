"""OGBench's single tasks, by its own package: environments whose return is success, and rewards of recorded rows."""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gymnasium
import numpy as np

from iql.errors import UserError

INSTALL = "pip install -c constraints.txt -e '.[ogbench]'"

FIRST = (1, 2)
"""The first version of the package whose single tasks can be told when to take success (success_timing)."""

TASK = re.compile(r"(?P<env>\w+(-\w+)*)-(?P<data>\w+)-singletask(?P<task>-task[1-9])?-v0")

SAMPLED = 1000
"""Rows of a block that are looked at for positions in walls."""

MAX_IN_WALLS = 0.01
"""The largest share of positions within walls that a maze's own data may have."""


def package_version() -> str:
    """The installed package's version. Raises UserError for none, and for one without such single tasks."""
    try:
        found = version("ogbench")
    except PackageNotFoundError as error:
        raise UserError(f"OGBench's tasks need the package ogbench: {INSTALL}") from error
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < FIRST:
        raise UserError(
            f"ogbench {found} has no single tasks with a choice of success_timing, which came with "
            f"{'.'.join(map(str, FIRST))}: {INSTALL}"
        )
    return found


def environment_id(task: str) -> str:
    """The id of a single task's environment: cube-single-singletask-task2-v0 of cube-single-play-singletask-task2-v0.

    Raises UserError for a name that is no single task's, and for observations that are images.
    """
    if task.startswith(("visual-", "powderworld-")):
        raise UserError(
            f"{task}: its observations are images, which no network here reads; without visual- it has states"
        )
    match = TASK.fullmatch(task)
    if match is None:
        raise UserError(
            f"{task} is no single task of OGBench's, ENV-DATA-singletask-v0 or ENV-DATA-singletask-taskN-v0, e.g. "
            "cube-triple-play-singletask-task1-v0; its tasks with a goal as input are not learned here"
        )
    return f"{match['env']}-singletask{match['task'] or ''}-v0"


def is_costly(name: str) -> bool:
    """Whether an environment is a robot arm's, of many meshes: a second to make one, milliseconds to step it."""
    return name.startswith(("cube-", "scene-", "puzzle-"))


def make(task: str, success_timing: str, horizon: int | None = None, rewards_of_data: bool = False) -> gymnasium.Env:
    """A single task's environment, see SingleTask; horizon: steps after which it truncates, None: its own.

    Raises UserError without the package, for an unknown task, and for a package that cannot be imported.
    """
    name = environment_id(task)
    with imported(name):
        if name not in gymnasium.registry:
            raise UserError(_unknown(task, name))
        options: dict[str, Any] = {} if horizon is None else {"max_episode_steps": horizon}
        env = gymnasium.make(name, success_timing=success_timing, disable_env_checker=True, **options)
        return SingleTask(env, rewards_of_data)


@contextmanager
def imported(name: str) -> Iterator[None]:
    """The package is imported within, its environments are registered, and its warnings silent.

    Raises UserError without the package, and for the environment `name` where a part of it cannot be imported.
    """
    package_version()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing display, and of Gymnasium's about bounds in float64
            import ogbench  # noqa: F401  (registers the environments)

            logging.getLogger("absl").setLevel(logging.WARNING)  # dm_control's version of MuJoCo, in every process
            yield
    except (ImportError, OSError, AttributeError) as error:  # a dm_control for another mujoco
        reason = " ".join(str(error).split())
        raise UserError(f"{name} cannot be made ({type(error).__name__}: {reason}): {INSTALL}") from error


def _unknown(task: str, name: str) -> str:
    known = [each for each in gymnasium.registry if "singletask" in each and not each.startswith("visual-")]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    return f"{task}: ogbench {package_version()} has no environment {name}{nearest}"


class SingleTask(gymnasium.Wrapper):
    """An environment of OGBench's, whose reward is 1 for success, which ends the episode, and else 0.

    rewards_of_data: gives the package's own rewards instead, which the data has too.

    So the return of an episode is its success, as OGBench scores it; its own rewards, which the data has, would not
    tell for a manipulation task whether the last step succeeded. An episode depends on its seed and actions alone:
    the package draws starts and teleports from NumPy's global generator and steps before an episode's beginning from
    spaces that nobody seeds, so that both are kept and seeded here.
    """

    def __init__(self, env: gymnasium.Env, rewards_of_data: bool = False) -> None:
        super().__init__(env)
        self._rewards_of_data = rewards_of_data
        base = env.unwrapped
        if isinstance(getattr(type(base), "action_space", None), property):
            # It makes a new space for every look at it, which no seed reaches, and observations to tell their sizes.
            own = {name: getattr(base, name) for name in ("action_space", "observation_space")}
            base.__class__ = type(type(base).__name__, (type(base),), own)
        self._random = np.random.RandomState(0).get_state()
        self._draws_in_steps = getattr(base, "_teleport_info", None) is not None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new episode."""
        if seed is not None:
            self._random = np.random.RandomState(seed % (1 << 32)).get_state()
            self.env.unwrapped.action_space.seed(seed)
        with self._own_random_numbers():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step."""
        if self._draws_in_steps:
            with self._own_random_numbers():
                observation, own, terminated, truncated, info = self.env.step(action)
        else:
            observation, own, terminated, truncated, info = self.env.step(action)
        reward = own if self._rewards_of_data else info["success"]
        return observation, float(reward), bool(terminated), truncated, info

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """NumPy's global generator in this environment's state within, and in its former one after."""
        outside = np.random.get_state()
        np.random.set_state(self._random)
        try:
            yield
        finally:
            self._random = np.random.get_state()
            np.random.set_state(outside)


def relabelled(env: gymnasium.Env, qpos: np.ndarray, button_states: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and masks of the environment's task, [R] float32 each, by the package's own relabelling.

    qpos           [R, nq]: positions of the simulator
    button_states  [R, buttons], of a task with buttons
    """
    from ogbench.relabel_utils import relabel_dataset

    rows: dict[str, np.ndarray] = {"qpos": qpos}
    if button_states is not None:
        rows["button_states"] = button_states
    assert env.spec is not None
    relabel_dataset(env.spec.id, env, rows)
    return rows["rewards"], rows["masks"]


def state_widths(env: gymnasium.Env) -> dict[str, int]:
    """The columns of a file that hold the environment's state, with the entries of a row: qpos and button_states."""
    base: Any = env.unwrapped
    buttons = getattr(base, "_num_buttons", 0)
    return {"qpos": int(base.model.nq)} | ({"button_states": int(buttons)} if buttons else {})


def in_walls(env: gymnasium.Env, qpos: np.ndarray) -> bool:
    """Whether more positions qpos [R, nq] than a maze's own data would have are within its walls; False without any."""
    base: Any = env.unwrapped
    if not hasattr(base, "maze_map"):
        return False
    cells = [base.xy_to_ij(position[:2]) for position in qpos[:: max(1, len(qpos) // SAMPLED)]]
    (height, width), walls = base.maze_map.shape, 0
    for row, column in cells:
        walls += not (0 <= row < height and 0 <= column < width) or base.maze_map[row, column] == 1
    return walls / len(cells) > MAX_IN_WALLS
