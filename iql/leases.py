"""One owner at a time for a run directory: a lock on one host, a lease with a heartbeat between hosts.

A newer life of the same SLURM job takes the lease over: Slurm may start a second copy of a job while the
first still runs. The older life finds its token gone before its next write and leaves.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from iql.errors import UserError
from iql.storage import read_json, write_json

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # a lease from another host, unbeaten for so long, is nobody's


@dataclass(frozen=True)
class Owner:
    """Who holds a lease. job is "" outside SLURM; life counts a job's restarts."""

    token: str
    host: str
    pid: int
    job: str
    life: int

    @classmethod
    def this_process(cls) -> Owner:
        """This process, with a token of its own."""
        job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            job=f"{job}_{task}" if job and task else job,
            life=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

    def succeeds(self, other: Owner) -> bool:
        """Whether this is a newer life of the job that `other` is."""
        return bool(self.job) and self.job == other.job and self.life > other.life

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


def live_owner(directory: Path, now: float) -> Owner | None:
    """Who trains in a run directory, judged from outside; now: the time of the file server.

    Nobody, if the heartbeat is old or, on this host, the process is gone.
    """
    path = directory / "lease.json"
    try:
        if now - path.stat().st_mtime > STALE_SECONDS:
            return None
        owner = Owner(**read_json(path))
    except (OSError, UserError, TypeError):
        return None
    return None if owner.host == socket.gethostname() and not psutil.pid_exists(owner.pid) else owner


class LeaseLost(Exception):
    """A newer life of this job has taken the run over: write nothing more."""


class Lease:
    """The right to write into one run directory."""

    def __init__(self, directory: Path, owner: Owner):
        self.directory = directory
        self.owner = owner
        self.path = directory / "lease.json"
        self._lock = FileLock(directory / ".lock")

    def acquire(self) -> None:
        """Raises UserError that says who owns the directory, if somebody does."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            raise UserError(f"{self.path}: a folder stands where a file should; move it away")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._holder()
            if holder is None or not self.owner.succeeds(holder):
                raise self._taken(holder) from None
            self._write()  # the older life sees this before its next write, and leaves
            try:
                self._lock.acquire(timeout=STALE_SECONDS)
            except Timeout:
                raise self._taken(holder) from None
        holder = self._holder()
        if holder is not None and holder.host != self.owner.host and not self.owner.succeeds(holder):
            age = self._age()
            if age < STALE_SECONDS:
                self._lock.release()
                raise self._taken(holder)
        self._write()

    def check(self) -> None:
        """Raises LeaseLost if the directory is no longer ours."""
        holder = self._holder()
        if holder is None or holder.token != self.owner.token:
            raise LeaseLost(f"{self.directory}: {holder or 'somebody'} has taken this run over")

    def beat(self) -> None:
        """Say that the owner lives."""
        os.utime(self.path)

    def release(self) -> None:
        holder = self._holder()
        if holder is not None and holder.token == self.owner.token:
            self.path.unlink(missing_ok=True)
        self._lock.release()

    def _write(self) -> None:
        write_json(self.path, asdict(self.owner))

    def _holder(self) -> Owner | None:
        try:
            return Owner(**read_json(self.path))
        except (UserError, TypeError):
            return None

    def _age(self) -> float:
        # Both times are the file server's: the hosts' clocks need not agree.
        probe = self.directory / f".clock.{self.owner.token}"
        probe.touch()
        try:
            return probe.stat().st_mtime - self.path.stat().st_mtime
        finally:
            probe.unlink()

    def _taken(self, holder: Owner | None) -> UserError:
        who = f"is being trained by {holder}" if holder else "is being started by another process"
        return UserError(f"{self.directory} {who}; wait for it, or stop it first")


class Leases:
    """The leases of a job's runs, kept alive by one thread."""

    def __init__(self, directories: Sequence[Path]):
        owner = Owner.this_process()
        self._leases = {directory: Lease(directory, owner) for directory in directories}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)

    def __enter__(self) -> Leases:
        held: list[Lease] = []
        try:
            for lease in self._leases.values():
                lease.acquire()
                held.append(lease)
        except BaseException:
            for lease in held:
                lease.release()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()
        self._thread.join()
        for lease in self._leases.values():
            lease.release()

    def check(self, directory: Path) -> None:
        """Raises LeaseLost if `directory` is no longer ours."""
        self._leases[directory].check()

    def _beat(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + BEAT_SECONDS
            for lease in self._leases.values():
                # A file server that is away for a moment: the next beat may reach it.
                try:
                    lease.beat()
                except OSError:
                    continue
