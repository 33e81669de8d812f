"""Job arrays on a SLURM cluster, submitted through submitit; their state comes from squeue and sacct.

submitit's own job states are not used: it reports a job that is requeued after a node's failure as ended.
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
from iql.launching.job import Job
from iql.launching.launcher import Queued, QueueUnavailable, pack_size_for
from iql.launching.ledger import JobKey, Submission

MAX_REQUEUES = 100_000
"""How often a job may reach its time limit and be requeued."""

MAX_ARRAY_SIZE = 1000
"""Jobs of one array, whose logs share a folder."""

COMMAND_TIMEOUT_SECONDS = 30.0
_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "SIGNALING"}

# For each setting, terms in the messages with which sbatch refuses it.
_NODE = "node configuration"
_REFUSAL_TERMS = {
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
    """The launcher of conf/launcher/slurm.yaml, which documents the settings."""

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
        """The cluster's MaxArraySize, at most MAX_ARRAY_SIZE."""
        shown = re.search(r"MaxArraySize\s*=\s*(\d+)", _output_of("scontrol", "show", "config"))
        return min(int(shown[1]), MAX_ARRAY_SIZE) if shown else MAX_ARRAY_SIZE

    def check(self) -> None:
        """Raises UserError if this machine cannot reach a cluster."""
        if shutil.which("sbatch") is None:
            raise UserError(
                "launcher=slurm: there is no sbatch on this machine; run the command on the cluster's login node, "
                "or use launcher=local"
            )
        try:
            _output_of("scontrol", "ping")
        except QueueUnavailable as error:
            raise UserError(f"launcher=slurm: {error}; nothing was submitted") from error

    def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
        """launcher.pack, else what the GPU's memory allows; 1 on a CPU."""
        if self.pack or not self.gpus or device == "cpu":
            return self.pack or 1
        return pack_size_for(member_bytes, data_bytes, self.gpu_memory_gb)

    def submit(self, submission: Submission) -> None:
        """Submit one array for each chunk. Raises UserError with sbatch's reason."""
        import submitit
        from submitit.core.utils import FailedJobError

        for number, name in enumerate(submission.chunk_names):
            executor = submitit.SlurmExecutor(submission.chunk_folder(number), max_num_timeout=MAX_REQUEUES)
            executor.update_parameters(**self._parameters(name, str(submission.code)))
            first = number * submission.chunk
            try:
                # submitit also prints the errors that it raises.
                with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    for index in range(first, min(first + submission.chunk, len(submission.jobs))):
                        executor.submit(Job(*submission.arguments(index)))
            except FailedJobError as error:
                submitted = f"; {first} of {len(submission.jobs)} jobs were submitted" if first else ""
                raise UserError(f"launcher=slurm: {self._refusal(str(error))}{submitted}") from error

    def _parameters(self, name: str, code: str) -> dict[str, Any]:
        """The parameters of submitit's executor."""
        names = {"time_minutes": "time", "cpus": "cpus_per_task", "gpus": "gpus_per_node"}
        given: dict[str, Any] = {names.get(key, key): value for key, value in self.asked.items() if value is not None}
        quoted = shlex.quote(code)
        given["mem"] = f"{round(given.pop('memory_gb') * 1024)}M"
        return {
            **given,
            "job_name": name,
            "array_parallelism": self.parallel,
            "signal_delay_s": self.warning_seconds,
            # Python starts in the copy of the code, which is therefore first on its path.
            "setup": [*self.setup, f"cd {quoted} && export PYTHONPATH={quoted}${{PYTHONPATH:+:$PYTHONPATH}}"],
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.sbatch},
        }

    def queue(self, submissions: Sequence[Submission]) -> dict[JobKey, Queued]:
        """The jobs of these submissions in squeue. Raises QueueUnavailable."""
        chunks = _chunks(submissions)
        shown = _output_of("squeue", "--noheader", "--array", f"--name={','.join(chunks)}", "--format=%j|%i|%T|%r|%N")
        queued = {}
        for line in shown.splitlines():
            name, job, state, reason, node = line.split("|")
            running = state in _RUNNING
            detail = node if running else reason if state == "PENDING" else f"{state.lower()}, {reason}"
            queued[_job_key(chunks[name], job)] = Queued(running, detail, job)
        return queued

    def ended(self, submissions: Sequence[Submission]) -> dict[JobKey, str]:
        """How jobs ended by sacct; nothing on a cluster without accounting."""
        chunks = _chunks(submissions)
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(min(each.submitted for each in submissions) - 60))
        columns = "--format=JobID,JobName,State"
        try:
            shown = _output_of("sacct", "-nXP", f"--starttime={since}", f"--name={','.join(chunks)}", columns)
        except QueueUnavailable:
            return {}
        ends = {}
        for line in shown.splitlines():
            job, name, state = line.split("|")
            if name in chunks and "[" not in job:
                ends[_job_key(chunks[name], job)] = state.lower().replace("_", " ")
        return ends

    def cancel(self, submissions: Sequence[Submission]) -> None:
        """Cancel the jobs; those that run save first. Raises UserError."""
        try:
            for name in _chunks(submissions):
                _output_of("scancel", f"--name={name}")
        except QueueUnavailable as error:
            raise UserError(f"{error}; nothing more was cancelled") from error

    def _refusal(self, error: str) -> str:
        """The reason of a refusal in one line, with the settings that it concerns."""
        lines = [line.partition("error: ")[2].strip() for line in error.splitlines() if "error: " in line]
        reason = lines[-1].removeprefix("Batch job submission failed: ") if lines else " ".join(error.split())
        about = [key for key, terms in _REFUSAL_TERMS.items() if any(term in reason.lower() for term in terms)]
        asked = ", ".join(f"launcher.{key}={self.asked[key]}" for key in about if self.asked[key] is not None)
        return f"the cluster refused the jobs: {reason}" + (f" ({asked})" if asked else "")


def _chunks(submissions: Sequence[Submission]) -> dict[str, tuple[Submission, int]]:
    """Every chunk by its name, with its submission and the index of its first job."""
    return {name: (each, k * each.chunk) for each in submissions for k, name in enumerate(each.chunk_names)}


def _job_key(chunk: tuple[Submission, int], job: str) -> JobKey:
    submission, first = chunk
    return submission.number, first + int(job.partition("_")[2] or 0)


def _output_of(*command: str) -> str:
    """The output of a SLURM command. Raises QueueUnavailable."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS)
    except FileNotFoundError:
        raise QueueUnavailable(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise QueueUnavailable(f"{command[0]} did not answer within {COMMAND_TIMEOUT_SECONDS:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise QueueUnavailable(f"{command[0]}: {lines[-1].partition('error: ')[2] or lines[-1]}")
    return done.stdout
