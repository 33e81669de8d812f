"""Leases: one process at a time owns a run directory, by a lock on one host and a heartbeat between hosts.

A later attempt of the same SLURM job takes the lease over, as SLURM may start a second copy of a job while the first
still runs. The earlier attempt finds that its token was replaced before its next write, and ends.
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
from iql.system.atomic_files import read_json, write_json

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # a lease of another host without a heartbeat for this long is free


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease. job is "" outside SLURM; life counts the restarts of a job."""

    token: str
    host: str
    pid: int
    job: str
    life: int

    @classmethod
    def this_process(cls) -> Owner:
        """This process, with a new token."""
        job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            job=f"{job}_{task}" if job and task else job,
            life=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

    def is_restart_of(self, other: Owner) -> bool:
        """Whether this is a later attempt of the same SLURM job as `other`."""
        return bool(self.job) and self.job == other.job and self.life > other.life

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


def live_owner(directory: Path, now: float) -> Owner | None:
    """The process that trains the run of a directory; now: the time that the heartbeat's age is measured by.

    None if there is no lease, the heartbeat is old or, on this host, the process has ended.
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
    """A later attempt of this job has taken the run over; this process must not write to it any more."""


class Lease:
    """The right to write to one run directory."""

    def __init__(self, directory: Path, owner: Owner):
        self.directory = directory
        self.owner = owner
        self.path = directory / "lease.json"
        self._lock = FileLock(directory / ".lock")

    def acquire(self) -> None:
        """Take the lease. Raises UserError with the owner if another process has it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            raise UserError(f"{self.path}: a folder stands where a file should; move it away")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._holder()
            if holder is None or not self.owner.is_restart_of(holder):
                raise self._taken(holder) from None
            self._write()  # the earlier attempt sees this before its next write, and ends
            try:
                self._lock.acquire(timeout=STALE_SECONDS)
            except Timeout:
                raise self._taken(holder) from None
        holder = self._holder()
        if holder is not None and holder.host != self.owner.host and not self.owner.is_restart_of(holder):
            age = self._age()
            if age < STALE_SECONDS:
                self._lock.release()
                raise self._taken(holder)
        self._write()

    def check(self) -> None:
        """Raise LeaseLost if this process has lost the lease."""
        holder = self._holder()
        if holder is None or holder.token != self.owner.token:
            raise LeaseLost(f"{self.directory}: {holder or 'somebody'} has taken this run over")

    def beat(self) -> None:
        """Write the heartbeat."""
        os.utime(self.path)

    def release(self) -> None:
        """Give the lease up, unless another process has taken it over."""
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
        # Both times are the file server's, as the clocks of hosts may differ.
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
    """The leases of a job's runs, with one thread that writes the heartbeats."""

    def __init__(self, directories: Sequence[Path]):
        owner = Owner.this_process()
        self._leases = {directory: Lease(directory, owner) for directory in directories}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)

    def __enter__(self) -> Leases:
        acquired: list[Lease] = []
        try:
            for lease in self._leases.values():
                lease.acquire()
                acquired.append(lease)
        except BaseException:
            for lease in acquired:
                lease.release()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stopped.set()
        self._thread.join()
        for lease in self._leases.values():
            lease.release()

    def check(self, directory: Path) -> None:
        """Raise LeaseLost if this process has lost the lease of `directory`."""
        self._leases[directory].check()

    def _beat(self) -> None:
        due = time.monotonic()
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + BEAT_SECONDS
            for lease in self._leases.values():
                # The file server may be unavailable for a moment; the next heartbeat may succeed.
                try:
                    lease.beat()
                except OSError:
                    continue
