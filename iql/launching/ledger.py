"""The ledger of a sweep: what was submitted, in a folder .sweep beside its runs, one numbered subfolder a submission.

index.json  which job trains which runs; jobs.jsonl  the input of each job, a line each; code/  copies of the code
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from iql.config.trust import HOW, check_settings, entry_point
from iql.errors import UserError
from iql.system.atomic_files import read_json, sync_folder, write_json
from iql.system.locks import exclusive

FORMAT = 1
FOLDER = ".sweep"
LOCK_TIMEOUT_SECONDS = 600.0  # that a second submitter waits for the first

JobKey = tuple[int, int]
"""What identifies a job: the number of its submission and its index in it."""


@dataclass(frozen=True)
class Submission:
    """What one command submitted.

    launcher   the settings of its launcher
    code       the copy of the code that its jobs run
    submitted  seconds since 1970
    chunk      how many jobs were submitted together
    jobs       for each job the ids of its runs
    offsets    for each job where its line in jobs.jsonl begins, in bytes
    """

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
    def chunk_names(self) -> list[str]:
        """The name of every chunk in a queue, different from those of any other sweep."""
        digest = hashlib.sha256(str(self.sweep.resolve()).encode()).hexdigest()[:8]
        return [f"{self.sweep.name}-{digest}-{self.number}-{k}" for k in range(-(-len(self.jobs) // self.chunk))]

    def chunk_folder(self, chunk: int) -> Path:
        """The folder of a chunk's logs; one for each chunk keeps folders small."""
        return self.folder / str(chunk)

    def failure(self, index: int) -> Path:
        """The file that a job writes the reason to if it fails by itself."""
        return self.chunk_folder(index // self.chunk) / f"{index}.failed"

    def line(self, index: int) -> dict[str, Any]:
        """The input of a job, its line of jobs.jsonl."""
        with open(self.folder / "jobs.jsonl", "rb") as file:
            file.seek(self.offsets[index])
            return json.loads(file.readline())

    def arguments(self, index: int) -> tuple[str, int, str]:
        """The arguments of iql.launching.job.Job for one job."""
        return str(self.folder / "jobs.jsonl"), self.offsets[index], str(self.failure(index))


def check_job(submission: Submission, line: dict[str, Any]) -> None:
    """Raise UserError if submitting a job again would run code or commands that its sweep's folder names.

    What sweep.py submits comes from its own command line; what is submitted again comes from the folder, which may come
    from somebody else.
    """
    source = f"{submission.folder}/jobs.jsonl"
    entry_point(line.get("entry"), source)
    check_settings(line.get("arguments"), source)
    check_settings(submission.launcher, f"{submission.folder}/index.json")
    for key in ("setup", "sbatch"):
        if submission.launcher.get(key):
            raise UserError(f"{submission.folder}/index.json: launcher.{key} holds commands for the cluster; {HOW}")


class Ledger:
    """The submissions of a sweep. They may be added to only within `lock()`."""

    def __init__(self, sweep: Path):
        self.sweep = sweep.resolve()
        self.folder = self.sweep / FOLDER

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by one submitter at a time; a second one waits. Raises UserError after LOCK_TIMEOUT_SECONDS."""
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = f"another command is submitting jobs of {self.sweep}; waiting for it"
        with exclusive(self.folder / "lock", waiting, LOCK_TIMEOUT_SECONDS):
            yield

    def submissions(self) -> list[Submission]:
        """All submissions, oldest first, without those that were interrupted before their index was written."""
        numbers = sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit())
        return [found for number in numbers if (found := self._read(self.folder / str(number))) is not None]

    def add(
        self,
        launcher: dict[str, Any],
        chunk: int,
        code: Path,
        jobs: Iterable[tuple[list[str], Mapping[str, Any]]],
    ) -> Submission:
        """Write a submission. jobs: for each the ids of its runs, and the line that iql.launching.job reads."""
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
        for number in range(len(submission.chunk_names)):
            submission.chunk_folder(number).mkdir()
        self._write(submission)
        sync_folder(self.folder)
        return submission

    def discard(self, submission: Submission) -> None:
        """Delete a submission none of whose jobs reached the queue."""
        shutil.rmtree(submission.folder)

    def mark_cancelled(self, submission: Submission) -> None:
        """Record that its jobs are not to be run any more."""
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
            advice = "use that version, or another sweep.name="
            raise UserError(f"{folder}/index.json was written by another version of iql; {advice}")
        return Submission(folder=folder, **{**content, "code": Path(content["code"])})
