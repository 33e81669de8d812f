"""Rows of a dataset, checked while they are read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iql.data.trajectories import horizon_timeouts
from iql.data.transitions import BLOCK
from iql.dataset_files.columns import KEYS, Column, describe
from iql.errors import UserError


@dataclass(frozen=True)
class Rows:
    """A file's rows, all finite. Row i + 1 is the successor of row i, unless i is a timeout.

    observations  [R, observation_dim] float32
    actions       [R, action_dim] float32, as on file; [R] int64 where whole numbers are on file, discrete actions
    rewards       [R] float32
    terminals     [R] bool
    timeouts      [R] bool
    contradicted  number of rows within an episode whose next_observations are not row i + 1's observations; None where
                  the file has none, or they were not compared
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    contradicted: int | None = None

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True)
class Episode:
    """T steps with the observations before, between and after them.

    observations  [T + 1, observation_dim]
    actions       [T, action_dim]
    rewards       [T]
    terminals     [T] bool
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray


def require(columns: Mapping[str, Column], keys: Iterable[str], source: Path | str) -> None:
    """Raise UserError unless all `keys` are arrays of numbers of one length above zero."""
    keys = list(keys)
    for key in keys:
        if columns[key].dtype.kind not in "fiub" or columns[key].ndim == 0:
            raise UserError(f"{source}: {key} is {describe(columns[key])}, not an array of numbers")
    lengths = {key: len(columns[key]) for key in keys}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length:,}" for key, length in lengths.items())
        raise UserError(f"{source}: the arrays disagree in rows: {listed}; each row needs all of them")
    if not lengths[keys[0]]:
        raise UserError(f"{source} has zero rows: there is nothing to learn from")


def take(columns: Mapping[str, Column], source: Path | str, horizon: int | None) -> Rows:
    """The rows of columns in D4RL's layout, with the next row as successor; next_observations are ignored.

    Rewards and flags may be [R] or [R, 1], flags of any numeric type. Without `timeouts` every
    `horizon`-th row of an episode is one (None: none is). h5py's datasets are converted to float32 while
    they are read, so that the dataset is in memory once. Raises UserError naming `source` and what is
    wrong in it.
    """
    timed = "timeouts" in columns
    require(columns, (*KEYS, "timeouts") if timed else KEYS, source)
    terminals = flags(columns["terminals"], "terminals", source)
    if timed:
        timeouts = flags(columns["timeouts"], "timeouts", source)
    elif horizon is not None:
        timeouts = horizon_timeouts(terminals, horizon)
    else:
        timeouts = np.zeros(len(terminals), bool)
    return Rows(
        table(columns["observations"], "observations", source),
        actions(columns["actions"], source),
        column(columns["rewards"], "rewards", source),
        terminals,
        timeouts,
    )


def join(episodes: Iterable[Episode], capacity: int) -> Rows:
    """The rows of episodes one after the other, at most `capacity` of them with the closing rows.

    A truncated episode is closed by an added row with its last observation, a timeout with the last action and reward
    0, so that the row before it has its successor. After a terminal none is needed, except at the very end, since no
    transition can start from the last row; there it is no timeout, and so no episode of its own.
    """
    rows: Rows | None = None
    end = 0
    for episode in episodes:
        if not (steps := len(episode.rewards)):
            continue
        if rows is None:
            widths = episode.observations.shape[1], episode.actions.shape[1]
            rows = Rows(
                np.zeros((capacity, widths[0]), np.float32),
                np.zeros((capacity, widths[1]), np.float32),
                np.zeros(capacity, np.float32),
                np.zeros(capacity, bool),
                np.zeros(capacity, bool),
            )
        if (need := end + steps + 1) > capacity:
            raise UserError(f"the episodes have {need:,} rows or more, {capacity:,} were declared")
        rows.observations[end : end + steps + 1] = episode.observations
        rows.actions[end : end + steps] = episode.actions
        rows.actions[end + steps] = episode.actions[-1]
        rows.rewards[end : end + steps] = episode.rewards
        rows.terminals[end : end + steps] = episode.terminals
        rows.timeouts[end + steps] = not episode.terminals[-1]
        closed = end + steps + 1
        end = end + steps if episode.terminals[-1] else closed
    if rows is None:
        raise UserError("no episode has a step: there is nothing to learn from")
    return Rows(
        rows.observations[:closed],
        rows.actions[:closed],
        rows.rewards[:closed],
        rows.terminals[:closed],
        rows.timeouts[:closed],
    )


def table(data: Column, key: str, source: Path | str) -> np.ndarray:
    """[R, entries] float32, all finite. Raises UserError."""
    if data.ndim != 2:
        images = "; images are not read" if data.ndim > 2 and data.dtype == np.uint8 else ""
        raise UserError(f"{source}: {key} is {describe(data)} where [rows, entries] is needed{images}")
    return _finite(data, key, source)


def actions(data: Column, source: Path | str) -> np.ndarray:
    """Continuous actions [R, entries] float32, all finite; of a type of whole numbers discrete ones, [R] int64.

    Raises UserError.
    """
    if data.dtype.kind == "f":
        return table(data, "actions", source)
    if data.ndim != 1 and data.shape[1:] != (1,):
        raise UserError(
            f"{source}: actions is {describe(data)}; discrete actions are one whole number a row, [rows] or [rows, 1]. "
            "If they are continuous, save them as floating-point numbers"
        )
    return np.asarray(data[...]).astype(np.int64).reshape(-1)


def column(data: Column, key: str, source: Path | str) -> np.ndarray:
    """[R] float32, all finite, of [R] or [R, 1]. Raises UserError."""
    if data.ndim != 1 and data.shape[1:] != (1,):
        raise UserError(f"{source}: {key} is {describe(data)} where [rows] or [rows, 1] is needed")
    return _finite(data, key, source).reshape(-1)


def flags(data: Column, key: str, source: Path | str) -> np.ndarray:
    """[R] bool of numbers that are 0 or 1. Raises UserError."""
    values = column(data, key, source)
    if len(odd := np.flatnonzero((values != 0) & (values != 1))):
        raise UserError(f"{source}: {key} holds {values[odd[0]]:g} in row {odd[0]:,}; only 0 and 1 have a meaning")
    return values.astype(bool)


def check_finite(values: np.ndarray, key: str, source: Path | str) -> None:
    """Raise UserError naming the first row of values [R, …] that holds NaN or an infinite value."""
    for first in range(0, len(values), BLOCK):
        block = values[first : first + BLOCK]
        if not np.isfinite(block).all():
            row = int(np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(1))[0])
            what = "NaN" if np.isnan(block[row]).any() else "an infinite value (in float32)"
            raise UserError(
                f"{source}: {key} holds {what}, first in row {first + row:,}; remove those episodes "
                "or get the file again"
            )


def _finite(data: Column, key: str, source: Path | str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot represent becomes infinite and is reported as such
        values = np.asarray(data.astype(np.float32)[...])
    check_finite(values, key, source)
    return values
