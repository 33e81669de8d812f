"""A job as a process: it reads its line of jobs.jsonl and calls the entry point that the line names.

python -m iql.launching.job JOBS OFFSET FAILURE --cores 0,1 --parent PID   (started by the local server)
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import pkgutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iql.config.trust import entry_point

_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Job:
    """One job: called by submitit in a SLURM job, and by `main` on this machine.

    jobs     the file with a line for each job
    offset   where the job's line begins, in bytes
    failure  the file that the reason is written to if the job fails
    """

    jobs: str
    offset: int
    failure: str

    def __call__(self) -> None:
        """Run the job. Raises SystemExit with the entry point's exit code; any other exception is raised again."""
        logging.getLogger("submitit").propagate = False  # submitit prints its lines itself
        failure = Path(self.failure)
        failure.unlink(missing_ok=True)
        try:
            with open(self.jobs, "rb") as file:
                file.seek(self.offset)
                line = json.loads(file.readline())
            entry = entry_point(line["entry"], self.jobs)
            os.chdir(line["folder"])
            pkgutil.resolve_name(entry)(**line["arguments"])
        except SystemExit as end:
            if end.code == 1:
                failure.write_text(f"{end.__cause__ or 'exit code 1'}\n")
            raise
        except Exception as error:
            failure.write_text(f"{type(error).__name__}: {error}\n")
            raise

    def checkpoint(self) -> Any:
        """What submitit runs after a requeue. There is nothing to save here: training saves at the signal."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs")
    parser.add_argument("offset", type=int)
    parser.add_argument("failure")
    parser.add_argument("--cores", required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # no job outlives the process that started it
    if os.getppid() != options.parent:
        sys.exit(128 + signal.SIGTERM)
    os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
    Job(options.jobs, options.offset, options.failure)()


if __name__ == "__main__":
    main()
