"""What in a dataset looks as if it were not what its user believes; each cost somebody days."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iql.episodes import qlearning_rows, trajectory_returns
from iql.tasks.rows import Rows
from iql.transitions import BLOCK, RETURN_RANGE, observation_statistics

ALREADY = 1e-3
"""How near, relatively, a spread of returns must be to RETURN_RANGE to have been scaled to it."""

MANY = 0.01
"""Share of action entries beyond ±1 that is no rounding any more."""

MOSTLY = 0.5
"""Share of terminal rows from which on they look like their opposite."""

LARGE = 1000.0
"""From here on numbers are too large for the networks to learn from as they are."""

STEPS = 1000
"""So many steps of float32 a standard deviation must have to be told apart from rounding."""

LOOKED_AT = 1 << 20
"""Rows at most that are looked at where some are enough."""


def suspicions(data: Rows, reward: str, antmaze: bool = False, normalize: bool = False) -> list[str]:
    """What is odd in the rows and in the transforms that they are to get, a line each.

    antmaze    whether the task is known to reward its goal alone and to end there
    normalize  whether observations will be normalised
    """
    return [*_of_ends(data), *_of_rewards(data, reward, antmaze), *_of_scales(data, normalize), *_of_actions(data)]


def _of_ends(data: Rows) -> list[str]:
    """Successors that the file's own contradict, and a file in which no episode ends."""
    if data.contradicted:
        ended = int(np.count_nonzero((data.terminals | data.timeouts)[:-1]))
        return [
            f"in {data.contradicted:,} of {len(data) - 1 - ended:,} rows whose episode goes on by its flags, "
            "next_observations are not the next row's observations: ends of episodes that no flag marks, or rows of "
            "several episodes in turn. The next row is taken all the same, as D4RL does; env.next_observations=file "
            "takes the file's own"
        ]
    if data.contradicted is None and not (data.terminals.any() or data.timeouts.any()):
        return [
            f"no row ends an episode: all {len(data):,} are read as one, and where it was several, a row's successor "
            "belongs to another; timeouts (1 in the last row of an episode) mark ends, or env.horizon=STEPS"
        ]
    if (share := float(data.terminals.mean())) > MOSTLY:
        return [
            f"{share:.0%} of its rows are terminal: if these are masks (1 − terminals, 0 where an episode ends), turn "
            "them round on file"
        ]
    return []


def _of_rewards(data: Rows, reward: str, antmaze: bool) -> list[str]:
    """Rewards that lack a transform, had it already, or are too large.

    Where they are 1 at a goal which ends the episode and 0 elsewhere, without the −1 of the paper's antmaze, all
    discounted returns are nearly equal and nothing is learned.
    """
    rewards = data.rewards[~data.timeouts]  # a timeout's row may only hold the last observation, without a reward
    if not len(rewards):
        return []
    found = []
    values = np.unique(rewards[:LOOKED_AT])
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
    largest = float(np.abs(values).max())
    if reward == "return_range":
        rows = qlearning_rows(data.timeouts)
        spread = np.ptp(trajectory_returns(data.observations, data.rewards, data.terminals, rows)) if len(rows) else 0.0
        if abs(spread / RETURN_RANGE - 1) < ALREADY:
            found.append(
                f"its returns lie {spread:.4g} apart: they look scaled by 1000 / (Rmax − Rmin) already, so that "
                "the score of the data means nothing"
            )
    elif largest > LARGE:
        found.append(
            f"its rewards reach {largest:.3g}, and Q sums many of them, too large for the networks to learn: "
            "env.reward=return_range scales returns to a range of 1000, or scale rewards to about 1 on file"
        )
    elif len(values) > 2 and abs(float(rewards.mean())) < ALREADY and abs(float(rewards.std()) - 1) < ALREADY:
        found.append("its rewards have mean 0 and standard deviation 1: they look normalised already")
    return found


def _of_scales(data: Rows, normalize: bool) -> list[str]:
    """Observations too large for the networks, or of which float32 keeps too little."""
    blocks = range(0, len(data), BLOCK)
    largest = np.max([np.abs(data.observations[first : first + BLOCK]).max(0) for first in blocks], axis=0)
    if not (largest > LARGE).any():
        return []
    found = []
    if not normalize:
        entry = int(largest.argmax())
        found.append(
            f"entry {entry} of its observations reaches {largest[entry]:.3g}{_others(largest > LARGE)}, too large for "
            "the networks to learn from: env.normalize=true shifts and scales all to mean 0 and standard deviation 1"
        )
    mean, std = observation_statistics(data.observations[:LOOKED_AT], np.arange(min(len(data), LOOKED_AT)))
    lost = (std < STEPS * np.spacing(np.abs(mean))) & (largest > LARGE)
    if lost.any():
        entry = int(np.flatnonzero(lost)[0])
        found.append(
            f"entry {entry} of its observations lies around {mean[entry]:.3g} and varies by {std[entry]:.2g}"
            f"{_others(lost)}: float32 keeps steps of {np.spacing(np.abs(mean[entry])):.1g} there, so subtract the "
            "offset before it is written"
        )
    return found


def _others(concerned: np.ndarray) -> str:
    more = int(np.count_nonzero(concerned)) - 1
    return f" (so {'does' if more == 1 else 'do'} {more} more)" if more else ""


def _of_actions(data: Rows) -> list[str]:
    """Actions of another range than ±1, and such that look discrete."""
    actions = data.actions[:LOOKED_AT]
    beyond = float(np.mean(np.abs(actions) > 1))
    if (actions == np.rint(actions)).all() and len(values := np.unique(actions)) > 1 and values.min() >= 0:
        return [
            f"all of its actions are whole numbers ({', '.join(f'{value:g}' for value in values[:5])}"
            f"{', …' if len(values) > 5 else ''}): they look discrete, and IQL here learns continuous control only"
        ]
    if beyond > MANY:
        return [
            f"{beyond:.0%} of its action entries lie beyond ±1, so they were recorded in other bounds, which clipping "
            "does not mend: scale them to ±1, or give the environment whose bounds they have (env=hdf5 env.gym_id=ID)"
        ]
    return []


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
