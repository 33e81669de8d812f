"""Checks that a user's environment keeps to Gymnasium's interface, before its values are computed with."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

log = logging.getLogger(__name__)

ADAPT = (
    "adapt the environment, or wrap it where it is registered, e.g. in shimmy's GymV21CompatibilityV0 "
    "(pip install 'shimmy[gym-v21]')"
)


class InterfaceError(Exception):
    """An environment returned something else than Gymnasium's interface, or its own spaces, promise."""


class CheckedEnv(gymnasium.Wrapper):
    """An environment whose return values have the form that Gymnasium prescribes.

    A reward in an array of one element, flags in arrays, and None for the info are accepted and converted; all else
    raises InterfaceError. That numbers are finite is checked where episodes are played (evaluation.rollout). What
    close() raises is logged.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode. Raises InterfaceError."""
        arguments: dict[str, Any] = {"seed": seed, "options": options}
        if (taken := _keywords(self.env.reset)) is not None:
            if "seed" not in taken:
                raise InterfaceError(
                    f"its reset takes no seed, as in Gym's old interface, so no episode could be repeated; {ADAPT}"
                )
            arguments = {key: value for key, value in arguments.items() if key in taken or value is not None}
        returned = self.env.reset(**arguments)
        if not (isinstance(returned, tuple | list) and len(returned) == 2 and isinstance(returned[1], Mapping | None)):
            raise InterfaceError(
                f"its reset returned {_described(returned)}, where Gymnasium's returns (observation, info); "
                f"in Gym's old interface it was the observation alone: {ADAPT}"
            )
        observation, info = returned
        _check(self.env.observation_space, observation, "observation")
        return observation, dict(info or {})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step. Raises InterfaceError."""
        returned = self.env.step(action)
        if isinstance(returned, tuple | list) and len(returned) == 4:
            raise InterfaceError(
                "its step returned 4 values, as in Gym's old interface, where Gymnasium's returns 5 "
                f"(observation, reward, terminated, truncated, info); {ADAPT}"
            )
        if not (isinstance(returned, tuple | list) and len(returned) == 5 and isinstance(returned[4], Mapping | None)):
            raise InterfaceError(
                f"its step returned {_described(returned)}, where Gymnasium's returns 5 values "
                "(observation, reward, terminated, truncated, info)"
            )
        observation, reward, terminated, truncated, info = returned
        _check(self.env.observation_space, observation, "observation")
        return (
            observation,
            float(_number(reward, "reward")),
            bool(_number(terminated, "flag terminated")),
            bool(_number(truncated, "flag truncated")),
            dict(info or {}),
        )

    def close(self) -> None:
        """Close the environment; an error then is logged only, since its results are complete."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            log.warning("an environment raised %s when it was closed: %s", type(error).__name__, _line(error))


def checked(env: gymnasium.Env) -> gymnasium.Env:
    """An environment of gymnasium.make, with CheckedEnv beneath Gymnasium's own wrappers, which trust it."""
    own = None
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, OrderEnforcing | TimeLimit | PassiveEnvChecker):
            own = layer
        layer = layer.env
    if own is None:
        return CheckedEnv(env)
    own.env = CheckedEnv(own.env)
    return env


def _keywords(method: Callable) -> set[str] | None:
    """The keyword arguments that a method takes; None where it takes any, or does not say."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return None
    return None if any(each.kind is each.VAR_KEYWORD for each in parameters) else {each.name for each in parameters}


def _check(space: gymnasium.Space, value: Any, what: str) -> None:
    """Raise InterfaceError unless the value has the parts and shapes of its space, and numbers in them."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            raise InterfaceError(f"the {what} is {_described(value)} where its space, {space}, promises a dictionary")
        if missing := [key for key in space.spaces if key not in value]:
            raise InterfaceError(f"the {what} has no {', '.join(missing)}, which its space, {space}, promises")
        for key, part in space.spaces.items():
            _check(part, value[key], f"{what}'s {key}")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise InterfaceError(
                f"the {what} is {_described(value)} where its space, {space}, promises {len(space)} parts"
            )
        for place, (part, each) in enumerate(zip(space.spaces, value, strict=True)):
            _check(part, each, f"{what}'s part {place}")
    elif space.shape is not None:
        array = _array(value)
        fits = array is not None and (array.shape == space.shape or array.size == 1 == np.prod(space.shape))
        if array is None or array.dtype.kind not in "fiub" or not fits:
            raise InterfaceError(
                f"the {what} is {_described(value)} where its space, {space}, promises numbers {list(space.shape)}"
            )


def _number(value: Any, what: str) -> Any:
    """The one number that a value is or holds. Raises InterfaceError."""
    array = _array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "fiub":
        raise InterfaceError(f"the {what} is {_described(value)}, not one number")
    return array.reshape(-1)[0]


def _array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except Exception:  # ragged lists, and whatever a foreign class may raise
        return None


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, np.ndarray | np.generic) and (value.ndim or value.dtype.kind not in "fiub"):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(each).__name__ for each in value)})"
    if isinstance(value, list) and (array := _array(value)) is not None:
        return f"a list like {array.dtype} {list(array.shape)}"
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(str, value)) or 'nothing'}"
    return f"{type(value).__name__} {_line(value)[:40]}"


def _line(value: object) -> str:
    return " ".join(str(value).split())
