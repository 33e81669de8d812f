"""Rows of an HDF5 file in D4RL's layout."""

from __future__ import annotations

from pathlib import Path

import h5py

from iql.errors import UserError
from iql.tasks import rows
from iql.tasks.files import hdf5_complaint
from iql.tasks.rows import Rows


def read(path: Path, horizon: int | None) -> Rows:
    """The rows of `path`, see iql.tasks.rows.take. Raises UserError naming the file and what is wrong in it."""
    if problem := hdf5_complaint(path):
        raise UserError(f"{path} {problem}; get it again, or give another with env.path=FILE")
    try:
        with h5py.File(path, "r", locking=False) as file:
            return rows.take(file, path, horizon)
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises where bytes inside are damaged
        reason = str(error).strip("'\"")
        raise UserError(f"{path} is damaged and cannot be read ({reason}); get it again") from error
