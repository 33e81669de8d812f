"""Job arrays on a SLURM cluster, through submitit; what the queue knows is asked of squeue and sacct themselves.

submitit's own word on a job is not asked for: it takes a node's failure for the end of a job that is requeued.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from iql.errors import UserError
from iql.launching.jobs import Job
from iql.launching.launcher import Queued, Silent, fitting
from iql.launching.ledger import Place, Submission

LIVES = 100_000
"""Times that a job may come to its time limit and be requeued."""

CHUNK = 1000
"""Jobs of one array at most, whose logs share a folder."""

ANSWER_SECONDS = 30.0
_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "SIGNALING"}

# What a refusal is about, by words in it.
_NODE = "node configuration"
_ABOUT = {
    "partition": ("partition",),
    "account": ("account",),
    "qos": ("qos",),
    "constraint": ("feature", "constraint", _NODE),
    "time_minutes": ("time limit",),
    "cpus": ("processors", "cpu", _NODE),
    "memory_gb": ("memory", _NODE),
    "gpus": ("gres", _NODE),
}


class SlurmLauncher:
    """conf/launcher/slurm.yaml says what each setting means."""

    def __init__(
        self,
        *,
        partition: str | None,
        account: str | None,
        qos: str | None,
        constraint: str | None,
        time_minutes: int,
        cpus: int,
        memory_gb: float,
        gpus: int,
        gpu_memory_gb: float,
        pack: int | None,
        parallel: int,
        warning_seconds: int,
        setup: Sequence[str],
        sbatch: dict[str, Any],
    ):
        self.gpus, self.gpu_memory_gb, self.pack = gpus, gpu_memory_gb, pack
        self.setup, self.sbatch = list(setup), dict(sbatch)
        self.parallel, self.warning_seconds = parallel, warning_seconds
        self.asked: dict[str, Any] = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "time_minutes": time_minutes,
            "cpus": cpus,
            "memory_gb": memory_gb,
            "gpus": gpus or None,
        }

    @property
    def chunk(self) -> int:
        """The cluster's MaxArraySize, at most CHUNK."""
        shown = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
        return min(int(shown[1]), CHUNK) if shown else CHUNK

    def check(self) -> None:
        """Raises UserError if this machine cannot reach a cluster."""
        if shutil.which("sbatch") is None:
            raise UserError(
                "launcher=slurm: there is no sbatch on this machine; run the command on the cluster's login node, "
                "or use launcher=local"
            )
        try:
            _ask("scontrol", "ping")
        except Silent as silence:
            raise UserError(f"launcher=slurm: {silence}; nothing was submitted") from silence

    def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
        """launcher.pack, else what the GPU's memory allows; 1 on a CPU."""
        if self.pack or not self.gpus or device == "cpu":
            return self.pack or 1
        return fitting(member_bytes, data_bytes, self.gpu_memory_gb)

    def submit(self, submission: Submission) -> None:
        """One array a chunk. Raises UserError with what sbatch said."""
        import submitit
        from submitit.core.utils import FailedJobError

        for number, name in enumerate(submission.names):
            executor = submitit.SlurmExecutor(submission.chunk_folder(number), max_num_timeout=LIVES)
            executor.update_parameters(**self._parameters(name, str(submission.code)))
            first = number * submission.chunk
            try:
                # submitit prints what it raises.
                with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    for index in range(first, min(first + submission.chunk, len(submission.jobs))):
                        executor.submit(Job(*submission.arguments(index)))
            except FailedJobError as error:
                handed = f"; {first} of {len(submission.jobs)} jobs were submitted" if first else ""
                raise UserError(f"launcher=slurm: {self._refusal(str(error))}{handed}") from error

    def _parameters(self, name: str, code: str) -> dict[str, Any]:
        """What submitit calls sbatch with."""
        names = {"time_minutes": "time", "cpus": "cpus_per_task", "gpus": "gpus_per_node"}
        given: dict[str, Any] = {names.get(key, key): value for key, value in self.asked.items() if value is not None}
        quoted = shlex.quote(code)
        given["mem"] = f"{round(given.pop('memory_gb') * 1024)}M"
        return {
            **given,
            "job_name": name,
            "array_parallelism": self.parallel,
            "signal_delay_s": self.warning_seconds,
            # The snapshot is where Python starts and so comes first on its path.
            "setup": [*self.setup, f"cd {quoted} && export PYTHONPATH={quoted}${{PYTHONPATH:+:$PYTHONPATH}}"],
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.sbatch},
        }

    def queue(self, submissions: Sequence[Submission]) -> dict[Place, Queued]:
        """What squeue shows of these submissions. Raises Silent."""
        chunks = _chunks(submissions)
        shown = _ask("squeue", "--noheader", "--array", f"--name={','.join(chunks)}", "--format=%j|%i|%T|%r|%N")
        queued = {}
        for line in shown.splitlines():
            name, job, state, reason, node = line.split("|")
            running = state in _RUNNING
            detail = node if running else reason if state == "PENDING" else f"{state.lower()}, {reason}"
            queued[_place(chunks[name], job)] = Queued(running, detail, job)
        return queued

    def ended(self, submissions: Sequence[Submission]) -> dict[Place, str]:
        """How accounting says that jobs ended; nothing where a cluster keeps none."""
        chunks = _chunks(submissions)
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(min(each.submitted for each in submissions) - 60))
        columns = "--format=JobID,JobName,State"
        try:
            shown = _ask("sacct", "-nXP", f"--starttime={since}", f"--name={','.join(chunks)}", columns)
        except Silent:
            return {}
        ends = {}
        for line in shown.splitlines():
            job, name, state = line.split("|")
            if name in chunks and "[" not in job:
                ends[_place(chunks[name], job)] = state.lower().replace("_", " ")
        return ends

    def cancel(self, submissions: Sequence[Submission]) -> None:
        """scancel; what runs saves before it ends."""
        try:
            for name in _chunks(submissions):
                _ask("scancel", f"--name={name}")
        except Silent as silence:
            raise UserError(f"{silence}; nothing more was cancelled") from silence

    def _refusal(self, error: str) -> str:
        """What sbatch refused, in one line, with the setting that it is about."""
        said = [line.partition("error: ")[2].strip() for line in error.splitlines() if "error: " in line]
        reason = said[-1].removeprefix("Batch job submission failed: ") if said else " ".join(error.split())
        about = [key for key, words in _ABOUT.items() if any(word in reason.lower() for word in words)]
        asked = ", ".join(f"launcher.{key}={self.asked[key]}" for key in about if self.asked[key] is not None)
        return f"the cluster refused the jobs: {reason}" + (f" ({asked})" if asked else "")


def _chunks(submissions: Sequence[Submission]) -> dict[str, tuple[Submission, int]]:
    """Every chunk by its name: its submission and the index of its first job."""
    return {name: (each, k * each.chunk) for each in submissions for k, name in enumerate(each.names)}


def _place(chunk: tuple[Submission, int], job: str) -> Place:
    submission, first = chunk
    return submission.number, first + int(job.partition("_")[2] or 0)


def _ask(*command: str) -> str:
    """What a SLURM command prints. Raises Silent."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except FileNotFoundError:
        raise Silent(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise Silent(f"{command[0]} did not answer within {ANSWER_SECONDS:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Silent(f"{command[0]}: {lines[-1].partition('error: ')[2] or lines[-1]}")
    return done.stdout
