"""The states from which scripts/legacy.py compares, in today's simulators."""

from __future__ import annotations

from typing import Any

import numpy as np


def begin(state: dict[str, np.ndarray], episode: int) -> dict[str, np.ndarray]:
    """The state that an episode is compared from: antmaze's within three metres of its goal, others as they were reset.

    No small policy walks through a maze; from here some episodes reach the goal and some do not.
    """
    if "goal" in state:
        rng = np.random.default_rng(episode)
        state["qpos"][:2] = state["goal"] + (rng.uniform(0.6, 3.0), rng.uniform(-0.5, 0.0))
    return state


def put(env: Any, state: dict[str, np.ndarray]) -> None:
    """Put one of today's simulators into a state as LegacyEnvs.get_state gives it."""
    if "goal" in state:
        env.goal = state["goal"]
    if hasattr(env, "set_env_state"):
        env.set_env_state({key: state[key] for key in env._state_space.spaces})
    else:
        env.set_state(state["qpos"], state["qvel"])
