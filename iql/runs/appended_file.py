"""A file of a run that only grows, and is cut back to the run's checkpoint when it resumes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from iql.errors import UserError
from iql.system.atomic_files import naming


class AppendedFile:
    """Content is buffered and appended in blocks.

    Its length and SHA-256 are tracked as it grows, so that changes by other programs are noticed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._buffered: list[bytes] = []
        self._length = 0
        self._digest = hashlib.sha256()

    def append(self, content: bytes) -> None:
        """Buffer content until the next flush."""
        self._buffered.append(content)

    def flush(self, sync: bool = False) -> tuple[int, str]:
        """Append what is buffered; sync: with fsync. Returns the file's length in bytes and its SHA-256 (hex).

        Raises UserError if another program has changed the file's length.
        """
        size = self._size()
        if size != self._length:
            raise UserError(
                f"{self.path}: {size:,} bytes where this run left {self._length:,}: another program has changed it. "
                "Nothing was written to it; the same command goes on from the last checkpoint"
            )
        content = b"".join(self._buffered)
        with naming(self.path), open(self.path, "ab") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        self._length += len(content)
        self._digest.update(content)
        self._buffered.clear()
        return self._length, self._digest.hexdigest()

    def check(self, length: int, digest: str | None) -> None:
        """Raise UserError unless the file begins with the `length` bytes that a checkpoint covers.

        digest: their SHA-256 (hex); None for checkpoints of earlier versions, which lack it.
        """
        advice = f"Put the file back, or delete {self.path.parent} to train the run anew"
        size = self._size()
        if size < length:
            raise UserError(
                f"{self.path}: {size} bytes, but its checkpoint covers {length}: records are lost. {advice}"
            )
        if not self._sound(self.read(length), digest):
            what = "not the records that its checkpoint covers: some were added, removed or changed"
            raise UserError(f"{self.path}: {what}. {advice}")

    def read(self, length: int) -> bytes:
        """The first `length` bytes."""
        if not length:
            return b""
        with open(self.path, "rb") as file:
            return file.read(length)

    def cut(self, length: int) -> None:
        """Drop everything after the first `length` bytes."""
        self._buffered.clear()
        if self._size() > length:
            os.truncate(self.path, length)
        self._length = length
        self._digest = hashlib.sha256(self.read(length))

    def _sound(self, covered: bytes, digest: str | None) -> bool:
        return hashlib.sha256(covered).hexdigest() == digest

    def _size(self) -> int:
        """The file's length in bytes, 0 if it does not exist. Raises UserError if it is a folder."""
        if self.path.is_dir():
            raise UserError(f"{self.path}: a folder stands where a file should; move it away")
        return self.path.stat().st_size if self.path.exists() else 0
