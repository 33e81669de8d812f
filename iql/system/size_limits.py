"""Checks the sizes that a file declares against the free memory, before any memory is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
import psutil

from iql.errors import UserError

DEFLATE = 1032
"""The largest ratio of decompressed to compressed size in DEFLATE (RFC 1951)."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_memory(size: int, source: Path | str) -> None:
    """Raise UserError if `size` bytes, as a file declares them, are more than this machine has free."""
    free = psutil.virtual_memory().available
    if size > free:
        raise UserError(
            f"{source} claims {size / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} are free: it is damaged, made "
            "to fill memory, or for a larger machine"
        )


def check_archive(path: Path) -> None:
    """Raise UserError for a NumPy archive (.npz) whose arrays declare more bytes than their file or memory can hold.

    Each array must be exactly as large as its header says, so that a header alone allocates nothing.
    """
    for _ in _checked_members(path):
        pass


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive by name, checked as by check_archive and read at once."""
    arrays = {}
    for member in _checked_members(path):
        order: Literal["F", "C"] = "F" if member.columns else "C"
        arrays[member.name] = np.ndarray(member.shape, member.dtype, bytearray(member.file.read()), order=order)
    return arrays


class _Member(NamedTuple):
    """An array of an archive: what its header says, and the file, of which the content is left to read."""

    name: str
    shape: tuple[int, ...]
    columns: bool
    dtype: np.dtype
    file: IO[bytes]


def _checked_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            source, size = f"{path}: {entry.filename}", entry.file_size
            most = entry.compress_size * (DEFLATE if entry.compress_type == zipfile.ZIP_DEFLATED else 1)
            if entry.compress_type not in _METHODS or size > most:
                raise UserError(f"{source} claims {size:,} bytes, more than the file can hold; it is damaged")
        check_memory(sum(entry.file_size for entry in entries), path)
        for entry in entries:
            with archive.open(entry) as file:
                try:
                    shape, columns, dtype = array_header(file)
                except (KeyError, ValueError, TypeError) as error:
                    raise UserError(f"{path}: {entry.filename} is no array of numbers ({error})") from error
                claimed = file.tell() + math.prod(shape) * dtype.itemsize
                if dtype.hasobject:
                    raise UserError(f"{path}: {entry.filename} holds Python objects, which are never unpickled")
                if claimed != entry.file_size:
                    raise UserError(
                        f"{path}: {entry.filename} claims {list(shape)} of {dtype}, {claimed:,} bytes where the file "
                        f"has {entry.file_size:,}; it is damaged"
                    )
                yield _Member(entry.filename.removesuffix(".npy"), shape, columns, dtype, file)


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns follow each other (Fortran's order), and type of an array that begins here as .npy.

    Raises KeyError, ValueError or TypeError for anything else.
    """
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return read[np.lib.format.read_magic(file)](file)
