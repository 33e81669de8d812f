"""The local server, a process in a session of its own that starts a sweep's jobs, each pinned to cores of its own.

python -m iql.launching.local_server SWEEP SUBMISSION   (started by LocalLauncher; it ends when no job is left)
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from iql.config.trust import LAUNCHERS, made
from iql.errors import UserError
from iql.launching.ledger import FOLDER, JobKey, Ledger, Submission
from iql.runs.leases import BEAT_SECONDS, STALE_SECONDS
from iql.system.atomic_files import read_json, write_json

POLL_SECONDS = 0.2
STOP_SECONDS = 120.0  # for jobs to save before they are killed

STATE_KEYS = {"host", "pid", "first", "taken", "running"}
"""What local.json, which the server writes, must have."""

_LAUNCHER = "iql.launching.local.LocalLauncher"
_MODULES = ("iql.launching.local_server", "iql.launching.local")
"""This module, and its name in earlier versions, whose servers may still run."""


@dataclass(frozen=True)
class Slot:
    """Where a job runs.

    cores   those that it is pinned to
    usable  how many of them it may keep busy
    gpu     as CUDA_VISIBLE_DEVICES names it, None without one
    """

    cores: list[int]
    usable: int
    gpu: str | None


def lock_path(sweep: Path) -> Path:
    """The file that a sweep's server holds locked."""
    return sweep / FOLDER / "local.lock"


def command(sweep: Path, submission: int) -> list[str]:
    """Python's arguments for the server of a sweep's submissions from this number on."""
    return ["-m", _MODULES[0], str(sweep), str(submission)]


def find_process(state: dict[str, Any], sweep: Path) -> psutil.Process | None:
    """The process of this machine with the id that a state names, if it is the server of this sweep.

    The id may belong to another process by now, and the file may come from somebody else or from another sweep.
    """
    try:
        process = psutil.Process(state["pid"])
        option, module, served, _ = process.cmdline()[-4:]
        return process if (option, served) == ("-m", str(sweep)) and module in _MODULES else None
    except (psutil.Error, ValueError):
        return None


def read_state(sweep: Path) -> dict[str, Any] | None:
    """The content of local.json, if the server that wrote it is alive. Raises UserError if it is damaged."""
    path = sweep / FOLDER / "local.json"
    state = read_json(path)
    if state is None:
        return None
    if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
        raise UserError(f"{path}: not what a process that starts jobs writes; delete it")
    if state["host"] == socket.gethostname():
        return state if find_process(state, sweep) else None
    return state if time.time() - path.stat().st_mtime < STALE_SECONDS else None


class Server:
    """Starts a sweep's jobs in order, one in each slot, until none waits or a signal stops it.

    first    the number of the first submission to serve
    serving  the lock that says that the sweep has a server
    taken    how many jobs of each submission were started
    """

    def __init__(self, ledger: Ledger, first: int, serving: FileLock):
        self.ledger = ledger
        self.first = first
        self.serving = serving
        self.taken: dict[int, int] = {}
        self.free: list[Slot] = []
        self.running: dict[subprocess.Popen, tuple[JobKey, Slot]] = {}
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def serve(self) -> None:
        """Run until no job is left, which is checked while the ledger's lock keeps submitters from adding more.

        The lock `serving` is released before the ledger's: else a submitter in between would rely on this process.
        """
        for first in self._submissions()[:1]:  # none if all were cancelled before this process read them
            self.free = made(first.launcher, LAUNCHERS, f"{first.folder}/index.json: its launcher").slots()
        while True:
            self._run_jobs()
            if self.stopping:
                self._stop_jobs()
                break
            with self.ledger.lock():
                if self._next() is None:
                    self._state_path.unlink(missing_ok=True)
                    self.serving.release()
                    return
        self._state_path.unlink(missing_ok=True)

    def _run_jobs(self) -> None:
        written = 0.0
        while not self.stopping:
            changed = self._free_slots()
            while self.free and (job := self._next()) is not None:
                self._start(*job)
                changed = True
            if changed or time.monotonic() - written > BEAT_SECONDS:
                self._write_state()
                written = time.monotonic()
            if not self.running:
                return
            time.sleep(POLL_SECONDS)

    @property
    def _state_path(self) -> Path:
        return self.ledger.folder / "local.json"

    def _submissions(self) -> list[Submission]:
        return [
            each
            for each in self.ledger.submissions()
            if each.number >= self.first and each.launcher.get("_target_") == _LAUNCHER and not each.cancelled
        ]

    def _next(self) -> tuple[Submission, int] | None:
        for submission in self._submissions():
            index = self.taken.get(submission.number, 0)
            if index < len(submission.jobs):
                return submission, index
        return None

    def _start(self, submission: Submission, index: int) -> None:
        self.taken[submission.number] = index + 1
        slot = self.free.pop(0)
        environment = {**os.environ, "IQL_CORES": str(slot.usable)}
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
        jobs, offset, failure = submission.arguments(index)
        arguments = [
            jobs,
            str(offset),
            failure,
            "--cores",
            ",".join(map(str, slot.cores)),
            "--parent",
            str(os.getpid()),
        ]
        with open(Path(failure).with_name(f"{index}.log"), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "iql.launching.job", *arguments],
                cwd=submission.code,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.running[process] = ((submission.number, index), slot)

    def _free_slots(self) -> bool:
        """Free the slots of jobs that have ended; whether there were any."""
        ended = [process for process in self.running if process.poll() is not None]
        for process in ended:
            _, slot = self.running.pop(process)
            self.free.append(slot)
        return bool(ended)

    def _write_state(self) -> None:
        state = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "first": self.first,
            "taken": self.taken,
            "running": [job for job, _ in self.running.values()],
        }
        write_json(self._state_path, state)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _stop_jobs(self) -> None:
        for process in self.running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sweep", type=Path)
    parser.add_argument("first", type=int)
    options = parser.parse_args()
    serving = FileLock(lock_path(options.sweep))
    try:
        with serving.acquire(timeout=5):
            Server(Ledger(options.sweep), options.first, serving).serve()
    except Timeout:
        return  # another process serves this sweep and will find the new jobs


if __name__ == "__main__":
    main()
