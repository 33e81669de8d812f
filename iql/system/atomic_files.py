"""Files that are written completely or not at all, and errors of the file system as one line."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from iql.errors import UserError

_ADVICE = {
    errno.ENOSPC: "no space left on the disk: free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some and run the same command again",
    errno.EROFS: "it is on a read-only file system: choose another folder, e.g. runs=PATH",
    errno.EACCES: "no permission to write there: choose another folder, e.g. runs=PATH",
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file for the new content of `path`, which replaces `path` at the end of the block.

    Its name is random, since writers on other hosts and in other containers may have the same process id. It is
    deleted where the content cannot be written completely.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                yield file
            move_durably(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def move_durably(written: Path, path: Path) -> None:
    """Rename a complete file to `path`, in the same folder, so that both outlast a power cut."""
    _sync(written)
    os.replace(written, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds `path` to an OSError within that names no file, as for a file that is open."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` as the content of `path`, completely or not at all."""
    with replacing(path) as file:
        for part in parts:
            file.write(part)


def expanded(path: str | Path, instead: str = "name it without ~") -> Path:
    """`path` with a leading ~ as the home directory. Raises UserError, with what to do instead, where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: this account has no home directory; set HOME, or {instead}") from error


def remove_temporaries(folder: Path, of: str = "*") -> None:
    """Delete the temporary files that killed writers of the file `of` left in `folder`.

    Only for a caller that excludes other writers, by a lock or a lease.
    """
    for path in folder.glob(f".{of}.*.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in `folder` outlast a power cut."""
    with naming(folder):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write `content` as JSON, completely or not at all."""
    replace_file(path, (to_json(content, indent) + "\n").encode())


def to_json(content: Any, indent: int | None = None) -> str:
    """`content` as JSON, with null for NaN and infinities, which JSON does not have."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The content of JSON; NaN and Infinity, which Python's own writer allows, become None. Raises ValueError."""
    return _DECODER.decode(text if isinstance(text, str) else text.decode())


_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # one for all, as a report reads 300,000 records


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None if it does not exist. Raises UserError if it is damaged."""
    try:
        return from_json(path.read_text())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder stands where a file should; move it away") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); delete it, or the run's directory to train it anew") from error


def refusal(error: OSError) -> str | None:
    """One line for the user about an error of the file system; None for another kind of OSError."""
    if error.errno is None:
        return None
    advice = _ADVICE.get(error.errno, f"{error.strerror}; choose another folder, e.g. runs=PATH")
    return f"{error.filename or 'the run directory'}: {advice}"
