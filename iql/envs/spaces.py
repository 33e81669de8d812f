"""Observation and action spaces of any environment as flat vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction, TransformObservation

from iql.data.transitions import BLOCK
from iql.envs import discrete
from iql.errors import UserError

ROUNDING = 1e-5
"""Largest distance beyond ±1 of a scaled action that rounding explains; such an action is set to ±1."""

UNBOUNDED = 1e6
"""Bounds from this number up count as none: float32's largest number is often written for infinity."""

IMAGE_SIDE = 32
"""The fewest entries of an image's side: Minari's own threshold (dataset/minari_storage.py)."""


@dataclass(frozen=True)
class ActionScale:
    """The linear map between an environment's actions and ±1, entry by entry; low and high are [A] float64."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, space: gymnasium.Space, actions: np.ndarray) -> ActionScale:
        """The space's own bounds; where it has none, the smallest and the largest of the data's actions [R, A]."""
        box = spaces.flatten_space(space)
        assert isinstance(box, spaces.Box)
        low, high = (
            np.where(np.abs(bound := side.astype(np.float64)) < UNBOUNDED, bound, of_data(0))
            for side, of_data in ((box.low, actions.min), (box.high, actions.max))
        )
        return cls(low, np.where(high > low, high, low + 1.0))  # a constant entry may have any scale

    @property
    def unit(self) -> bool:
        """Whether the bounds are ±1 already."""
        return bool((self.low == -1).all() and (self.high == 1).all())

    def to_unit(self, actions: np.ndarray) -> None:
        """Scale actions [R, A] float32 to ±1 in place, in blocks to spare memory."""
        if self.unit:
            return
        for first in range(0, len(actions), BLOCK):
            block = 2 * (actions[first : first + BLOCK] - self.low) / (self.high - self.low) - 1
            rounded = (np.abs(block) > 1) & (np.abs(block) < 1 + ROUNDING)
            actions[first : first + BLOCK] = np.where(rounded, np.sign(block), block)

    def from_unit(self, action: np.ndarray) -> np.ndarray:
        """The environment's action [A] of one within ±1."""
        return action if self.unit else self.low + (np.asarray(action, np.float64) + 1) / 2 * (self.high - self.low)


def check(observations: gymnasium.Space, actions: gymnasium.Space, source: str) -> None:
    """Raise UserError unless observations can be flattened and actions are continuous, or Discrete from 0 on."""
    for leaf in _leaves(observations):
        if isinstance(leaf, spaces.Box) and _is_image(leaf):
            raise UserError(f"{source}: observations are images ({leaf}), which no network here reads")
        if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise UserError(f"{source}: observations of the kind {leaf} cannot be made into a vector of numbers")
    for leaf in _leaves(actions):
        if not isinstance(leaf, spaces.Box) or not np.issubdtype(leaf.dtype, np.floating):
            discrete.check(actions, source)


def fits(recorded: gymnasium.Space, space: gymnasium.Space) -> bool:
    """Whether values of `space` have all the parts that `recorded` has, with equal kinds and sizes."""
    if isinstance(recorded, spaces.Dict):
        return isinstance(space, spaces.Dict) and all(
            key in space.spaces and fits(part, space.spaces[key]) for key, part in recorded.spaces.items()
        )
    if isinstance(recorded, spaces.Tuple):
        return (
            isinstance(space, spaces.Tuple)
            and len(recorded.spaces) == len(space.spaces)
            and all(map(fits, recorded.spaces, space.spaces))
        )
    if isinstance(recorded, spaces.Box):
        return isinstance(space, spaces.Box) and recorded.shape == space.shape
    return recorded == space


def flatten(space: gymnasium.Space, values: Any) -> np.ndarray:
    """Values of R steps as [R, flatdim(space)] float32, row by row as gymnasium.spaces.flatten has one.

    A dictionary's parts come in the order of its space, a discrete number as a one-hot vector. Raises
    ValueError for a discrete number outside its space.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([flatten(part, values[key]) for key, part in space.spaces.items()], axis=1)
    if isinstance(space, spaces.Tuple):
        return np.concatenate([flatten(part, value) for part, value in zip(space.spaces, values, strict=True)], axis=1)
    array = np.asarray(values)
    if isinstance(space, spaces.Discrete):
        return _one_hot(array - space.start, np.array([space.n]))
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(array - space.start, space.nvec)
    with np.errstate(over="ignore"):  # it becomes infinite, which the check of rows reports
        return array.reshape(len(array), -1).astype(np.float32)


def flat_env(
    env: gymnasium.Env,
    scale: ActionScale | None,
    observation_space: gymnasium.Space | None = None,
    action_space: gymnasium.Space | None = None,
) -> gymnasium.Env:
    """The environment with flat observations, and flat actions within ±1; discrete ones one-hot, without a scale.

    The spaces are those of the data, whose dictionaries may have their parts in another order than the environment's,
    or fewer; None: the environment's own.
    """
    observations = observation_space or env.observation_space
    actions = action_space or env.action_space
    if scale is None:
        assert isinstance(actions, spaces.Discrete)
        env = discrete.by_number(env, int(actions.n))
    elif not (scale.unit and isinstance(actions, spaces.Box) and len(actions.shape) == 1):
        unit = spaces.Box(-1.0, 1.0, scale.low.shape, np.float32)
        env = TransformAction(env, partial(_shaped, actions, scale), unit)
    return TransformObservation(env, partial(spaces.flatten, observations), spaces.flatten_space(observations))


def _shaped(space: gymnasium.Space, scale: ActionScale, action: np.ndarray) -> Any:
    """An action [A] within ±1 in the form and bounds that the environment takes."""
    box = spaces.flatten_space(space)
    assert isinstance(box, spaces.Box)
    return spaces.unflatten(space, np.clip(scale.from_unit(action), box.low, box.high).astype(box.dtype))


def _one_hot(digits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[R, sum of sizes] float32 of whole numbers [R, …], the k-th of them within 0 … sizes[k] − 1."""
    digits, sizes = digits.reshape(len(digits), -1), sizes.reshape(-1)
    if ((digits < 0) | (digits >= sizes)).any():
        raise ValueError(f"discrete values outside their space of {sizes.tolist()}")
    hot = np.zeros((len(digits), int(sizes.sum())), np.float32)
    np.put_along_axis(hot, (digits + np.cumsum(sizes) - sizes).astype(np.int64), 1.0, axis=1)
    return hot


def _is_image(box: spaces.Box) -> bool:
    bytes_of_pixels = box.dtype == np.uint8 and len(box.shape) > 1
    return bytes_of_pixels or sum(side >= IMAGE_SIDE for side in box.shape) > 1


def _leaves(space: gymnasium.Space) -> Iterator[gymnasium.Space]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        for part in parts:
            yield from _leaves(part)
    else:
        yield space
