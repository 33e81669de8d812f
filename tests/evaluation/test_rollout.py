"""Rollouts: fixed episodes, whatever the number of environments; no step after an episode's end."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from iql.envs import registry
from iql.envs.vector import Lockstep
from iql.evaluation.pending import episode_seeds
from iql.evaluation.rollout import evaluate
from iql.networks.actors import Policy


def vector(make, num: int) -> SyncVectorEnv:
    return SyncVectorEnv([make] * num, autoreset_mode=AutoresetMode.DISABLED)


def lockstep(make, num: int) -> Lockstep:
    return Lockstep([make] * num)


class Counting(gymnasium.Env):
    """Ends after as many steps as its seed's draw says; each step's reward is its number."""

    steps = 0  # of all environments

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.step_number = int(self.np_random.integers(1, 9)), 0
        return np.array([self.length], np.float32), {}

    def step(self, action):
        assert self.step_number < self.length, "stepped after its end"
        self.step_number += 1
        Counting.steps += 1
        return (
            np.array([self.length], np.float32),
            float(self.step_number),
            self.step_number == self.length,
            False,
            {},
        )


@pytest.mark.parametrize("num", [1, 3, 10, 14, 16])
@pytest.mark.parametrize("envs", [vector, lockstep])
def test_returns_count_no_step_after_an_episodes_end(envs, num):
    seeds = [episode_seeds(seed, 5000, 7) for seed in (0, 1)]
    played = evaluate(lambda rows: np.zeros((*rows.shape[:2], 1)), envs(Counting, num), seeds, keep_observations=True)
    for member, episodes in zip(seeds, played, strict=True):
        lengths = [int(np.random.Generator(np.random.PCG64(seed)).integers(1, 9)) for seed in member]
        assert episodes.lengths.tolist() == lengths
        assert episodes.returns.tolist() == [n * (n + 1) / 2 for n in lengths]
        assert [len(seen) for seen in episodes.observations] == [n + 1 for n in lengths]


@pytest.mark.parametrize("num", [1, 3, 16])
def test_in_lockstep_no_environment_is_stepped_idly(num, monkeypatch):
    monkeypatch.setattr(Counting, "steps", 0)
    (played,) = evaluate(lambda rows: np.zeros((*rows.shape[:2], 1)), lockstep(Counting, num), [range(7)])
    assert Counting.steps == played.lengths.sum()


@pytest.mark.parametrize("simulator", ["hopper", "maze2d-umaze", "pen"])
def test_the_same_policy_gets_the_same_returns_bit_for_bit_with_any_number_of_environments(simulator):
    known = registry.SIMULATORS[simulator]
    policy = Policy(
        known.observation_dim,
        known.action_dim,
        [0, 1],
        [32, 32],
        "orthogonal",
        "gaussian",
        "tanh",
        None,
        (-5.0, 2.0),
    )

    def act(rows):
        with torch.no_grad():
            return torch.sin(40 * policy(torch.from_numpy(rows))[0]).numpy()  # restless, so that episodes differ

    seeds = [episode_seeds(seed, 1, 5) for seed in (0, 1)]

    def make():
        return registry.make(simulator)

    results = [evaluate(act, envs(make, num), seeds) for envs, num in ((vector, 1), (lockstep, 3), (lockstep, 10))]
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.returns.tobytes() == two.returns.tobytes()
            assert one.lengths.tolist() == two.lengths.tolist()
    assert len({value for episodes in results[0] for value in episodes.returns}) > 1


def test_an_unstable_simulation_leaves_no_file_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = registry.make("hopper")
    env.reset(seed=0)
    env.step(np.full(3, np.nan, np.float32))
    env.unwrapped.set_state(np.full(6, 1e9), np.full(6, 1e9))
    env.step(np.zeros(3, np.float32))
    assert list(tmp_path.iterdir()) == []
