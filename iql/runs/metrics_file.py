"""metrics.jsonl, the record of a run: one train or eval record a line."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from iql.errors import UserError
from iql.system.atomic_files import from_json, naming, to_json

log = logging.getLogger(__name__)

Record = dict[str, Any]

FLUSH_SECONDS = 5.0
TAIL_BYTES = 1 << 14


class MetricsFile:
    """The file as its run writes it: appended in blocks, truncated to the checkpoint on resume.

    Its length and SHA-256 are tracked as it grows, so that changes by other programs are noticed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lines: list[str] = []
        self._length = 0
        self._digest = hashlib.sha256()
        self._written = time.monotonic()

    def append(self, record: Record) -> None:
        """Buffer a record until the next flush."""
        self._lines.append(to_json(record))

    @property
    def due(self) -> bool:
        """Whether a flush is due: at most every FLUSH_SECONDS, as network file systems are slow."""
        return bool(self._lines) and time.monotonic() - self._written > FLUSH_SECONDS

    def flush(self, sync: bool = False) -> tuple[int, str]:
        """Append the buffered records; sync: with fsync. Returns the file's length in bytes and its SHA-256 (hex).

        Raises UserError if another program has changed the file's length.
        """
        size = self._size()
        if size != self._length:
            raise UserError(
                f"{self.path}: {size:,} bytes where this run left {self._length:,}: another program has changed it. "
                "Nothing was written to it; the same command goes on from the last checkpoint"
            )
        content = "".join(line + "\n" for line in self._lines).encode()
        with naming(self.path), open(self.path, "ab") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        self._length += len(content)
        self._digest.update(content)
        self._lines.clear()
        self._written = time.monotonic()
        return self._length, self._digest.hexdigest()

    def check(self, length: int, digest: str | None) -> None:
        """Raise UserError unless the file begins with the `length` bytes of records that a checkpoint covers.

        digest: their SHA-256 (hex); None for checkpoints of earlier versions, which lack it.
        """
        advice = f"Put the file back, or delete {self.path.parent} to train the run anew"
        size = self._size()
        if size < length:
            raise UserError(
                f"{self.path}: {size} bytes, but its checkpoint covers {length}: records are lost. {advice}"
            )
        covered = self.path.read_bytes()[:length] if length else b""
        if digest is None:
            sound = covered[-1:] in (b"", b"\n") and all(map(_is_record, covered.splitlines()))
        else:
            sound = hashlib.sha256(covered).hexdigest() == digest
        if not sound:
            what = "not the records that its checkpoint covers: lines were added, removed or changed"
            raise UserError(f"{self.path}: {what}. {advice}")

    def cut(self, length: int) -> None:
        """Drop every record after the first `length` bytes."""
        self._lines.clear()
        if self._size() > length:
            os.truncate(self.path, length)
        self._length = length
        self._digest = hashlib.sha256(self.path.read_bytes() if length else b"")

    def _size(self) -> int:
        """The file's length in bytes, 0 if it does not exist. Raises UserError if it is a folder."""
        if self.path.is_dir():
            raise UserError(f"{self.path}: a folder stands where a file should; move it away")
        return self.path.stat().st_size if self.path.exists() else 0


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(from_json(line), dict)
    except ValueError:
        return False


def read_records(path: Path) -> list[Record]:
    """The records of a metrics file in the order written; none if there is no file.

    A line that is not a record (truncated by a crash, damaged on disk) is left out, with a warning that names file and
    line.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip() and (record := _record(line, path, number)) is not None:
            records.append(record)
    return records


def read_sample(path: Path, every: int) -> tuple[list[Record], list[Record]]:
    """One in `every` of a run's train records, from the first on, and all eval records; none if there is no file.

    Other train records are not parsed, so that a thousand long runs are read in seconds. Damaged lines are treated as
    in `read_records`; a last line without its end is ignored, as the run may be writing it.
    """
    if not path.exists():
        return [], []
    train: list[Record] = []
    evaluations: list[Record] = []
    seen = 0
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.startswith(_TRAIN_PREFIX) and line.endswith(b"}"):
            seen += 1
            if (seen - 1) % every:
                continue
        record = _record(line, path, number) if line.strip() else None
        if record is not None:
            (train if record["kind"] == "train" else evaluations).append(record)
    return train, evaluations


_TRAIN_PREFIX = b'{"kind": "train",'


def _record(line: bytes, path: Path, number: int) -> Record | None:
    try:
        record = from_json(line)
    except ValueError:  # UnicodeDecodeError is one too
        record = None
    if isinstance(record, dict) and isinstance(record.get("update"), int) and "kind" in record:
        return record
    log.warning("%s, line %d: not a whole record, left out", path, number)
    return None


def read_tail(path: Path) -> list[Record]:
    """The last records of a metrics file, also while it is written: the whole lines within its last TAIL_BYTES."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read().split(b"\n")[1 if size > TAIL_BYTES else 0 : -1]
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):
            records.append(from_json(line))
    return records


def read_metrics(directory: Path | str) -> tuple[list[Record], list[Record]]:
    """A run's train and eval records, each in the order written; empty if there is no file yet."""
    records = read_records(Path(directory) / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    return train, [record for record in records if record["kind"] == "eval"]
