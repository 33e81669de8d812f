"""Rows of an HDF5 file in D4RL's layout, checked while they are read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from iql.episodes import horizon_timeouts
from iql.errors import UserError
from iql.tasks.files import hdf5_complaint
from iql.transitions import BLOCK

log = logging.getLogger(__name__)

KEYS = ("observations", "actions", "rewards", "terminals")


@dataclass(frozen=True)
class Rows:
    """What a file holds, row by row; all finite.

    observations  [R, observation_dim] float32
    actions       [R, action_dim] float32, as on file
    rewards       [R] float32
    terminals     [R] bool
    timeouts      [R] bool
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray

    def __len__(self) -> int:
        return len(self.rewards)


def read(path: Path, horizon: int) -> Rows:
    """The rows of `path`; other leaves, next_observations among them, are ignored.

    Rewards and flags may be [R] or [R, 1], flags of any numeric type. Without `timeouts` every
    `horizon`-th row of an episode is one. HDF5 converts to float32 while reading, so that the dataset
    is in memory once. Raises UserError naming the file and what is wrong in it.
    """
    if problem := hdf5_complaint(path):
        raise UserError(f"{path} {problem}; get it again, or give another with env.path=FILE")
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _rows(file, path, horizon)
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises where bytes inside are damaged
        reason = str(error).strip("'\"")
        raise UserError(f"{path} is damaged and cannot be read ({reason}); get it again") from error


def _rows(file: h5py.File, path: Path, horizon: int) -> Rows:
    if missing := [key for key in KEYS if not isinstance(file.get(key), h5py.Dataset)]:
        raise UserError(
            f"{path} has no {', '.join(missing)}: D4RL's layout needs {', '.join(KEYS)} "
            f"(this file has {', '.join(sorted(file)) or 'nothing'})"
        )
    keys = [*KEYS, *(["timeouts"] if "timeouts" in file else [])]
    for key in keys:
        if file[key].dtype.kind not in "fiub" or file[key].ndim == 0:
            raise UserError(f"{path}: {key} is {_described(file[key])}, not an array of numbers")
    lengths = {key: len(file[key]) for key in keys}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length:,}" for key, length in lengths.items())
        raise UserError(f"{path}: the arrays disagree in rows: {listed}; each row needs all of them")
    if not lengths["rewards"]:
        raise UserError(f"{path} has zero rows: there is nothing to learn from")
    terminals = _flags(file["terminals"], path)
    return Rows(
        _table(file["observations"], path),
        _table(file["actions"], path),
        _column(file["rewards"], path),
        terminals,
        _flags(file["timeouts"], path) if "timeouts" in file else horizon_timeouts(terminals, horizon),
    )


def _table(data: h5py.Dataset, path: Path) -> np.ndarray:
    if data.ndim != 2:
        raise UserError(f"{path}: {_name(data)} is {_described(data)} where [rows, entries] is needed")
    return _finite(data, path)


def _column(data: h5py.Dataset, path: Path) -> np.ndarray:
    if data.ndim != 1 and data.shape[1:] != (1,):
        raise UserError(f"{path}: {_name(data)} is {_described(data)} where [rows] or [rows, 1] is needed")
    return _finite(data, path).reshape(-1)


def _flags(data: h5py.Dataset, path: Path) -> np.ndarray:
    values = _column(data, path)
    if len(odd := np.flatnonzero((values != 0) & (values != 1))):
        raise UserError(
            f"{path}: {_name(data)} holds {values[odd[0]]:g} in row {odd[0]:,}; only 0 and 1 have a meaning"
        )
    return values.astype(bool)


def _finite(data: h5py.Dataset, path: Path) -> np.ndarray:
    values = np.empty(data.shape, np.float32)
    if values.size:
        data.read_direct(values)
    for first in range(0, len(values), BLOCK):
        block = values[first : first + BLOCK]
        if not np.isfinite(block).all():
            row = int(np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(1))[0])
            what = "NaN" if np.isnan(block[row]).any() else "an infinite value (in float32)"
            raise UserError(
                f"{path}: {_name(data)} holds {what}, first in row {first + row:,}; remove those episodes "
                "or get the file again"
            )
    return values


def _name(data: h5py.Dataset) -> str:
    return str(data.name).lstrip("/")


def _described(data: h5py.Dataset) -> str:
    return f"{data.dtype} {list(data.shape)}"
