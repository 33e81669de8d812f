"""Lockstep: gymnasium's vector environment, but ended environments rest."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from iql.envs.vector import Lockstep


class Walk(gymnasium.Env):
    """Says where it is; falls over at 3 and tires at 5."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options, self.place, self.steps = options, float(seed or 0), 0
        return np.array([self.place, 0.0]), {"said": 1}

    def step(self, action):
        self.place, self.steps = self.place + float(action[0]), self.steps + 1
        return np.array([self.place, self.steps]), self.place, self.place >= 3, self.steps >= 5, {"said": 1}


def test_an_ended_environment_rests_until_it_is_reset():
    envs = Lockstep([Walk] * 2)
    assert envs.ended.all()
    observations, _ = envs.reset(seed=[2, 0])
    assert observations.tolist() == [[2, 0], [0, 0]]
    observations, rewards, terminated, truncated, _ = envs.step(np.ones((2, 1), np.float32))
    assert (rewards.tolist(), terminated.tolist(), truncated.any()) == ([3, 1], [True, False], False)
    observations, rewards, terminated, _, _ = envs.step(np.ones((2, 1), np.float32))
    assert observations.tolist() == [[3, 1], [2, 2]]
    assert (rewards.tolist(), terminated.tolist(), envs.ended.tolist()) == ([0, 2], [True, False], [True, False])
    observations, _ = envs.reset(seed=[1, 9], options={"reset_mask": np.array([True, False]), "wind": 2})
    assert observations.tolist() == [[1, 0], [2, 2]]
    assert envs.envs[0].options == {"wind": 2}
    for _ in range(3):
        *_, truncated, _ = envs.step(np.zeros((2, 1), np.float32))
    assert truncated.tolist() == [False, True]


def test_what_it_gave_stays_as_it_was():
    envs = Lockstep([Walk])
    before, _ = envs.reset(seed=1)
    after, *_ = envs.step(np.ones((1, 1), np.float32))
    assert (before.tolist(), after.tolist()) == ([[1, 0]], [[2, 1]])


def test_as_many_seeds_as_environments():
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        Lockstep([Walk] * 2).reset(seed=[1, 2, 3])
