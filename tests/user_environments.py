"""Environments as users have them, sound ones and ones that break Gymnasium's interface; importing registers them."""

from __future__ import annotations

import os
import sys

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 10  # steps of an episode
FAULT = 4  # the step in which a faulty environment fails, counted from 1


class Point(gymnasium.Env):
    """A point that is pushed about."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.number = self.np_random.normal(size=3), 0
        return self.seen(), {}

    def seen(self):
        return self.place.copy()

    def step(self, action):
        self.number += 1
        self.place[:2] += 0.1 * action
        return self.seen(), -float(np.abs(self.place[:2]).sum()), False, False, {}


class Faulty(Point):
    """Point whose answer is another one in step FAULT."""

    def step(self, action):
        answer = super().step(action)
        return self.fault(*answer) if self.number == FAULT else answer


class OldStep(Point):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class OldReset(Point):
    def reset(self, **arguments):
        return super().reset(**arguments)[0]


class OldNoSeed(Point):
    def reset(self):
        return super().reset()


class WithoutOptions(Point):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class NanReward(Faulty):
    def fault(self, observation, reward, *rest):
        return observation, np.nan, *rest


class NanRewardWhereAsked(Faulty):
    def fault(self, observation, reward, *rest):
        return observation, np.nan if os.environ.get("NAN_REWARD") else reward, *rest


class NoReward(Faulty):
    def fault(self, observation, reward, *rest):
        return observation, None, *rest


class TwoRewards(Faulty):
    def fault(self, observation, reward, *rest):
        return observation, np.zeros(2), *rest


class NanObservation(Faulty):
    def fault(self, observation, *rest):
        observation[1] = np.nan
        return observation, *rest


class HugeObservation(Faulty):
    def fault(self, observation, *rest):
        return observation * 1e300, *rest


class NanAtItsEnd(Faulty):
    def fault(self, observation, reward, terminated, truncated, info):
        return observation * np.nan, reward, True, truncated, info


class NoObservation(Faulty):
    def fault(self, observation, *rest):
        return None, *rest


class Words(Faulty):
    def fault(self, observation, *rest):
        return ["left", "right", "up"], *rest


class WrongShape(Point):
    def seen(self):
        return np.zeros(4)


class NoFlag(Faulty):
    def fault(self, observation, reward, terminated, *rest):
        return observation, reward, None, *rest


class Nothing(Faulty):
    def fault(self, *answer):
        return None


class Raises(Faulty):
    def fault(self, *answer):
        raise RuntimeError("the simulator\nbecame unstable")


class Leaves(Faulty):
    def fault(self, *answer):
        sys.exit("no licence")


class RaisesAtReset(Point):
    def reset(self, **arguments):
        raise KeyError("start")


class RaisesAtItsClose(Point):
    def close(self):
        raise RuntimeError("nothing to close")


class Arrays(Point):
    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return [*observation.tolist()], np.array([reward]), np.array([terminated]), np.bool_(truncated), None


class Unrepeatable(Point):
    """Point that starts anywhere, whatever the seed."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.random.default_rng().normal(size=3)
        return self.seen(), {}


class RaisesForOneSeed(Point):
    """Point that cannot begin the episode whose seed the environment variable RAISES_FOR gives."""

    def reset(self, *, seed=None, options=None):
        if str(seed) == os.environ["RAISES_FOR"]:
            raise ValueError("the seed is the one")
        return super().reset(seed=seed, options=options)


class NeedsArgument(Point):
    def __init__(self, size):
        self.size = size


class LeavesAtOnce(Point):
    def __init__(self):
        sys.exit(3)


class NotGymnasiums:
    action_space, observation_space = Point.action_space, Point.observation_space


class NoSpace(gymnasium.Env):
    action_space = Point.action_space


class Dictionary(Point):
    observation_space = spaces.Dict({"z": spaces.Box(-np.inf, np.inf, (1,)), "a": spaces.Box(-np.inf, np.inf, (2,))})

    def seen(self):
        return {"z": self.place[:1].astype(np.float32), "a": self.place[1:].astype(np.float32)}


class DictionaryWithoutItsPart(Dictionary):
    def seen(self):
        return {"z": super().seen()["z"]}


class Repaired(gymnasium.Wrapper):
    """A user's own wrapper that mends the old interface."""

    def step(self, action):
        observation, reward, done, info = self.env.step(action)
        return observation, reward, done, False, info


def repaired():
    return Repaired(OldStep())


for _thing in list(globals().values()):
    _own = isinstance(_thing, type) and _thing.__module__ == __name__ and not issubclass(_thing, gymnasium.Wrapper)
    if _own and _thing not in (Faulty,):
        gymnasium.register(f"{_thing.__name__}-v0", entry_point=_thing, max_episode_steps=LENGTH)
gymnasium.register("Repaired-v0", entry_point=repaired, max_episode_steps=LENGTH)
