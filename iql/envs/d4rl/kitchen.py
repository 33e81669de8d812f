"""D4RL's kitchen (-v0): a Franka arm with four subtasks, on gymnasium-robotics' robot and model.

Observations, their noise, rewards, ends and resets are those of d4rl 1.1 (kitchen/kitchen_envs.py,
adept_envs/franka/kitchen_multitask_v0.py and franka/robot/franka_robot.py). All lengths are metres,
angles radians.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium
import mujoco
import numpy as np

from iql.envs.d4rl.physics import restore_contacts

with contextlib.redirect_stderr(io.StringIO()):  # the package's import prints a notice about Adroit's rewards
    from gymnasium_robotics.envs.franka_kitchen.franka_env import FrankaRobot
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]

TASKS = {
    "kitchen-complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
"""The subtasks; complete and partial differ in their data only (kitchen/__init__.py)."""

CLOSE = 0.3  # a task is done within this distance of its goal (BONUS_THRESH)

# fmt: off
START = np.array([
    1.48388023e-01, -1.76848573e+00, 1.84390296e+00, -2.47685760e+00, 2.60252026e-01, 7.12533105e-01,
    1.59515394e+00, 4.79267505e-02, 3.71350919e-02,  # the arm and its two fingers
    -2.66279850e-04, -5.18043486e-05, 3.12877220e-05, -4.51199853e-05, -3.90842156e-06, -4.22629655e-05,
    6.28065475e-05, 4.04984708e-05, 4.62730939e-04, -2.26906415e-04,  # knobs with burners, light switch with light
    -4.65501369e-04, -6.44129196e-03, -1.77048263e-03, 1.08009684e-03,  # cabinets, microwave
    -2.69397440e-01, 3.50383255e-01, 1.61944683e+00, 1.00618764e+00, 4.06395120e-03, -6.62095997e-03,
    -2.68278933e-04,  # the kettle's place and quaternion
])
# fmt: on
"""qpos [30] at every reset, with qvel 0 (kitchen_multitask_v0.py)."""

NOISE = 0.1 * np.repeat([0.1, 0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [9, 2, 6, 3, 3, 3, 3, 1])
"""Largest error [30] of an observed qpos: robot_noise_ratio times pos_noise_amp of franka_config.xml.

That file was written for other furniture, so the entries of one object have different amplitudes.
"""

CAPSULE_MASS = 0.02  # kg, of each capsule that counts in kettle_chain.xml and microwave_chain.xml
COLLISION_GROUP = 4  # of the geoms that do


class Kitchen(FrankaRobot):
    """An arm moved by joint velocities; observation [60], action [9].

    The observation is 9 arm and 21 object positions, each with fresh uniform noise within NOISE, and the
    goal [30]: the tasks' goals at their positions, elsewhere 0, without noise. An action of ±1 asks for
    ±2 rad/s (m/s), added for .08 s to the arm's pose as last observed, noise included. The reward is the
    number of tasks that are, as observed, done for the first time; with the last of them the episode ends.
    """

    def __init__(self, tasks: tuple[str, ...], physics: str):
        super().__init__("../assets/kitchen_franka/kitchen_assets/kitchen_env_model.xml")
        if physics == "d4rl":
            _restore_bodies(self.model)
            restore_contacts(self.model)
        self.tasks = tasks
        self.goal = np.zeros(30)
        for task in tasks:
            self.goal[OBS_ELEMENT_INDICES[task]] = OBS_ELEMENT_GOALS[task]
        self.tasks_left = set(tasks)
        self.init_qpos = START
        self.init_qvel = np.zeros(29)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (60,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (9,), np.float32)

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Set the state to qpos [30] and qvel [29]; the next action starts from qpos as if just observed."""
        normalized = qpos.copy()
        mujoco.mj_normalizeQuat(self.model, normalized)  # mj_forward leaves it as it is from mujoco 3.2 on
        super().set_state(normalized, qvel)
        self._last_robot_qpos = qpos[:9].copy()

    def reset_model(self) -> np.ndarray:
        self.tasks_left = set(self.tasks)
        return super().reset_model()

    def step(self, action: np.ndarray) -> Step:
        observation, _, _, _, _ = super().step(action)
        done = {task for task in self.tasks_left if _distance(observation, task) < CLOSE}
        self.tasks_left -= done
        return observation, float(len(done)), not self.tasks_left, False, {"success": not self.tasks_left}

    def _get_obs(self) -> np.ndarray:
        seen = self.data.qpos + NOISE * self.np_random.uniform(-1.0, 1.0, size=30)
        self._last_robot_qpos = seen[:9]
        return np.concatenate([seen, self.goal])


def make(name: str, physics: str) -> gymnasium.Env:
    """The simulator `name` without a step limit.

    physics="d4rl" restores the contacts and inertias of D4RL's model in MuJoCo 2.1.0, "gymnasium" leaves
    gymnasium-robotics' model unchanged.
    """
    return Kitchen(TASKS[name], physics)


def _distance(observation: np.ndarray, task: str) -> np.floating[Any]:
    return np.linalg.norm(observation[OBS_ELEMENT_INDICES[task]] - OBS_ELEMENT_GOALS[task])


def _restore_bodies(model: mujoco.MjModel) -> None:
    """Make gymnasium-robotics' model D4RL's: the arm's pedestal touches nothing, and MuJoCo 2.1.0's inertias.

    That version treated a capsule of radius r and length L as a cylinder of length h = L + r. In this model
    a capsule's mass is given, so only moments change: those of the kettle and of the microwave's door.
    """
    pedestal = model.geom_bodyid == model.body("panda0_link0").parentid
    model.geom_contype[pedestal] = 0
    model.geom_conaffinity[pedestal] = 0
    for body in (model.body("kettleroot").id, model.body("microdoorroot").id):
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.body_iquat[body])
        axes = rotation.reshape(3, 3)
        tensor = axes @ np.diag(model.body_inertia[body]) @ axes.T
        capsules = (model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE) & (model.geom_group == COLLISION_GROUP)
        for geom in np.flatnonzero(capsules & (model.geom_bodyid == body)):
            mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
            change = CAPSULE_MASS * _inertia_change(*model.geom_size[geom, :2])
            tensor += axes @ np.diag(change) @ axes.T
        moments, vectors, quaternion = np.empty(3), np.empty(9), np.empty(4)
        mujoco.mju_eig3(moments, vectors, quaternion, tensor.ravel())
        model.body_inertia[body] = moments
        model.body_iquat[body] = quaternion
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _inertia_change(radius: float, half: float) -> np.ndarray:
    """Principal moments [3] (m²) of a capsule of mass 1 in MuJoCo 2.1.0, less the true ones."""
    length = 2 * half
    balls = 4 * radius / (4 * radius + 3 * length)  # the caps' share of the mass
    along = (1 - balls) * radius**2 / 2 + balls * 0.4 * radius**2
    across = (1 - balls) * (3 * radius**2 + length**2) / 12
    across += balls * (0.4 * radius**2 + length * (3 * radius + 2 * length) / 8)
    cylinder = (3 * radius**2 + (length + radius) ** 2) / 12
    return np.array([cylinder - across, cylinder - across, radius**2 / 2 - along])
