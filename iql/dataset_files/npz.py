"""Opens NumPy archives (.npz) for reading."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from iql.errors import UserError
from iql.system.data_cache import archive_problem
from iql.system.size_limits import array_header, check_archive

BLOCK = 1 << 18  # rows read at a time


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an archive, each read once, on first access."""

    def __init__(self, file: np.lib.npyio.NpzFile) -> None:
        assert file.zip is not None  # it is open
        self._file, self._zip = file, file.zip
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            self._read[name] = self._file[name]
        return self._read[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """An array's shape, without reading it."""
        with self._zip.open(f"{name}.npy") as member:
            return array_header(member)[0]

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """An array's rows in order, BLOCK at a time, so that it is never in memory as a whole."""
        with self._zip.open(f"{name}.npy") as member:
            shape, columns, dtype = array_header(member)
            whole = self._file[name] if columns else None
            for first in range(0, shape[0], BLOCK):
                rows = min(BLOCK, shape[0] - first)
                if whole is not None:
                    yield whole[first : first + rows]
                else:
                    content = member.read(rows * int(np.prod(shape[1:])) * dtype.itemsize)
                    yield np.frombuffer(content, dtype).reshape(rows, *shape[1:])

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
