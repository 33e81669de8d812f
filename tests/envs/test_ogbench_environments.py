"""OGBench's environments: sizes, success, and episodes that depend on nothing but their seeds and actions."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from ogbench_data import FAMILIES
from omegaconf import OmegaConf

from iql.config.folders import CONF
from iql.envs import ogbench
from iql.errors import UserError

POINTS = tuple(f"pointmaze-{maze}-navigate" for maze in ("medium", "large", "giant", "teleport"))
DEFAULT = {"antsoccer": 4, "cube": 2, "scene": 2, "puzzle": 4}


@cache
def made(task: str, timing: str = "post") -> Any:
    return ogbench.make(task, timing)


@cache
def configured(task: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overridden = ("+algorithm=iql", "+network=mlp")  # by the task's option
        node = OmegaConf.to_container(compose(overrides=[*overridden, f"+env={task}"]).env, resolve=True)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def at_goal(env: Any) -> None:
    """Put the simulator into a state in which the task is done."""
    base = env.unwrapped
    if hasattr(base, "get_agent_ball_xy"):
        base.set_agent_ball_xy(base.get_agent_ball_xy()[0], base.cur_goal_xy)
    elif hasattr(base, "maze_map"):
        base.set_xy(base.cur_goal_xy)
    else:
        if hasattr(base, "_num_cubes"):
            for cube in range(base._num_cubes):
                base.data.joint(f"object_joint_{cube}").qpos[:3] = base.data.mocap_pos[
                    base._cube_target_mocap_ids[cube]
                ]
        if hasattr(base, "_target_drawer_pos"):
            base.data.joint("drawer_slide").qpos[0] = base._target_drawer_pos
            base.data.joint("window_slide").qpos[0] = base._target_window_pos
        qpos, qvel = base.data.qpos.copy(), np.zeros_like(base.data.qvel)
        if hasattr(base, "_num_buttons"):
            base.set_state(qpos, qvel, base._target_button_states.copy())
        else:
            base.set_state(qpos, qvel)


@pytest.mark.parametrize("family", [*FAMILIES, *POINTS])
def test_sizes_bounds_and_limits_are_those_that_the_configuration_states(family):
    node, env = configured(f"{family}-singletask-v0"), made(f"{family}-singletask-v0")
    base = env.unwrapped
    assert env.observation_space.shape == (node["observation_dim"],)
    assert env.action_space.shape == (node["action_dim"],)
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    assert env.spec.max_episode_steps == node["horizon"]
    assert base.num_tasks == 5 and base._success_timing == "post"
    default = DEFAULT.get(family.split("-")[0], 1)
    assert base._reward_task_id == default
    assert node["dataset"] == f"{family}-singletask-task{default}-v0"
    observation, _ = env.reset(seed=0)
    assert observation.shape == (node["observation_dim"],)


@pytest.mark.parametrize("family", [*FAMILIES, "pointmaze-teleport-navigate"])
def test_an_episode_depends_on_its_seed_and_actions_alone(family):
    """Also on no episode before, on no other environment, and it leaves NumPy's generator as it was."""
    one = made(f"{family}-singletask-v0")
    other = ogbench.make(f"{family}-singletask-v0", "post")
    draws = np.random.default_rng(0)
    actions = draws.uniform(-1, 1, (12, *one.action_space.shape)).astype(np.float32)
    one.reset(seed=7)
    one.step(actions[0])
    first, _ = one.reset(seed=3)
    np.random.seed(2)
    again, _ = other.reset(seed=3)
    outside = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(first, again)
    for action in actions:
        here, there = one.step(action), other.step(action)
        np.testing.assert_array_equal(here[0], there[0])
        assert here[1:4] == there[1:4]
    other.reset(seed=4)
    np.testing.assert_array_equal(np.random.get_state()[1], outside)
    changed, _ = one.reset(seed=5)
    assert (changed != first).any()


@pytest.mark.parametrize("family", [*FAMILIES, "pointmaze-medium-navigate"])
@pytest.mark.parametrize("timing", ["post", "pre"])
def test_success_ends_the_episode_and_is_all_that_its_return_counts(family, timing):
    env = made(f"{family}-singletask-v0", timing)
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape, np.float32)
    assert env.step(still)[1:3] == (0.0, False)
    at_goal(env)
    steps = [env.step(still) for _ in range(1 if timing == "post" else 2)]
    assert steps[-1][1:4] == (1.0, True, False)
    if timing == "pre" and not hasattr(env.unwrapped, "maze_map"):  # its flag is that of the last step's end
        assert steps[0][1:3] == (0.0, False)


def test_what_happens_to_one_maze_with_holes_does_not_move_another():
    """Its holes draw where they lead to from NumPy's global generator, in steps."""
    task = "pointmaze-teleport-navigate-singletask-v0"
    ends = []
    for disturbed in (False, True):
        env = ogbench.make(task, "post")
        env.reset(seed=0)
        base = env.unwrapped
        for _ in range(5):
            base.set_xy(np.array(base._teleport_info["teleport_in_xys"][0]))
            env.step(np.zeros(2, np.float32))
            if disturbed:
                np.random.uniform(size=3)
            ends.append(tuple(base.get_xy()))
    assert ends[:5] == ends[5:] and len(set(ends)) > 1


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("visual-cube-single-play-singletask-v0", "its observations are images, which no network here reads"),
        ("powderworld-easy-play-v0", "its observations are images"),
        ("cube-single-play-v0", "is no single task of OGBench's, ENV-DATA-singletask-v0 or"),
        ("cube-single-play-oraclerep-v0", "is no single task of OGBench's"),
        ("cube-singel-play-singletask-v0", "has no environment cube-singel-singletask-v0; nearest: cube-single-"),
        ("cube-single-play-singletask-task6-v0", "has no environment cube-single-singletask-task6-v0; nearest: cube-"),
    ],
)
def test_other_names_are_refused_in_one_line(task, line):
    with pytest.raises(UserError) as refused:
        ogbench.make(task, "post")
    assert line in str(refused.value) and str(refused.value).startswith(task) and "\n" not in str(refused.value)


def test_without_the_package_or_with_one_that_has_no_such_tasks_one_line_says_what_to_install(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    for version, line in (
        (missing, "OGBench's tasks need the package ogbench: pip install -c constraints.txt -e '.[ogbench]'"),
        (lambda _: "1.1.5", "ogbench 1.1.5 has no single tasks with a choice of success_timing, which came with 1.2: "),
    ):
        monkeypatch.setattr(ogbench, "version", version)
        with pytest.raises(UserError) as refused:
            ogbench.make("cube-single-play-singletask-v0", "post")
        assert str(refused.value).startswith(line)


def test_a_dm_control_that_does_not_fit_is_one_line(monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise ImportError("cannot import name 'MjrContext'\nfrom mujoco")

    monkeypatch.setattr(ogbench.gymnasium, "make", broken)
    with pytest.raises(UserError, match=r"cannot be made \(ImportError: cannot import name 'MjrContext' from mujoco\)"):
        ogbench.make("cube-single-play-singletask-v0", "post")
