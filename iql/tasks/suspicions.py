"""What in a dataset looks as if it were not what its user believes; each cost somebody days."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iql.episodes import qlearning_rows, trajectory_returns
from iql.tasks.rows import Rows
from iql.transitions import RETURN_RANGE

ALREADY = 1e-3
"""How near, relatively, a spread of returns must be to RETURN_RANGE to have been scaled to it."""

MANY = 0.01
"""Share of action entries beyond ±1 that is no rounding any more."""


def suspicions(data: Rows, reward: str, antmaze: bool = False) -> list[str]:
    """What is odd in the rows and in the reward transform that they are to get, a line each.

    antmaze  whether the task is known to reward its goal alone and to end there

    - Rewards that are 1 at a goal which ends the episode and 0 elsewhere, without the −1 of the paper's antmaze:
      all discounted returns are then nearly equal and nothing is learned.
    - Rewards that look transformed already, and would be once more.
    - Actions beyond ±1 that are too many to be rounding: another range was recorded.
    """
    rewards = data.rewards[~data.timeouts]  # a timeout's row may only hold the last observation, without a reward
    if not len(rewards):
        return []
    found = []
    values = np.unique(rewards[: 1 << 20])
    first = data.rewards[data.terminals][:1000]
    goals = len(values) == 2 and values.tolist() == [0, 1] and len(first) > 0 and bool((first == 1).all())
    if (goals or (antmaze and values.min() >= 0)) and reward != "minus_one":
        found.append(
            "its rewards are 1 at a goal that ends the episode and else 0, as antmaze's, for which the paper "
            "subtracts 1; without that training hardly gets anywhere: env.reward=minus_one"
        )
    if reward == "minus_one" and values.min() < 0 and values.max() <= 0:
        found.append(
            f"its rewards lie between {values.min():g} and {values.max():g}: 1 looks subtracted already, and "
            "env.reward=minus_one does it again; env.reward=none leaves them"
        )
    if reward == "return_range":
        rows = qlearning_rows(data.timeouts)
        spread = np.ptp(trajectory_returns(data.observations, data.rewards, data.terminals, rows)) if len(rows) else 0.0
        if abs(spread / RETURN_RANGE - 1) < ALREADY:
            found.append(
                f"its returns lie {spread:.4g} apart: they look scaled by 1000 / (Rmax − Rmin) already, so that "
                "the score of the data means nothing"
            )
    elif len(values) > 2 and abs(float(rewards.mean())) < ALREADY and abs(float(rewards.std()) - 1) < ALREADY:
        found.append("its rewards have mean 0 and standard deviation 1: they look normalised already")
    beyond = float(np.mean(np.abs(data.actions[: 1 << 20]) > 1))
    if beyond > MANY:
        found.append(
            f"{beyond:.0%} of its action entries lie beyond ±1, so they were recorded in other bounds, which clipping "
            "does not mend: scale them to ±1, or give the environment whose bounds they have (env=hdf5 env.gym_id=ID)"
        )
    return found


def version_suspicion(path: Path, name: str, url: str | None) -> str | None:
    """What is odd in taking the file `path` for the task `name`, by its name alone; None if nothing is.

    D4RL's versions of a task are other data: their scores do not mix. antmaze's v2 files end in `_fixed`.
    """
    if url is None or path.name == (own := url.rpartition("/")[2]):
        return None
    wanted, found = (re.search(r"-v(\d+)\b", text) for text in (name, path.stem))
    antmaze = "Ant_maze" in own and "Ant_maze" in path.name
    theirs = found[1] if found else ("2" if "_fixed" in path.stem else "0") if antmaze else None
    if wanted is None or theirs is None or theirs == wanted[1]:
        return None
    return (
        f"its name says version {theirs} where {name} is version {wanted[1]}: other data, whose scores do not "
        f"mix; {name}'s own file is {own}"
    )
