"""D4RL's Adroit hand on gymnasium-robotics' simulators: door, hammer, pen and relocate.

Dynamics, observations and resets are those of gymnasium-robotics 1.4.2, which equal D4RL's; rewards and ends of
episodes are D4RL's own, since gymnasium-robotics rewards the palm's distance from the object and does not end an
episode when the pen is dropped. All lengths are metres, angles radians.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import gymnasium
import numpy as np

from iql.envs.d4rl.physics import restore_contacts

log = logging.getLogger(__name__)

_notice = io.StringIO()
with contextlib.redirect_stderr(_notice):  # its import prints a notice about rewards that we do not use
    from gymnasium_robotics.envs.adroit_hand import (
        AdroitHandDoorEnv,
        AdroitHandHammerEnv,
        AdroitHandPenEnv,
        AdroitHandRelocateEnv,
    )
if _notice.getvalue():
    log.debug("gymnasium_robotics says: %s", _notice.getvalue().strip())

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Door(AdroitHandDoorEnv):
    """Unlatch a door and swing it open; observation [39], action [28]."""

    def step(self, a: np.ndarray) -> Step:
        observation, _, _, _, info = super().step(a)
        hinge = self.data.qpos[self.door_hinge_addrs]
        reward = -0.1 * _distance(self.data.site_xpos, self.grasp_site_id, self.handle_site_id)
        reward -= 0.1 * (hinge - 1.57) ** 2
        reward -= 1e-5 * np.sum(self.data.qvel**2)
        reward += 2.0 * (hinge > 0.2) + 8.0 * (hinge > 1.0) + 10.0 * (hinge > 1.35)
        return observation, float(reward), False, False, info


class Hammer(AdroitHandHammerEnv):
    """Pick a hammer up and drive a nail in; observation [46], action [26]."""

    def step(self, a: np.ndarray) -> Step:
        observation, _, _, _, info = super().step(a)
        hammer = self.data.xpos[self.obj_body_id]
        head = self.data.site_xpos[self.tool_site_id]
        depth_left = _distance(self.data.site_xpos, self.target_obj_site_id, self.goal_site_id)
        reward = -0.1 * np.linalg.norm(self.data.site_xpos[self.S_grasp_site_id] - hammer)
        reward -= _distance(self.data.site_xpos, self.tool_site_id, self.target_obj_site_id)
        reward -= 10.0 * depth_left
        reward -= 1e-2 * np.linalg.norm(self.data.qvel)
        reward += 2.0 * (hammer[2] > 0.04 and head[2] > 0.04)
        reward += 25.0 * (depth_left < 0.02) + 75.0 * (depth_left < 0.01)
        return observation, float(reward), False, False, info


class Pen(AdroitHandPenEnv):
    """Turn a pen in the hand; observation [45], action [24]. A dropped pen costs 5 and ends the episode."""

    def step(self, a: np.ndarray) -> Step:
        observation, _, _, _, info = super().step(a)
        sites = self.data.site_xpos
        pen = self.data.xpos[self.obj_body_id]
        direction = (sites[self.obj_t_site_id] - sites[self.obj_b_site_id]) / self.pen_length
        desired = (sites[self.tar_t_site_id] - sites[self.tar_b_site_id]) / self.tar_length
        distance = np.linalg.norm(pen - sites[self.eps_ball_site_id])
        likeness = direction @ desired
        dropped = bool(pen[2] < 0.075)
        reward = likeness - distance - 5.0 * dropped
        if distance < 0.075:
            reward += 10.0 * (likeness > 0.9) + 50.0 * (likeness > 0.95)
        return observation, float(reward), dropped, False, info


class Relocate(AdroitHandRelocateEnv):
    """Carry a ball to a target in the air; observation [39], action [30]."""

    def step(self, a: np.ndarray) -> Step:
        observation, _, _, _, info = super().step(a)
        ball = self.data.xpos[self.obj_body_id]
        palm = self.data.site_xpos[self.S_grasp_site_id]
        target = self.data.site_xpos[self.target_obj_site_id]
        distance = np.linalg.norm(ball - target)
        reward = -0.1 * np.linalg.norm(palm - ball)
        if ball[2] > 0.04:
            reward += 1.0 - 0.5 * np.linalg.norm(palm - target) - 0.5 * distance
        reward += 10.0 * (distance < 0.1) + 20.0 * (distance < 0.05)
        return observation, float(reward), False, False, info


CLASSES: dict[str, type[gymnasium.Env]] = {"door": Door, "hammer": Hammer, "pen": Pen, "relocate": Relocate}


def make(name: str, physics: str) -> gymnasium.Env:
    """The simulator `name` without a step limit.

    On mujoco 3.1.6 the hand already moves as in MuJoCo 2.1.0; on newer versions physics="d4rl" restores that
    version's contacts, and "gymnasium" leaves gymnasium-robotics' model unchanged.
    """
    env: Any = CLASSES[name]()
    if physics == "d4rl":
        restore_contacts(env.model)
    return env


def _distance(positions: np.ndarray, one: int, other: int) -> np.floating[Any]:
    """Distance between two rows of positions [S, 3]."""
    return np.linalg.norm(positions[one] - positions[other])
