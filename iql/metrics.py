"""metrics.jsonl: the record of a run, one train or eval record a line."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from iql.errors import UserError
from iql.storage import from_json, to_json

log = logging.getLogger(__name__)

Record = dict[str, Any]

FLUSH_SECONDS = 5.0
TAIL = 1 << 14


class MetricsFile:
    """The file as its run writes it: appended in blocks, cut back to the checkpoint on resume."""

    def __init__(self, path: Path):
        self.path = path
        self._lines: list[str] = []
        self._written = time.monotonic()

    def append(self, record: Record) -> None:
        """Keep a record for the next flush."""
        self._lines.append(to_json(record))

    @property
    def due(self) -> bool:
        """Whether a flush is due: at most so often, for the sake of network file systems."""
        return bool(self._lines) and time.monotonic() - self._written > FLUSH_SECONDS

    def flush(self, sync: bool = False) -> int:
        """Append what was kept, fsynced if asked. Returns the file's length in bytes."""
        with open(self.path, "ab") as file:
            file.write("".join(line + "\n" for line in self._lines).encode())
            file.flush()
            if sync:
                os.fsync(file.fileno())
            length = file.tell()
        self._lines.clear()
        self._written = time.monotonic()
        return length

    def cut(self, length: int) -> None:
        """Drop every record after the first `length` bytes. Raises UserError if the file is shorter."""
        self._lines.clear()
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < length:
            raise UserError(
                f"{self.path}: {size} bytes, but its checkpoint covers {length}: records are lost. "
                f"Put the file back, or delete {self.path.parent} to train the run anew"
            )
        if size > length:
            os.truncate(self.path, length)


def read_records(path: Path) -> list[Record]:
    """The records of a metrics file in the order written; none where there is no file.

    A line that is no record (cut short by a crash, damaged on disk) is left out, with a warning that
    names file and line.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip() and (record := _record(line, path, number)) is not None:
            records.append(record)
    return records


def read_sample(path: Path, every: int) -> tuple[list[Record], list[Record]]:
    """Of a run's records the first and then one in `every` of train, and all of eval; none where there is no file.

    What is not taken is not parsed, so that a thousand long runs are read in seconds. Damaged lines as in
    `read_records`; the last line may be cut short while the run writes it.
    """
    if not path.exists():
        return [], []
    train: list[Record] = []
    evaluations: list[Record] = []
    seen = 0
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.startswith(_TRAIN) and line.endswith(b"}"):
            seen += 1
            if (seen - 1) % every:
                continue
        record = _record(line, path, number) if line.strip() else None
        if record is not None:
            (train if record["kind"] == "train" else evaluations).append(record)
    return train, evaluations


_TRAIN = b'{"kind": "train",'


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
    """The last records of a metrics file, of one that is being written too: whole lines within TAIL bytes."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        lines = file.read().split(b"\n")[1 if size > TAIL else 0 : -1]
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):
            records.append(from_json(line))
    return records


def read_metrics(directory: Path | str) -> tuple[list[Record], list[Record]]:
    """A run's train and eval records, each in the order written; empty where there is no file yet."""
    records = read_records(Path(directory) / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    return train, [record for record in records if record["kind"] == "eval"]
