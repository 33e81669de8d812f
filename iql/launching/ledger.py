"""What was submitted of a sweep: a folder .sweep beside its runs, a numbered subfolder a submission.

index.json   which job trains which runs; jobs.jsonl  what each job needs, a line each; code/  snapshots
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from iql.errors import UserError
from iql.storage import read_json, sync_folder, write_json
from iql.trust import HOW, check_settings, entry_point

log = logging.getLogger(__name__)

FORMAT = 1
FOLDER = ".sweep"
PATIENCE = 600.0  # seconds that a second submitter waits for the first

Place = tuple[int, int]
"""A job: the number of its submission, and its index there."""


@dataclass(frozen=True)
class Submission:
    """What one command submitted. jobs: the ids of every job's runs; chunk: jobs that went out as one."""

    folder: Path
    launcher: dict[str, Any]
    code: Path
    submitted: float
    chunk: int
    cancelled: bool
    jobs: list[list[str]]
    offsets: list[int]

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def sweep(self) -> Path:
        """The folder of the sweep's runs."""
        return self.folder.parents[1]

    @cached_property
    def names(self) -> list[str]:
        """The name of every chunk with a queue, unlike any other sweep's."""
        place = hashlib.sha256(str(self.sweep.resolve()).encode()).hexdigest()[:8]
        return [f"{self.sweep.name}-{place}-{self.number}-{k}" for k in range(-(-len(self.jobs) // self.chunk))]

    def chunk_folder(self, chunk: int) -> Path:
        """Where a chunk's logs lie: no folder grows with the sweep."""
        return self.folder / str(chunk)

    def failure(self, index: int) -> Path:
        """Where a job leaves the reason, if it fails by itself."""
        return self.chunk_folder(index // self.chunk) / f"{index}.failed"

    def line(self, index: int) -> dict[str, Any]:
        """What a job reads where it runs."""
        with open(self.folder / "jobs.jsonl", "rb") as file:
            file.seek(self.offsets[index])
            return json.loads(file.readline())

    def arguments(self, index: int) -> tuple[str, int, str]:
        """What iql.launching.jobs.Job is made of, for one job."""
        return str(self.folder / "jobs.jsonl"), self.offsets[index], str(self.failure(index))


def check_job(submission: Submission, line: dict[str, Any]) -> None:
    """Raise UserError if submitting a job again would run code or commands that its sweep's folder names.

    What sweep.py submits comes from the command line; a folder may come from somebody else.
    """
    source = f"{submission.folder}/jobs.jsonl"
    entry_point(line.get("entry"), source)
    check_settings(line.get("arguments"), source)
    check_settings(submission.launcher, f"{submission.folder}/index.json")
    for key in ("setup", "sbatch"):
        if submission.launcher.get(key):
            raise UserError(f"{submission.folder}/index.json: launcher.{key} holds commands for the cluster; {HOW}")


class Ledger:
    """A sweep's submissions. Only who holds `lock()` may add to them."""

    def __init__(self, sweep: Path):
        self.sweep = sweep.resolve()
        self.folder = self.sweep / FOLDER

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One submitter at a time; a second one waits. Raises UserError if that takes too long."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another command is submitting jobs of %s; waiting for it", self.sweep)
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                raise UserError(f"{lock.lock_file}: held for ten minutes by another command; stop that first") from None
        try:
            yield
        finally:
            lock.release()

    def submissions(self) -> list[Submission]:
        """All of them, oldest first; one that was cut short before its index was written is none."""
        numbers = sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit())
        return [found for number in numbers if (found := self._read(self.folder / str(number))) is not None]

    def add(
        self,
        launcher: dict[str, Any],
        chunk: int,
        code: Path,
        jobs: Iterable[tuple[list[str], Mapping[str, Any]]],
    ) -> Submission:
        """Write a submission down. jobs: the ids of its runs, and the line that iql.launching.jobs reads."""
        taken = [int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit()]
        folder = self.folder / str(max(taken, default=0) + 1)
        folder.mkdir()
        offsets, runs = [], []
        with open(folder / "jobs.jsonl", "wb") as file:
            for ids, line in jobs:
                offsets.append(file.tell())
                runs.append(ids)
                file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        submission = Submission(folder, launcher, code, time.time(), chunk, False, runs, offsets)
        for number in range(len(submission.names)):
            submission.chunk_folder(number).mkdir()
        self._write(submission)
        sync_folder(self.folder)
        return submission

    def discard(self, submission: Submission) -> None:
        """Take back a submission of which no job went out."""
        shutil.rmtree(submission.folder)

    def mark_cancelled(self, submission: Submission) -> None:
        """Say that nothing of it is to be trained any more."""
        self._write(submission, cancelled=True)

    def _write(self, submission: Submission, cancelled: bool = False) -> None:
        content = {
            "format": FORMAT,
            "launcher": submission.launcher,
            "code": str(submission.code),
            "submitted": submission.submitted,
            "chunk": submission.chunk,
            "cancelled": cancelled,
            "jobs": submission.jobs,
            "offsets": submission.offsets,
        }
        write_json(submission.folder / "index.json", content, indent=None)

    def _read(self, folder: Path) -> Submission | None:
        content = read_json(folder / "index.json")
        if content is None:
            return None
        if content.pop("format") != FORMAT:
            line = f"{folder}/index.json was written by another version of iql; use that one, or another sweep.name="
            raise UserError(line)
        return Submission(folder=folder, **{**content, "code": Path(content["code"])})
