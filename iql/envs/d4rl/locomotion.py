"""D4RL's hopper, halfcheetah and walker2d (-v2) on Gymnasium's v4 classes."""

from __future__ import annotations

import gymnasium
from gymnasium.envs.mujoco.half_cheetah_v4 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv
from gymnasium.envs.mujoco.walker2d_v4 import Walker2dEnv

from iql.envs.d4rl import physics as d4rl_physics

CLASSES = {"hopper": HopperEnv, "halfcheetah": HalfCheetahEnv, "walker2d": Walker2dEnv}
TOTAL_MASS = {"halfcheetah": 14.0}
"""kg; settotalmass of Gymnasium's half_cheetah.xml, the only one of the three that has it."""


def make(name: str, physics: str) -> gymnasium.Env:
    """The simulator `name` without a time limit: v4's rewards, ends and resets are those of D4RL's -v2.

    Resets draw ±.005 around the standing pose (halfcheetah ±.1, and .1 · normal on velocities).
    physics="d4rl" gives MuJoCo 2.1.0's masses and contacts, "gymnasium" leaves v4 unchanged. The classes are
    built directly, since gymnasium.make warns of every v4.
    """
    env = CLASSES[name]()
    if physics == "d4rl":
        d4rl_physics.restore_capsule_masses(env.model, TOTAL_MASS.get(name))
        d4rl_physics.restore_contacts(env.model)
    return env
