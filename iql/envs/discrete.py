"""Discrete action spaces: one-hot vectors, or any scores of the actions, as whole numbers."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction

from iql.errors import UserError


def check(space: gymnasium.Space, source: str) -> None:
    """Raise UserError unless a space is Discrete and counts from 0."""
    if not isinstance(space, spaces.Discrete):
        raise UserError(
            f"{source}: actions are {space}; learned are continuous actions (Box of floats) and one discrete "
            "choice (Discrete)"
        )
    if space.start != 0:
        raise UserError(
            f"{source}: actions are {space}, which begin at {space.start}; they must begin at 0: wrap the environment "
            "(gymnasium.wrappers.TransformAction) and number the data so"
        )


def by_number(env: gymnasium.Env, count: int) -> gymnasium.Env:
    """The environment with actions [count] float32, of whose entries the largest is the action."""
    return TransformAction(env, _largest, spaces.Box(0.0, 1.0, (count,), np.float32))


def _largest(action: np.ndarray) -> np.int64:
    return np.int64(np.argmax(action))
