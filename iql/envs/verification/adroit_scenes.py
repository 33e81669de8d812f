"""Adroit's scenes as a dataset shows them: the positions of the door, the board, the ball and the targets.

They are part of the simulator's model, not of its state, and do not change within an episode. D4RL's files of v1 have
them in infos, those of v0 do not; the first observation of an episode has them in both. Later observations date from
the simulator's last evaluation of forces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np


def _place_door(env: Any, observation: np.ndarray) -> None:
    """The door's frame, by the handle in the observation."""
    env.model.body_pos[env.door_body_id] += observation[32:35] - env.data.site_xpos[env.handle_site_id]


def _place_nail(env: Any, observation: np.ndarray) -> None:
    """Hammer's board, by the nail in the observation."""
    env.model.body_pos[env.target_body_id] += observation[42:45] - env.data.site_xpos[env.target_obj_site_id]


def _turn_target(env: Any, observation: np.ndarray) -> None:
    """The pen to be imitated, by its direction in the observation; a rotation around that axis is not observed."""
    sites, wanted = env.data.site_xpos, observation[36:39] / np.linalg.norm(observation[36:39])
    shown = (sites[env.tar_t_site_id] - sites[env.tar_b_site_id]) / env.tar_length
    turn = np.concatenate([[1.0 + shown @ wanted], np.cross(shown, wanted)])
    quaternion = np.empty(4)
    mujoco.mju_mulQuat(quaternion, turn / np.linalg.norm(turn), env.model.body_quat[env.target_obj_body_id])
    env.model.body_quat[env.target_obj_body_id] = quaternion


def _place_ball(env: Any, observation: np.ndarray) -> None:
    """Relocate's ball and its target, by their distances to the palm in the observation."""
    palm = env.data.site_xpos[env.S_grasp_site_id]
    ball, target = palm - observation[30:33], palm - observation[33:36]
    env.model.body_pos[env.obj_body_id] += ball - env.data.xpos[env.obj_body_id]
    env.model.site_pos[env.target_obj_site_id] += target - env.data.site_xpos[env.target_obj_site_id]


SCENES: dict[str, Callable[[Any, np.ndarray], None]] = {
    "door": _place_door,
    "hammer": _place_nail,
    "pen": _turn_target,
    "relocate": _place_ball,
}
"""Functions that set an Adroit scene up as an episode's first observation shows it, given the state of that row."""
