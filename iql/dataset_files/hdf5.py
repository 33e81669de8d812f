"""Opens HDF5 files for reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from iql.dataset_files.hdf5_safety import Contents
from iql.errors import UserError
from iql.system.data_cache import hdf5_problem


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, Any]]:
    """The file's content by name. Raises UserError, also for damage that is found while it is read."""
    if problem := hdf5_problem(path):
        raise UserError(f"{path} {problem}; get it again, or give another with env.path=FILE")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield Contents(file, path)
    except (OSError, RuntimeError, KeyError) as error:  # h5py's errors for damaged bytes
        reason = str(error).strip("'\"")
        raise UserError(f"{path} is damaged and cannot be read ({reason}); get it again") from error
