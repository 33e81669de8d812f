"""Checks for data that can be read but may not be what its user believes: each finding is a warning of one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iql.data.trajectories import qlearning_rows, trajectory_returns
from iql.data.transitions import BLOCK, RETURN_RANGE, observation_statistics
from iql.dataset_files.rows import Rows

SCALED_TOLERANCE = 1e-3
"""Largest relative difference to RETURN_RANGE of a spread of returns that looks scaled to it."""

MAX_BEYOND = 0.01
"""Largest share of action entries beyond ±1 that rounding explains."""

MAX_TERMINAL = 0.5
"""Largest share of terminal rows; above it the flags look inverted."""

MAX_MAGNITUDE = 1000.0
"""Largest number that the networks learn from as it is."""

MIN_STEPS = 1000
"""The fewest steps of float32 within a standard deviation that rounding does not hide."""

MAX_ROWS = 1 << 20
"""The most rows that are read where a part is enough."""


def data_warnings(
    data: Rows, reward: str, antmaze: bool = False, normalize: bool = False, discrete: bool = False
) -> list[str]:
    """A line for each finding in the rows and in the transforms that they are to get.

    antmaze    whether the task rewards reaching its goal only, and ends there
    normalize  whether observations will be normalised
    discrete   whether actions are one-hot
    """
    return [
        *_check_ends(data),
        *_check_rewards(data, reward, antmaze),
        *_check_scales(data, normalize),
        *(_check_choices(data) if discrete else _check_actions(data)),
    ]


def _check_ends(data: Rows) -> list[str]:
    """Successors that next_observations contradict, flags that look inverted, and a file in which no episode ends."""
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
    if (share := float(data.terminals.mean())) > MAX_TERMINAL:
        return [
            f"{share:.0%} of its rows are terminal: if these are masks (1 − terminals, 0 where an episode ends), turn "
            "them round on file"
        ]
    return []


def _check_rewards(data: Rows, reward: str, antmaze: bool) -> list[str]:
    """Rewards that need a transform, seem to have had it already, or are too large.

    Where they are 1 at a goal which ends the episode and 0 elsewhere, without the −1 of the paper's antmaze, all
    discounted returns are nearly equal and nothing is learned.
    """
    rewards = data.rewards[~data.timeouts]  # a timeout's row may only hold the last observation, without a reward
    if not len(rewards):
        return []
    found = []
    values = np.unique(rewards[:MAX_ROWS])
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
        if abs(spread / RETURN_RANGE - 1) < SCALED_TOLERANCE:
            found.append(
                f"its returns lie {spread:.4g} apart: they look scaled by 1000 / (Rmax − Rmin) already, so that "
                "the score of the data means nothing"
            )
    elif largest > MAX_MAGNITUDE:
        found.append(
            f"its rewards reach {largest:.3g}, and Q sums many of them, too large for the networks to learn: "
            "env.reward=return_range scales returns to a range of 1000, or scale rewards to about 1 on file"
        )
    elif (
        len(values) > 2
        and abs(float(rewards.mean())) < SCALED_TOLERANCE
        and abs(float(rewards.std()) - 1) < SCALED_TOLERANCE
    ):
        found.append("its rewards have mean 0 and standard deviation 1: they look normalised already")
    return found


def _check_scales(data: Rows, normalize: bool) -> list[str]:
    """Observations too large for the networks, or too large for the precision of float32."""
    blocks = range(0, len(data), BLOCK)
    largest = np.max([np.abs(data.observations[first : first + BLOCK]).max(0) for first in blocks], axis=0)
    if not (largest > MAX_MAGNITUDE).any():
        return []
    found = []
    if not normalize:
        entry = int(largest.argmax())
        found.append(
            f"entry {entry} of its observations reaches {largest[entry]:.3g}{_others(largest > MAX_MAGNITUDE)}, "
            "too large for the networks to learn from: env.normalize=true shifts and scales all to mean 0 and standard "
            "deviation 1"
        )
    mean, std = observation_statistics(data.observations[:MAX_ROWS], np.arange(min(len(data), MAX_ROWS)))
    lost = (std < MIN_STEPS * np.spacing(np.abs(mean))) & (largest > MAX_MAGNITUDE)
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


def _check_actions(data: Rows) -> list[str]:
    """Actions of another range than ±1, and actions that look discrete."""
    actions = data.actions[:MAX_ROWS]
    beyond = float(np.mean(np.abs(actions) > 1))
    if (actions == np.rint(actions)).all() and len(values := np.unique(actions)) > 1 and values.min() >= 0:
        return [
            f"all of its actions are whole numbers ({', '.join(f'{value:g}' for value in values[:5])}"
            f"{', …' if len(values) > 5 else ''}): they look discrete; saved as integers they are, with "
            "network=discrete"
        ]
    if beyond > MAX_BEYOND:
        return [
            f"{beyond:.0%} of its action entries lie beyond ±1, so they were recorded in other bounds, which clipping "
            "does not mend: scale them to ±1, or give the environment whose bounds they have (env=hdf5 env.gym_id=ID)"
        ]
    return []


def _check_choices(data: Rows) -> list[str]:
    """Discrete actions of which the data tells nothing; actions are one-hot."""
    taken: np.ndarray = np.any(data.actions, axis=0)
    if taken.sum() == 1:
        return [f"every row's action is {int(taken.argmax())}: there is nothing to choose between"]
    if len(missing := np.flatnonzero(~taken)):
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        return [
            f"{len(missing)} of its {len(taken)} actions never occur ({shown}): nothing is learned of them, and their "
            "Q means nothing"
        ]
    return []


def version_warning(path: Path, name: str, url: str | None) -> str | None:
    """A warning for a file whose name says another version than that of the task `name`; None otherwise.

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
