"""metrics.jsonl, the record of a run: one train, eval or episode record a line."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from iql.runs.appended_file import AppendedFile
from iql.system.atomic_files import from_json, to_json

log = logging.getLogger(__name__)

Record = dict[str, Any]

FLUSH_SECONDS = 5.0
TAIL_BYTES = 1 << 14
BLOCK_BYTES = 1 << 18  # read at once: what fits into a processor's cache


class MetricsFile(AppendedFile):
    """The file as its run writes it."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._written = time.monotonic()

    def record(self, record: Record) -> None:
        """Buffer a record until the next flush."""
        self.append(f"{to_json(record)}\n".encode())

    @property
    def due(self) -> bool:
        """Whether a flush is due: at most every FLUSH_SECONDS, as network file systems are slow."""
        return bool(self._buffered) and time.monotonic() - self._written > FLUSH_SECONDS

    def flush(self, sync: bool = False) -> tuple[int, str]:
        written = super().flush(sync)
        self._written = time.monotonic()
        return written

    def _sound(self, covered: bytes, digest: str | None) -> bool:
        if digest is None:
            return covered[-1:] in (b"", b"\n") and all(map(_is_record, covered.splitlines()))
        return super()._sound(covered, digest)


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


def read_sample(path: Path, every: int) -> tuple[list[Record], list[Record], list[Record]]:
    """One in `every` of a run's train records, from the first on, all eval and all episode records.

    Other train records are neither parsed nor copied, so that a thousand long runs are read in seconds. Damaged lines
    are treated as in `read_records`; a last line without its end is ignored, as the run may be writing it.
    """
    found: dict[str, list[Record]] = {"train": [], "eval": [], "episode": []}
    if not path.exists():
        return found["train"], found["eval"], found["episode"]
    with open(path, "rb") as file:
        for number, line in _sampled_lines(file, every):
            record = _record(line, path, number) if line.strip() else None
            if record is not None:
                found.setdefault(record["kind"], []).append(record)
    return found["train"], found["eval"], found["episode"]


_TRAIN_PREFIX = b'{"kind": "train",'


def _sampled_lines(file: BinaryIO, every: int) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content of one in `every` of the lines that look like train records, and of all others."""
    import numpy as np  # not at the top: status.py, which reads the ends of files alone, needs none

    prefix = np.frombuffer(_TRAIN_PREFIX, np.uint8)
    passed, trains = 0, 0  # lines before this block, and those of them that look like train records
    begun: list[bytes] = []  # of a line whose end has not been read
    while block := file.read(BLOCK_BYTES):
        if b"\n" not in block:
            begun.append(block)
            continue
        content = b"".join((*begun, block))
        data = np.frombuffer(content, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        begins = np.concatenate(([0], ends + 1))
        looks = np.zeros(len(ends), bool)
        if len(data) >= len(prefix):
            windows = np.lib.stride_tricks.sliding_window_view(data, len(prefix))
            # A window that is moved back from the end has the end of a line in it, which no prefix has.
            beginnings = windows[np.minimum(begins[:-1], len(windows) - 1)]
            looks = (beginnings == prefix).all(1) & (data[ends - 1] == ord("}"))
        chosen = ~looks
        chosen[np.flatnonzero(looks)[-trains % every :: every]] = True
        for index in np.flatnonzero(chosen).tolist():
            yield passed + index + 1, content[begins[index] : ends[index]]
        passed, trains = passed + len(ends), trains + int(looks.sum())
        begun = [content[begins[-1] :]]


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
    return of_kind(records, "train"), of_kind(records, "eval")


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """Those of one kind: train, eval or episode."""
    return [record for record in records if record["kind"] == kind]
