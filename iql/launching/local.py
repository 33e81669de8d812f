"""Jobs on this machine: a process in a session of its own that starts them, each pinned to cores of its own.

python -m iql.launching.local SWEEP   (how sweep.py starts one; it ends when nothing waits any more)
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from iql.cores import pinned, usable
from iql.errors import UserError
from iql.launching.launcher import Queued, fitting
from iql.launching.ledger import FOLDER, Ledger, Place, Submission
from iql.leases import BEAT_SECONDS, STALE_SECONDS
from iql.storage import read_json, write_json
from iql.trust import LAUNCHERS, made

POLL_SECONDS = 0.2
STOP_SECONDS = 120.0  # that a job has to save, before it is killed

STATE = {"host", "pid", "first", "taken", "running"}
"""What the process that serves a sweep says of itself in local.json."""


@dataclass(frozen=True)
class Slot:
    """Where a job runs: the cores that it is pinned to, how many of them it may keep busy, its GPU if it has one."""

    cores: list[int]
    usable: int
    gpu: str | None


class LocalLauncher:
    """conf/launcher/local.yaml says what each setting means."""

    chunk = 1000

    def __init__(self, *, workers: int | None, pack: int | None, gpu_memory_gb: float | None):
        self.workers, self.pack, self.gpu_memory_gb = workers, pack, gpu_memory_gb

    def check(self) -> None:
        """This machine is always there."""

    def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
        """launcher.pack, else what a GPU's memory allows; 1 on a CPU."""
        if self.pack or device == "cpu" or not gpus():
            return self.pack or 1
        return fitting(member_bytes, data_bytes, self.gpu_memory_gb or _gpu_memory_gb())

    def slots(self) -> list[Slot]:
        """One for every job at a time; those of a container share its CPU time as they share the cores."""
        cores, most, devices = pinned(), usable(), gpus()
        workers = min(self.workers or len(devices) or most, most)
        return [
            Slot(cores[k::workers], -(-most // workers), devices[k % len(devices)] if devices else None)
            for k in range(workers)
        ]

    def submit(self, submission: Submission) -> None:
        """Leave the jobs to the process that serves this sweep; start one if there is none."""
        sweep = submission.sweep
        try:
            with FileLock(_lock(sweep), timeout=0):
                pass
        except Timeout:
            return  # it looks into the ledger before it ends
        path = sweep / FOLDER / "local.log"
        with open(path, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *_command(sweep), str(submission.number)],
                cwd=submission.code,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while _state(sweep) is None:
            if process.poll():
                lines = path.read_text().splitlines() or [f"exit code {process.returncode}"]
                raise UserError(f"launcher=local: no job could be started: {lines[-1]} ({path})")
            if process.returncode == 0:
                return  # all done already
            time.sleep(POLL_SECONDS / 4)

    def queue(self, submissions: Sequence[Submission]) -> dict[Place, Queued]:
        """What the serving process runs, and what it has not come to."""
        sweep = submissions[0].sweep
        state = _state(sweep)
        if state is None:
            return {}
        served = [each for each in submissions if each.number >= state["first"] and not each.cancelled]
        queued = _waiting(served, {int(number): taken for number, taken in state["taken"].items()})
        for number, index in state["running"]:
            queued[number, index] = Queued(True, state["host"], "local")
        return queued

    def ended(self, submissions: Sequence[Submission]) -> dict[Place, str]:
        """Nobody keeps count."""
        return {}

    def cancel(self, submissions: Sequence[Submission]) -> None:
        """Ask the serving process to stop its jobs, which save, and wait for that."""
        state = _state(submissions[0].sweep)
        if state is None:
            return
        if state["host"] != socket.gethostname():
            raise UserError(f"the jobs run on {state['host']}: cancel them there")
        process = _server(state, submissions[0].sweep)
        if process is None:
            return
        try:
            process.terminate()
            process.wait(STOP_SECONDS + BEAT_SECONDS)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired as error:
            raise UserError(f"process {error.pid} does not end; its jobs may still save") from error


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def _gpu_memory_gb() -> float:
    """Memory of the smallest GPU here. Raises UserError if nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        line = f"nvidia-smi does not say how much memory a GPU has ({error}); give launcher.gpu_memory_gb="
        raise UserError(line) from error
    return min(float(line) for line in shown.split()) * 2**20 / 1e9


def _lock(sweep: Path) -> Path:
    return sweep / FOLDER / "local.lock"


def _command(sweep: Path) -> list[str]:
    """How Python starts the process that serves a sweep; the number of a submission follows."""
    return ["-m", "iql.launching.local", str(sweep)]


def _server(state: dict, sweep: Path) -> psutil.Process | None:
    """The process of this machine that a state names, if it serves this sweep.

    Another process may have its number by now, and the file may be a stranger's or another sweep's.
    """
    try:
        process = psutil.Process(state["pid"])
        return process if process.cmdline()[-4:-1] == _command(sweep) else None
    except psutil.Error:
        return None


def _state(sweep: Path) -> dict | None:
    """What the process that serves a sweep says of itself, if it lives."""
    path = sweep / FOLDER / "local.json"
    state = read_json(path)
    if state is None:
        return None
    if not isinstance(state, dict) or not state.keys() >= STATE:
        raise UserError(f"{path}: not what a process that starts jobs writes; delete it")
    if state["host"] == socket.gethostname():
        return state if _server(state, sweep) else None
    return state if time.time() - path.stat().st_mtime < STALE_SECONDS else None


def _waiting(submissions: Sequence[Submission], taken: dict[int, int]) -> dict[Place, Queued]:
    queued: dict[Place, Queued] = {}
    for submission in submissions:
        for index in range(taken.get(submission.number, 0), len(submission.jobs)):
            queued[submission.number, index] = Queued(False, f"{len(queued)} jobs before it", "local")
    return queued


class Server:
    """The process that starts a sweep's jobs: in order, one a slot, until none waits or it is told to stop."""

    def __init__(self, ledger: Ledger, first: int, serving: FileLock):
        self.ledger = ledger
        self.first = first
        self.serving = serving
        self.taken: dict[int, int] = {}
        self.free: list[Slot] = []
        self.running: dict[subprocess.Popen, tuple[Place, Slot]] = {}
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def serve(self) -> None:
        """Until nothing is left: whether that is so is looked at while no submitter can add to it.

        The lock `serving` goes first: a submitter that came in between would take this process for one that serves.
        """
        for first in self._submissions()[:1]:  # none if they were cancelled before this process came to them
            self.free = made(first.launcher, LAUNCHERS, f"{first.folder}/index.json: its launcher").slots()
        while True:
            self._work()
            if self.stopping:
                self._end_all()
                break
            with self.ledger.lock():
                if self._next() is None:
                    self._state_path.unlink(missing_ok=True)
                    self.serving.release()
                    return
        self._state_path.unlink(missing_ok=True)

    def _work(self) -> None:
        beaten = 0.0
        while not self.stopping:
            changed = self._reap()
            while self.free and (job := self._next()) is not None:
                self._start(*job)
                changed = True
            if changed or time.monotonic() - beaten > BEAT_SECONDS:
                self._say()
                beaten = time.monotonic()
            if not self.running:
                return
            time.sleep(POLL_SECONDS)

    @property
    def _state_path(self) -> Path:
        return self.ledger.folder / "local.json"

    def _submissions(self) -> list[Submission]:
        own = "iql.launching.local.LocalLauncher"
        return [
            each
            for each in self.ledger.submissions()
            if each.number >= self.first and each.launcher.get("_target_") == own and not each.cancelled
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
                [sys.executable, "-m", "iql.launching.jobs", *arguments],
                cwd=submission.code,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.running[process] = ((submission.number, index), slot)

    def _reap(self) -> bool:
        ended = [process for process in self.running if process.poll() is not None]
        for process in ended:
            _, slot = self.running.pop(process)
            self.free.append(slot)
        return bool(ended)

    def _say(self) -> None:
        state = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "first": self.first,
            "taken": self.taken,
            "running": [place for place, _ in self.running.values()],
        }
        write_json(self._state_path, state)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _end_all(self) -> None:
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
    serving = FileLock(_lock(options.sweep))
    try:
        with serving.acquire(timeout=5):
            Server(Ledger(options.sweep), options.first, serving).serve()
    except Timeout:
        return  # another one serves this sweep, and will see the new jobs


if __name__ == "__main__":
    main()
