"""Jobs on this machine, which a server process of their sweep starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from iql.errors import UserError
from iql.launching import local_server
from iql.launching.launcher import Queued, pack_size_for
from iql.launching.ledger import FOLDER, JobKey, Submission
from iql.launching.local_server import STOP_SECONDS, Slot, find_process, read_state
from iql.runs.leases import BEAT_SECONDS
from iql.system.cpu_cores import pinned, usable

START_POLL_SECONDS = 0.05


class LocalLauncher:
    """The launcher of conf/launcher/local.yaml, which documents the settings."""

    chunk = 1000

    def __init__(self, *, workers: int | None, pack: int | None, gpu_memory_gb: float | None):
        self.workers, self.pack, self.gpu_memory_gb = workers, pack, gpu_memory_gb

    def check(self) -> None:
        """Nothing to check: this machine is always available."""

    def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
        """launcher.pack, else what a GPU's memory allows; 1 on a CPU."""
        if self.pack or device == "cpu" or not gpus():
            return self.pack or 1
        return pack_size_for(member_bytes, data_bytes, self.gpu_memory_gb or _gpu_memory_gb())

    def slots(self) -> list[Slot]:
        """A slot for each job that runs at a time. They divide the cores, and the CPU time that a container may use."""
        cores, total, devices = pinned(), usable(), gpus()
        workers = min(self.workers or len(devices) or total, total)
        return [
            Slot(cores[k::workers], -(-total // workers), devices[k % len(devices)] if devices else None)
            for k in range(workers)
        ]

    def submit(self, submission: Submission) -> None:
        """Start the sweep's server; one that runs already finds the new jobs in the ledger.

        Raises UserError if it does not start.
        """
        sweep = submission.sweep
        try:
            with FileLock(local_server.lock_path(sweep), timeout=0):
                pass
        except Timeout:
            return  # the server reads the ledger before it ends
        path = sweep / FOLDER / "local.log"
        with open(path, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *local_server.command(sweep, submission.number)],
                cwd=submission.code,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while read_state(sweep) is None:
            if process.poll():
                lines = path.read_text().splitlines() or [f"exit code {process.returncode}"]
                raise UserError(f"launcher=local: no job could be started: {lines[-1]} ({path})")
            if process.returncode == 0:
                return  # all jobs have ended already
            time.sleep(START_POLL_SECONDS)

    def queue(self, submissions: Sequence[Submission]) -> dict[JobKey, Queued]:
        """The jobs that the server runs, and those that it has not started."""
        sweep = submissions[0].sweep
        state = read_state(sweep)
        if state is None:
            return {}
        served = [each for each in submissions if each.number >= state["first"] and not each.cancelled]
        queued = _waiting(served, {int(number): taken for number, taken in state["taken"].items()})
        for number, index in state["running"]:
            queued[number, index] = Queued(True, state["host"], "local")
        return queued

    def ended(self, submissions: Sequence[Submission]) -> dict[JobKey, str]:
        """Nothing: the server keeps no record of jobs that ended."""
        return {}

    def cancel(self, submissions: Sequence[Submission]) -> None:
        """Ask the server to stop its jobs, which save their state first, and wait until it has ended."""
        state = read_state(submissions[0].sweep)
        if state is None:
            return
        if state["host"] != socket.gethostname():
            raise UserError(f"the jobs run on {state['host']}: cancel them there")
        process = find_process(state, submissions[0].sweep)
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


def _waiting(submissions: Sequence[Submission], taken: dict[int, int]) -> dict[JobKey, Queued]:
    """The jobs that wait; taken: how many jobs of each submission were started."""
    queued: dict[JobKey, Queued] = {}
    for submission in submissions:
        for index in range(taken.get(submission.number, 0), len(submission.jobs)):
            queued[submission.number, index] = Queued(False, f"{len(queued)} jobs before it", "local")
    return queued
