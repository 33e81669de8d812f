"""HDF5 files, opened to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from iql.errors import UserError
from iql.tasks.contents import Contents
from iql.tasks.files import hdf5_complaint


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, Any]]:
    """What the file holds, by name. Raises UserError, also for what comes to light while it is read."""
    if problem := hdf5_complaint(path):
        raise UserError(f"{path} {problem}; get it again, or give another with env.path=FILE")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield Contents(file, path)
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises where bytes inside are damaged
        reason = str(error).strip("'\"")
        raise UserError(f"{path} is damaged and cannot be read ({reason}); get it again") from error
