"""metrics.jsonl, the record of a run: one train, eval or episode record a line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iql.runs.appended_file import AppendedFile
from iql.system.atomic_files import from_json, to_json

log = logging.getLogger(__name__)

Record = dict[str, Any]

FLUSH_SECONDS = 5.0
TAIL_BYTES = 1 << 14
BLOCK_BYTES = 1 << 19  # read at once: what fits into a processor's cache


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
    return _records(list(enumerate(path.read_bytes().splitlines(), start=1)), path)


def read_sample(path: Path, every: int) -> tuple[list[Record], list[Record], list[Record]]:
    """One in `every` of a run's train records, from the first on, all eval and all episode records.

    Other train records are neither parsed nor copied, so that a thousand long runs are read in seconds. Damaged lines
    are treated as in `read_records`; a last line without its end is ignored, as the run may be writing it.
    """
    records: list[Record] = []
    if path.exists():
        with open(path, "rb", buffering=0) as file:
            records = _records(list(_sampled_lines(file, every)), path)
    return of_kind(records, "train"), of_kind(records, "eval"), of_kind(records, "episode")


_TRAIN, _TRAIN_PLACE = b'"train",', len('{"kind": ')
"""What is at this place of a train record's line."""


def _sampled_lines(file: io.FileIO, every: int) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content of one in `every` of the lines that look like train records, and of all others.

    The memory is the same for every block: fresh memory costs more here than what is done with it.
    """
    import numpy as np  # not at the top: status.py, which reads the ends of files alone, needs none

    beyond = _TRAIN_PLACE + len(_TRAIN)  # bytes of the memory that are not read into, so that every line has its place
    train = np.frombuffer(_TRAIN, np.uint64)
    memory, is_end = np.empty(BLOCK_BYTES + beyond, np.uint8), np.empty(BLOCK_BYTES, bool)
    passed, trains = 0, 0  # lines before this block, and those of them that look like train records
    held = 0  # bytes at the front of a line whose end has not been read
    while read := file.readinto(memory[held:-beyond].data):
        data = memory[: held + read]
        ends = np.flatnonzero(np.equal(data, ord("\n"), out=is_end[: len(data)]))
        begins = np.concatenate(([0], ends + 1))
        words = np.ndarray(len(memory) - 7, np.uint64, memory, strides=(1,))  # the eight bytes from each place on
        looks = (words[begins[:-1] + _TRAIN_PLACE] == train) & (data[ends - 1] == ord("}"))
        chosen = ~looks
        chosen[np.flatnonzero(looks)[-trains % every :: every]] = True
        for index in np.flatnonzero(chosen).tolist():
            yield passed + index + 1, data[begins[index] : ends[index]].tobytes()
        passed, trains = passed + len(ends), trains + int(looks.sum())
        rest = data[begins[-1] :].copy()
        held = len(rest)
        if held + beyond == len(memory):
            memory, is_end = np.empty(2 * held + beyond, np.uint8), np.empty(2 * held, bool)
        memory[:held] = rest


def _records(lines: list[tuple[int, bytes]], path: Path) -> list[Record]:
    """The records of numbered lines, without empty and damaged ones; a warning names each of these."""
    lines = [(number, line) for number, line in lines if line.strip()]
    with contextlib.suppress(ValueError):
        together = from_json(b"[" + b",".join(line for _, line in lines) + b"]")  # faster than one by one
        if len(together) == len(lines) and all(map(_is_whole, together)):
            return together
    records = []
    for number, line in lines:
        try:
            record = from_json(line)
        except ValueError:  # UnicodeDecodeError is one too
            record = None
        if _is_whole(record):
            records.append(record)
        else:
            log.warning("%s, line %d: not a whole record, left out", path, number)
    return records


def _is_whole(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("update"), int) and "kind" in record


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
