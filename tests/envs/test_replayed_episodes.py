"""An episode of every simulator follows from its seed and its actions, in an environment that played others before."""

from __future__ import annotations

import numpy as np
import pytest

from iql.envs.registry import SIMULATORS, make

STEPS = 40


def played(env, seed: int, actions: np.ndarray) -> list[tuple]:
    observation, _ = env.reset(seed=seed)
    steps = [(observation.tobytes(),)]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((observation.tobytes(), float(reward), terminated, truncated, info.get("success")))
        if terminated or truncated:
            break
    return steps


@pytest.mark.parametrize("name", SIMULATORS)
def test_a_resumed_episode_is_the_same_to_the_bit(name):
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (STEPS, SIMULATORS[name].action_dim)).astype(np.float32)
    other = random.uniform(-1, 1, actions.shape).astype(np.float32)
    used, fresh = make(name), make(name)
    played(used, 3, other)
    seed = 5 + (
        7 << 31 if name.startswith("antmaze") else 0
    )  # which also holds the seed of a run, whose goal it shares
    one, again = played(used, seed, actions), played(fresh, seed, actions)
    assert one == again and len(one) > 5
    assert played(fresh, seed + 1, actions)[0] != one[0]
    knows = name.split("-")[0] not in ("hopper", "halfcheetah", "walker2d", "ant")
    assert (one[1][-1] is not None) == knows  # whether an episode succeeded, which regret is measured by
