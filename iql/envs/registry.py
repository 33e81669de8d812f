"""The simulators by name, with their sizes and horizons; their modules are imported when they are made."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

import gymnasium

from iql.envs.d4rl.physics import PROFILES, log_warnings
from iql.errors import UserError


@dataclass(frozen=True)
class Simulator:
    """The module of a simulator, and its sizes.

    module           has make(name, physics) → gymnasium.Env; imported only when the simulator is made
    observation_dim  entries of an observation
    action_dim       entries of an action, each within ±1
    horizon          steps after which an episode is truncated
    """

    module: str
    observation_dim: int
    action_dim: int
    horizon: int


SIMULATORS: dict[str, Simulator] = {
    "hopper": Simulator("iql.envs.d4rl.locomotion", 11, 3, 1000),
    "halfcheetah": Simulator("iql.envs.d4rl.locomotion", 17, 6, 1000),
    "walker2d": Simulator("iql.envs.d4rl.locomotion", 17, 6, 1000),
    "ant": Simulator("iql.envs.d4rl.ant", 111, 8, 1000),
    "antmaze-umaze": Simulator("iql.envs.d4rl.antmaze", 29, 8, 700),
    "antmaze-medium": Simulator("iql.envs.d4rl.antmaze", 29, 8, 1000),
    "antmaze-large": Simulator("iql.envs.d4rl.antmaze", 29, 8, 1000),
    "maze2d-umaze": Simulator("iql.envs.d4rl.maze2d", 4, 2, 300),
    "maze2d-medium": Simulator("iql.envs.d4rl.maze2d", 4, 2, 600),
    "maze2d-large": Simulator("iql.envs.d4rl.maze2d", 4, 2, 800),
    "maze2d-umaze-dense": Simulator("iql.envs.d4rl.maze2d", 4, 2, 300),
    "maze2d-medium-dense": Simulator("iql.envs.d4rl.maze2d", 4, 2, 600),
    "maze2d-large-dense": Simulator("iql.envs.d4rl.maze2d", 4, 2, 800),
    "maze2d-medium-stitch": Simulator("iql.envs.d4rl.maze2d", 4, 2, 120),
    "door": Simulator("iql.envs.d4rl.adroit", 39, 28, 200),
    "hammer": Simulator("iql.envs.d4rl.adroit", 46, 26, 200),
    "pen": Simulator("iql.envs.d4rl.adroit", 45, 24, 100),
    "relocate": Simulator("iql.envs.d4rl.adroit", 39, 30, 200),
    "kitchen-complete": Simulator("iql.envs.d4rl.kitchen", 60, 9, 280),
    "kitchen-partial": Simulator("iql.envs.d4rl.kitchen", 60, 9, 280),
    "kitchen-mixed": Simulator("iql.envs.d4rl.kitchen", 60, 9, 280),
}


def make(simulator: str, physics: str = "d4rl", horizon: int | None = None) -> gymnasium.Env:
    """The simulator as a Gymnasium environment that truncates at `horizon` (None: its own).

    An episode depends on its seed and actions alone. Observations are Box [observation_dim] float64, actions Box ±1
    [action_dim] float32 and expected within the box. `.unwrapped.set_state(qpos, qvel)` sets its state.
    Raises UserError for an unknown simulator or physics profile.
    """
    if simulator not in SIMULATORS:
        near = difflib.get_close_matches(simulator, SIMULATORS, n=3, cutoff=0.4) or sorted(SIMULATORS)
        raise UserError(f"no simulator is called {simulator!r}; nearest: {', '.join(near)}")
    if physics not in PROFILES:
        raise UserError(f"physics={physics!r} is unknown; choose {' or '.join(PROFILES)}")
    log_warnings()
    entry = SIMULATORS[simulator]
    env = importlib.import_module(entry.module).make(simulator, physics)
    return gymnasium.wrappers.TimeLimit(env, max_episode_steps=horizon or entry.horizon)
