"""The kitchen against steps recorded in d4rl 1.1 on MuJoCo 2.1.0, and D4RL's rules for what is seen and paid.

physics/kitchen-*.npz hold steps with D4RL's observation noise switched off, each from a stored state: an arm
thrown about, objects put at their goals one after another, other poses of the arm.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from iql.envs.d4rl import mujoco_versions
from iql.envs.d4rl.kitchen import NOISE, START, TASKS
from iql.envs.registry import SIMULATORS, make

ROOT = Path(__file__).parents[2]
TRACES = ROOT / "tests/physics"
TRACED = ("kitchen-complete", "kitchen-mixed")
BODY_FIELDS = ("body_mass", "body_inertia", "body_ipos", "body_iquat")

# Where a task's goal stands in qpos, and what it is: d4rl/kitchen/kitchen_envs.py
GOALS = {
    "bottom burner": {11: -0.88, 12: -0.01},
    "light switch": {17: -0.69, 18: -0.05},
    "slide cabinet": {19: 0.37},
    "microwave": {22: -0.75},
    "kettle": {23: -0.23, 24: 0.75, 25: 1.62, 26: 0.99, 27: 0.0, 28: 0.0, 29: -0.06},
}
STILL = np.zeros(9, dtype=np.float32)


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(TRACES / f"{name}.npz") as file:
        return dict(file)


def started(name: str = "kitchen-complete", physics: str = "d4rl", seed: int = 0) -> Any:
    env: Any = make(name, physics).unwrapped
    env.reset(seed=seed)
    return env


def put(env: Any, *tasks: str) -> None:
    """The start, with these tasks done."""
    qpos = START.copy()
    for task in tasks:
        qpos[list(GOALS[task])] = list(GOALS[task].values())
    env.set_state(qpos, np.zeros(29))


def arm_touches_itself(env: Any) -> bool:
    def link(geom: int) -> bool:
        return str(env.model.body(env.model.geom_bodyid[geom]).name).startswith("panda0_link")

    return any(link(contact.geom1) and link(contact.geom2) for contact in env.data.contact)


def replay(env: Any, trace: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Largest error of the state after each recorded step, and whether the arm touches itself there."""
    errors, touching = [], []
    for row, action in enumerate(trace["action"]):
        env.set_state(trace["qpos"][row], trace["qvel"][row])
        env.step(action)
        found = np.concatenate([env.data.qpos - trace["next_qpos"][row], env.data.qvel - trace["next_qvel"][row]])
        errors.append(np.abs(found).max())
        touching.append(arm_touches_itself(env))
    return np.array(errors), np.array(touching)


@pytest.mark.parametrize("name", TRACED)
def test_a_recorded_step_is_taken_as_d4rl_took_it(name):
    """1e-8 for most; 1e-5 in velocity where the turned kettle stands on the stove, since boxes on boxes differ."""
    errors, touching = replay(started(name), load(name))
    if mujoco_versions.is_exact(name, mujoco.__version__):
        assert np.quantile(errors[~touching], 0.8) < 1e-8
        assert errors[~touching].max() < 1e-5
    else:
        assert np.median(errors[~touching]) > 1e-3


def test_where_the_arms_own_meshes_touch_it_is_only_near():
    errors, touching = replay(started(), load("kitchen-complete"))
    assert errors[touching].max() > 1e-6
    if mujoco_versions.is_exact("kitchen", mujoco.__version__):
        assert errors[touching].max() < 0.05


@pytest.mark.parametrize("name", TRACED)
def test_the_gymnasium_profile_moves_differently(name):
    """A little everywhere, by the kettle's inertia; much where the arm touches its pedestal."""
    errors, _ = replay(started(name, "gymnasium"), load(name))
    assert (errors > 1e-7).mean() > 0.9
    assert errors.max() > 0.1


def test_bodies_have_the_masses_of_mujoco_210():
    """All but the counters, which do not move."""
    trace, model = load("kitchen-complete"), started().model
    movable = [body for body in range(model.nbody) if model.body(body).name != "counters"]
    for field in BODY_FIELDS:
        found = getattr(model, field)[movable]
        np.testing.assert_allclose(
            found, trace[f"model_{field}"][movable], rtol=0, atol=1e-10 if mujoco.__version__ == "3.1.6" else 1e-6
        )


def test_the_gymnasium_profile_is_the_model_as_it_comes():
    model = started(physics="gymnasium").model
    pedestal = model.geom_bodyid == model.body("panda0_link0").parentid
    assert model.geom_contype[pedestal].tolist() == [1]
    moments = load("kitchen-complete")["model_body_inertia"][model.body("kettleroot").id]
    assert np.abs(model.body("kettleroot").inertia - moments).max() > 1e-6


@pytest.mark.parametrize("name", TRACED)
def test_recorded_rewards_and_ends_are_d4rls(name):
    trace, env = load(name), started(name)
    assert trace["reward"].sum() == 4
    assert trace["done"].sum() == 1
    for row in np.flatnonzero(trace["reward"]):
        env.tasks_left = set(str(trace["left"][row]).split(","))
        env.set_state(trace["qpos"][row], trace["qvel"][row])
        _, reward, terminated, truncated, _ = env.step(trace["action"][row])
        assert (reward, terminated, truncated) == (trace["reward"][row], trace["done"][row], False)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_observation_is_arm_objects_and_goal(name):
    env = make(name)
    observation, _ = env.reset(seed=3)
    assert observation.shape == (60,)
    assert env.observation_space.shape == (60,)
    assert env.observation_space.dtype == observation.dtype == np.float64
    model = env.unwrapped.model  # type: ignore[attr-defined]
    joints = [model.joint(joint).name for joint in range(model.njnt)]
    assert all(joint.startswith("robot:panda0") for joint in joints[:9])
    cabinets = ["slide_cabinet", "left_hinge_cabinet", "right_hinge_cabinet"]
    assert joints[17:] == ["light_switch", "light_joint", *cabinets, "microwave", "kettle"]
    for _ in range(5):
        observation, *_ = env.step(env.action_space.sample())
        qpos = env.unwrapped.data.qpos  # type: ignore[attr-defined]
        assert (np.abs(observation[:30] - qpos) <= NOISE).all()
        goal = np.zeros(30)
        for task in TASKS[name]:
            goal[list(GOALS[task])] = list(GOALS[task].values())
        np.testing.assert_array_equal(observation[30:], goal)


@pytest.mark.parametrize("name", TRACED)
def test_goal_start_and_noise_are_those_of_the_recorded_simulator(name):
    trace, env = load(name), started(name)
    np.testing.assert_array_equal(env.goal, trace["goal"])
    np.testing.assert_array_equal(START, trace["init_qpos"])
    np.testing.assert_allclose(NOISE, 0.1 * trace["robot_pos_noise_amp"], rtol=1e-12)


def test_the_noise_is_uniform_fresh_and_nowhere_but_in_positions():
    env = started()
    put(env)
    truth = np.concatenate([env.data.qpos, env.goal])
    draws = np.array([env._get_obs() - truth for _ in range(2000)])
    assert (draws[:, 30:] == 0).all()
    scaled = draws[:, :30] / NOISE
    assert np.abs(scaled).max() <= 1 + 1e-9
    assert scaled.max(axis=0).min() > 0.99
    assert scaled.min(axis=0).max() < -0.99
    assert np.abs(scaled.std(axis=0) - 1 / np.sqrt(3)).max() < 0.03
    assert np.abs(np.corrcoef(scaled, rowvar=False) - np.eye(30)).max() < 0.12


def test_a_seed_fixes_an_episode():
    def episode(seed: int) -> np.ndarray:
        env = make("kitchen-mixed")
        actions = np.random.default_rng(0).uniform(-1, 1, (10, 9))
        return np.array([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])

    np.testing.assert_array_equal(episode(1), episode(1))
    assert np.abs(episode(1) - episode(2)).max() > 1e-3


def test_every_episode_starts_at_rest_in_d4rls_pose() -> None:
    """With the kettle's quaternion, which D4RL gives rounded, at length 1."""
    env = make("kitchen-complete")
    bare: Any = env.unwrapped
    pose = START.copy()
    pose[26:] /= np.linalg.norm(pose[26:])
    for seed in range(2):
        env.reset(seed=seed)
        np.testing.assert_allclose(bare.data.qpos, pose, rtol=0, atol=1e-15)
        assert not bare.data.qvel.any()
        for _ in range(3):
            env.step(env.action_space.sample())


def test_an_action_asks_for_joint_velocities_from_the_pose_last_observed():
    env = started()
    observation, _ = env.reset(seed=5)
    action = np.linspace(-1, 1, 9)
    env.step(action)
    bounds = np.array([[-2.9, 2.9], [-1.8, 1.8], [-2.9, 2.9], [-3.1, 0], [-2.9, 2.9], [0, 3.8], [-2.9, 2.9]])
    expected = observation[:9] + 0.08 * 2 * action
    expected = np.clip(expected, [*bounds[:, 0], 0, 0], [*bounds[:, 1], 0.04, 0.04])
    np.testing.assert_allclose(env.data.ctrl, expected, rtol=0, atol=1e-12)


def test_actions_beyond_the_box_count_as_its_border():
    ends = []
    for size in (1.0, 5.0):
        env = started(seed=2)
        env.step(np.full(9, size))
        ends.append(env.data.qpos.copy())
    np.testing.assert_array_equal(*ends)


def test_a_task_is_paid_once_and_the_last_ends_the_episode():
    env = started()
    put(env, "microwave")
    assert env.step(STILL)[1:4] == (1.0, False, False)
    assert env.step(STILL)[1] == 0.0
    put(env)  # the door closes again: nothing is taken back, and it is not paid a second time
    assert env.step(STILL)[1] == 0.0
    put(env, "microwave", "kettle", "slide cabinet")
    assert env.step(STILL)[1:4] == (2.0, False, False)
    put(env, *TASKS["kitchen-complete"])
    assert env.step(STILL)[1:4] == (1.0, True, False)


def test_what_is_not_asked_for_is_not_paid():
    for name, task in (("kitchen-complete", "bottom burner"), ("kitchen-mixed", "slide cabinet")):
        env = started(name)
        put(env, task)
        assert env.step(STILL)[1] == 0.0


def test_a_reset_asks_for_all_four_again():
    env = started()
    put(env, *TASKS["kitchen-complete"])
    assert env.step(STILL)[1:3] == (4.0, True)
    env.reset(seed=1)
    put(env, *TASKS["kitchen-complete"])
    assert env.step(STILL)[1:3] == (4.0, True)


def test_done_is_what_is_seen_to_be_done():
    """At .3 from its goal a task is at times seen nearer and at times farther: D4RL pays what is observed."""
    env = started()
    qpos = START.copy()
    qpos[19] = 0.37 - 0.3  # slide cabinet
    paid = []
    for seed in range(20):
        env.reset(seed=seed)
        env.set_state(qpos, np.zeros(29))
        paid.append(env.step(STILL)[1])
    assert set(paid) == {0.0, 1.0}


def test_an_episode_is_cut_after_280_steps():
    env = make("kitchen-partial")
    env.reset(seed=0)
    total, steps, truncated = 0.0, 0, False
    while not truncated:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample() * 0)
        assert not terminated
        total += float(reward)
        steps += 1
    assert steps == SIMULATORS["kitchen-partial"].horizon == 280
    assert 0 <= total <= 4


def test_it_is_imported_and_made_without_a_word():
    """gymnasium-robotics would print a notice, and gymnasium.make warn."""
    code = "from iql.envs.registry import make; make('kitchen-mixed').reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout + done.stderr == ""
