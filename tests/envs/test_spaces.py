"""Spaces as flat vectors: in Gymnasium's own order, with actions scaled to ±1 and back."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

from iql.envs import spaces
from iql.envs.spaces import ActionScale
from iql.errors import UserError

FLAT = Box(-np.inf, np.inf, (3,), np.float64)
NESTED = Dict(
    {
        "observation": FLAT,
        "achieved_goal": Dict({"kettle": Box(-1, 1, (2, 2), np.float32), "door": Box(-1, 1, (), np.float32)}),
        "pressed": MultiBinary(4),
        "mode": Discrete(3, start=-1),
        "digits": MultiDiscrete([[2, 3], [4, 1]], start=[[0, 5], [-2, 0]]),
        "pair": Tuple((Discrete(2), Box(0, 9, (1,), np.int64))),
    }
)


def stacked(space: Space, values: list[Any]) -> Any:
    """Values of several steps as Minari keeps them: an array for each leaf."""
    if isinstance(space, Dict):
        return {key: stacked(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(stacked(part, [value[place] for value in values]) for place, part in enumerate(space.spaces))
    return np.stack(values)


class Echo(gymnasium.Env):
    """Shows what it was told: `told` is its last action."""

    def __init__(self, observations: Space, actions: Space):
        self.observation_space, self.action_space = observations, actions
        self.told: Any = None

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.told = action
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("space", [FLAT, NESTED, NESTED["digits"], NESTED["mode"], NESTED["pair"]], ids=str)
def test_steps_are_flattened_as_gymnasium_flattens_each(space):
    space.seed(0)
    values = [space.sample() for _ in range(20)]
    flat = spaces.flatten(space, stacked(space, values))
    assert flat.dtype == np.float32
    assert np.array_equal(flat, np.stack([gymnasium.spaces.flatten(space, value) for value in values]).astype("f4"))


@pytest.mark.parametrize("value", [-2, 2])
def test_a_discrete_number_outside_its_space_is_refused(value):
    with pytest.raises(ValueError, match=r"outside their space of \[3\]"):
        spaces.flatten(Discrete(3, start=-1), np.array([0, value]))


def test_an_environment_is_flattened_in_the_order_of_the_datas_space():
    near, far = Box(0, 1, (2,)), Box(-9, -8, (3,))
    recorded, own = Dict({"a": near, "b": far}), Dict(OrderedDict(b=far, extra=near, a=near))
    env = spaces.flat_env(Echo(own, Box(-1, 1, (2,))), ActionScale(-np.ones(2), np.ones(2)), recorded)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == observation.shape == (5,)
    assert (observation[:2] >= 0).all() and (observation[2:] <= -8).all()
    assert spaces.fits(recorded, own) and not spaces.fits(own, recorded)


@pytest.mark.parametrize(
    ("recorded", "own"),
    [
        (FLAT, Box(-1, 1, (4,))),
        (Dict({"a": FLAT}), FLAT),
        (Dict({"a": FLAT}), Dict({"b": FLAT})),
        (Tuple((FLAT, FLAT)), Tuple((FLAT,))),
        (Discrete(3), Discrete(4)),
        (Discrete(3), Box(0, 2, (1,))),
    ],
    ids=str,
)
def test_spaces_of_other_parts_kinds_or_sizes_do_not_fit(recorded, own):
    assert spaces.fits(recorded, recorded)
    assert not spaces.fits(recorded, own)


@pytest.mark.parametrize("low, high", [(-2, 2), ([-0.4, 0, 5], [0.4, 10, 5.5])])
def test_actions_are_scaled_to_unit_bounds_and_back(low, high):
    space = Box(np.broadcast_to(np.float32(low), 3), np.broadcast_to(np.float32(high), 3))
    space.seed(0)
    recorded = np.stack([space.low, space.high, *[space.sample() for _ in range(50)]])
    actions = recorded.copy()
    scale = ActionScale.of(space, actions)
    scale.to_unit(actions)
    assert (actions[0] == -1).all() and (actions[1] == 1).all() and np.abs(actions).max() == 1
    env = Echo(FLAT, space)
    flat = spaces.flat_env(env, scale)
    assert flat.action_space == Box(-1, 1, (3,), np.float32)
    for given, wanted in zip(actions, recorded, strict=True):
        flat.step(given)
        assert env.told.dtype == np.float32
        assert env.told == pytest.approx(wanted, abs=2e-6)
        assert space.contains(env.told)


def test_actions_within_unit_bounds_are_left_alone_bit_for_bit():
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (50, 2)).astype(np.float32)
    before = actions.copy()
    scale = ActionScale.of(Box(-1, 1, (2,)), actions)
    scale.to_unit(actions)
    assert scale.unit and np.array_equal(actions, before)


def test_bounds_that_are_none_are_those_of_the_data():
    space = Box(np.float32([-np.inf, -3e38, 0, -np.inf]), np.float32([np.inf, 3e38, np.inf, np.inf]))
    actions = np.float32([[1, 10, 2, 7], [3, 20, 4, 7], [2, 15, 3, 7]])
    scale = ActionScale.of(space, actions)
    scale.to_unit(actions)
    assert actions[:, :3].tolist() == [[-1, -1, 0], [1, 1, 1], [0, 0, 0.5]]
    assert (np.abs(actions[:, 3]) <= 1).all()
    assert scale.from_unit(actions[0]).tolist() == [1, 10, 2, 7]


def test_an_action_far_beyond_its_bounds_stays_beyond_and_rounding_does_not():
    scale = ActionScale(np.zeros(1), np.full(1, 3.0))
    actions = np.float32([[3.000002], [6], [-0.000002]])
    scale.to_unit(actions)
    assert actions.tolist() == [[1], [3], [-1]]


def test_actions_of_several_parts_reach_the_environment_in_its_form():
    space = Dict({"arm": Box(-2, 2, (2,)), "gripper": Tuple((Box(0, 1, (1, 1)),))})
    env = Echo(FLAT, space)
    scale = ActionScale.of(space, np.zeros((1, 3), np.float32))
    spaces.flat_env(env, scale).step(np.float32([-1, 0.5, 1]))
    assert env.told["arm"].tolist() == [-2, 1] and env.told["gripper"][0].tolist() == [[1]]
    assert space.contains(env.told)


@pytest.mark.parametrize(
    ("observations", "actions", "complaint"),
    [
        (FLAT, Discrete(4, start=1), "begin at 1; they must begin at 0"),
        (FLAT, MultiDiscrete([2, 2]), "one discrete choice"),
        (FLAT, MultiBinary(3), "one discrete choice"),
        (FLAT, Dict({"a": Box(-1, 1, (2,)), "b": Discrete(2)}), "one discrete choice"),
        (FLAT, Box(0, 5, (2,), np.int64), "one discrete choice"),
        (Box(0, 255, (64, 64, 3), np.uint8), Box(-1, 1, (2,)), "images"),
        (Box(0, 255, (84, 84), np.uint8), Box(-1, 1, (2,)), "images"),
        (Dict({"pixels": Box(0, 1, (3, 64, 64), np.float32)}), Box(-1, 1, (2,)), "images"),
        (Dict({"mission": Text(9)}), Box(-1, 1, (2,)), "cannot be made into a vector"),
    ],
    ids=str,
)
def test_spaces_that_cannot_be_learned_are_refused(observations, actions, complaint):
    with pytest.raises(UserError, match=f"^DATA: .*{complaint}") as caught:
        spaces.check(observations, actions, "DATA")
    assert "\n" not in str(caught.value)


def test_the_largest_entry_is_the_discrete_action():
    env = Echo(FLAT, Discrete(4))
    spaces.check(FLAT, env.action_space, "DATA")
    flat = spaces.flat_env(env, None)
    assert flat.action_space.shape == (4,)
    flat.reset(seed=0)
    for entries, number in (([0, 0, 1, 0], 2), ([0, 0, 0, 0], 0), ([-1, -2, -3, -0.5], 3)):
        flat.step(np.float32(entries))
        assert env.told == number and env.action_space.contains(env.told)


def test_a_matrix_of_numbers_is_no_image():
    spaces.check(Box(-1, 1, (40, 3)), Box(-1, 1, (2, 2), np.float64), "DATA")
