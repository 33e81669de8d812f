"""Discrete actions, whole numbers on file, as the one-hot vectors that are learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from iql.dataset_files.rows import Rows
from iql.errors import UserError

MOST = 4096
"""The most actions: in memory each row has an entry for every action, 4 bytes."""


def is_discrete(rows: Rows) -> bool:
    """Whether a file's actions are whole numbers."""
    return rows.actions.dtype.kind != "f"


def refuse(rows: Rows, source: Path | str, task: str) -> None:
    """Raise UserError if a file for a task with continuous actions has discrete ones."""
    if is_discrete(rows):
        raise UserError(
            f"{source}: actions are whole numbers, discrete ones, where {task} takes continuous ones; if they are "
            "continuous, save them as floating-point numbers"
        )


def one_hot(rows: Rows, count: int | None, source: Path | str) -> Rows:
    """The rows with actions [R, count] float32 in place of whole numbers within 0 … count − 1.

    count: the number of actions, None: one more than the largest in the rows. Raises UserError.
    """
    numbers = rows.actions
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or (count is not None and high >= count):
        row = int(np.flatnonzero((numbers < 0) | (numbers >= (high + 1 if count is None else count)))[0])
        range_of = "0, 1, 2, …" if count is None else f"0 … {count - 1}"
        raise UserError(
            f"{source}: the action in row {row:,} is {numbers[row]}, and discrete actions here are {range_of}; "
            "number them so on file"
        )
    count = max(2, high + 1) if count is None else count
    if count > MOST:
        raise UserError(
            f"{source}: there are {count:,} discrete actions, more than {MOST:,}; if they are continuous, save them as "
            "floating-point numbers"
        )
    hot = np.zeros((len(numbers), count), np.float32)
    np.put_along_axis(hot, numbers[:, None], 1.0, axis=1)
    return replace(rows, actions=hot)
