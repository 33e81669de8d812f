"""Gymnasium's CartPole-v1 with generated data: the example of a task with discrete actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from iql.errors import UserError
from iql.system.data_cache import generated_path
from iql.tasks.file import FileTask
from iql.tasks.generated import made

RECIPE = 1
"""The version of the data, see tasks.generated."""

ENVIRONMENT = "CartPole-v1"
ANGLE = 2
"""The entry of an observation that is the pole's angle."""


class MadeCartPole(FileTask):
    """CartPole-v1 on data made by a simple controller that is mixed with random actions.

    made_rows    number of steps to generate
    made_seed    seed of the episodes' starts and of the random actions
    made_random  share of steps whose action is random
    path         a file of the user's own instead, or None

    The other arguments are FileTask's.
    """

    def __init__(
        self, made_rows: int, made_seed: int, made_random: float, path: str | Path | None, **task: Any
    ) -> None:
        own = generated_path(task["name"], made_rows, made_seed, random_share=made_random)
        super().__init__(path=own if path is None else path, gym_id=ENVIRONMENT, **task)
        self.custom = path is not None
        self.made_rows, self.made_seed, self.made_random = made_rows, made_seed, made_random

    def locate(self) -> Path:
        """The file in the cache, generated now if there is none or it is damaged. Raises UserError."""
        if self.custom:
            return super().locate()
        make = partial(make_data, self.made_rows, self.made_seed, self.made_random)
        return made(Path(self.path), RECIPE, self.made_rows, make)


def make_data(
    rows: int, seed: int, random_share: float, progress: Callable[[int], None] = lambda _: None
) -> dict[str, np.ndarray]:
    """Episodes of CartPole-v1 in D4RL's layout, actions [rows] int64.

    The controller pushes to the side to which the pole leans, whatever its speed; with probability `random_share` the
    action of a step is drawn instead, both being equally likely. Raises UserError for an installed Gymnasium without
    the environment.
    """
    try:
        env = gymnasium.make(ENVIRONMENT)
    except gymnasium.error.Error as error:
        raise UserError(f"{ENVIRONMENT} cannot be made ({error}): pip install gymnasium") from error
    draws = np.random.default_rng(seed)
    observations, actions = np.zeros((rows, 4), np.float32), np.zeros(rows, np.int64)
    terminals, timeouts = np.zeros(rows, bool), np.zeros(rows, bool)
    over = True
    for row in range(rows):
        if over:
            observation, _ = env.reset(seed=int(draws.integers(2**31)))
            progress(row)
        observations[row] = observation
        guided = int(observation[ANGLE] > 0)
        actions[row] = draws.integers(2) if draws.random() < random_share else guided
        observation, _, terminals[row], timeouts[row], _ = env.step(actions[row])
        over = bool(terminals[row] or timeouts[row])
    env.close()
    progress(rows)
    return {
        "observations": observations,
        "actions": actions,
        "rewards": np.ones(rows, np.float32),
        "terminals": terminals,
        "timeouts": timeouts & ~terminals,
    }
