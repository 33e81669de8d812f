"""D4RL's ant (ant-v2), and the body that it shares with antmaze."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np

from iql.envs.d4rl.physics import restore_capsule_masses, restore_contacts

FRAME_SKIP = 5
"""Simulator steps to an action."""

NOISE = 0.1
"""Starts differ by up to ± this from the pose of the model's file; velocities have this standard deviation."""

HEALTHY = (0.2, 1.0)
"""Heights (m) of the torso within which an episode of ant-v2 continues."""

CONTROL_COST = 0.5
ALIVE = 1.0


def description() -> ET.Element:
    """Gymnasium's ant.xml, to be changed and compiled."""
    return ET.parse(Path(gymnasium.__file__).parent / "envs/mujoco/assets/ant.xml").getroot()


def compile_model(root: ET.Element, physics: str) -> mujoco.MjModel:
    """The compiled model of a description; with physics="d4rl" it has MuJoCo 2.1.0's masses and contacts."""
    model = mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))
    if physics == "d4rl":
        restore_capsule_masses(model)
        restore_contacts(model)
    return model


class AntBody(gymnasium.Env[np.ndarray, np.ndarray]):
    """An ant that starts around its model's pose: qpos [15], qvel [14], action [8] within ±1."""

    def __init__(self, model: mujoco.MjModel, observation_dim: int):
        self.model = model
        self.data = mujoco.MjData(model)
        self.init_qpos = self.data.qpos.copy()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation_dim,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (model.nu,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.init_qpos + self.np_random.uniform(-NOISE, NOISE, size=self.model.nq)
        self.set_state(qpos, NOISE * self.np_random.standard_normal(self.model.nv))
        return self._observation(), {}

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put the ant at qpos [15], its quaternion normalised, with velocities qvel [14]."""
        self.data.qpos[:] = qpos
        mujoco.mj_normalizeQuat(self.model, self.data.qpos)  # mj_forward leaves it as it is from mujoco 3.2 on
        self.data.qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)

    def _observation(self) -> np.ndarray:
        raise NotImplementedError


class Ant(AntBody):
    """gym 0.23's Ant-v2, which D4RL's ant-*-v2 are: run along x; observation [111], action [8].

    The observation is qpos without x and y, qvel, and 84 zeros: they are contact forces, which MuJoCo
    2.1.0 does not compute for gym (so their cost is 0 too). The reward is the torso's velocity along x,
    less the control cost, and 1 for each step. The episode ends when the torso leaves HEALTHY.
    """

    def __init__(self, physics: str = "d4rl"):
        super().__init__(compile_model(description(), physics), 111)
        self._torso_xpos = self.data.body("torso").xpos  # a view, of the last evaluation of forces, as gym's
        self._dt = self.model.opt.timestep * FRAME_SKIP

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        data = self.data
        before = float(self._torso_xpos[0])
        data.ctrl[:] = action
        mujoco.mj_step(self.model, data, nstep=FRAME_SKIP)
        velocity = (float(self._torso_xpos[0]) - before) / self._dt
        reward = velocity - CONTROL_COST * float(np.square(action).sum()) + ALIVE
        finite = bool(np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all())
        healthy = finite and HEALTHY[0] <= float(data.qpos[2]) <= HEALTHY[1]
        return self._observation(), reward, not healthy, False, {}

    def _observation(self) -> np.ndarray:
        observation = np.zeros(111)
        observation[:13] = self.data.qpos[2:]
        observation[13:27] = self.data.qvel
        return observation


def make(name: str, physics: str) -> gymnasium.Env:
    """Ant-v2 without a step limit; physics="gymnasium" keeps the installed MuJoCo's masses."""
    return Ant(physics)
