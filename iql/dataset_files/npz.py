"""Opens NumPy archives (.npz) for reading."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from iql.errors import UserError
from iql.system.size_limits import check_archive


def archive_problem(path: Path) -> str | None:
    """What is wrong with a file that is no NumPy archive, to follow its name in a message; None for an archive."""
    if not path.stat().st_size:
        return "is empty"
    return None if zipfile.is_zipfile(path) else "is not a NumPy archive (.npz), or is cut short"


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an archive, each read once, on first access."""

    def __init__(self, file: np.lib.npyio.NpzFile) -> None:
        self._file = file
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            self._read[name] = self._file[name]
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._file.files

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.files)

    def __len__(self) -> int:
        return len(self._file.files)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive's arrays by name. Raises UserError, also for damage that is found while it is read."""
    if problem := archive_problem(path):
        raise UserError(f"{path} {problem}; get it again, or give another with env.path=FILE")
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            yield Archive(file)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or holds more than arrays of numbers ({error}); get it again") from error
