"""Rollout workers: processes that play an evaluation's episodes beside training; they import no torch.

An evaluation is cut into chunks of at most CHUNK episodes of one member, each a batch of fixed size in one process, so
that its result does not depend, to the bit, on the number of processes or on which process plays which chunk when.
"""

from __future__ import annotations

import contextlib
import errno
import pickle
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import gymnasium

from iql.errors import UserError
from iql.evaluation.rollout import CHUNK, Act, Episodes, evaluate_chunk
from iql.evaluation.worker_process import initialize, open_environments, play
from iql.system.cpu_cores import usable
from iql.system.worker_context import WorkerContext, start_resource_tracker
from iql.tasks.task import Task

MAX_WORKERS = 16
"""Processes at most unless the settings name a number; each takes some 100 MB."""

SHUTDOWN_SECONDS = 5.0
"""Seconds that workers without a task have to end by themselves."""


class RolloutWorkers:
    """Processes with a task's environments open. They start in the background and die with this one.

    workers  how many; None: one a core, at most MAX_WORKERS and one a chunk
    members, episodes  of one evaluation: how many members, and how many episodes of each

    Raises UserError for a task that cannot be sent to another process, and where no process can be started.
    """

    def __init__(self, task: Task, workers: int | None, members: int, episodes: int) -> None:
        chunks = members * len(_chunks(range(episodes)))
        workers = min(workers or min(usable(), MAX_WORKERS), chunks)
        self._context = WorkerContext()
        arguments = pickled(task, f"the task {type(task).__name__}"), min(CHUNK, episodes), _own_registrations()
        start_resource_tracker()
        self._pool = ProcessPoolExecutor(workers, self._context, initialize, arguments)
        self._submitted: list[Future] = []
        try:
            self._starting = [self._submit(open_environments) for _ in range(workers)]
        except UserError:
            self.close()
            raise

    def play(self, act: bytes, seeds: Sequence[int], keep_observations: bool = False) -> list[Future[Episodes]]:
        """Have one member's episodes played: a future for each chunk; act is a pickled Act of batches [CHUNK, …].

        Raises UserError where a worker died.
        """
        futures = [
            self._submit(play, act, chunk, keep_observations, number * CHUNK)
            for number, chunk in enumerate(_chunks(seeds))
        ]
        self._submitted = [future for future in self._submitted if not future.done()] + futures
        return futures

    def check_start(self) -> None:
        """Raise what kept a worker from opening its environments, once that is known."""
        for future in [future for future in self._starting if future.done()]:
            self.result(future)
            self._starting.remove(future)

    def result(self, future: Future) -> Any:
        """The result of a finished future. Raises what the worker raised, and UserError where the worker died."""
        try:
            return future.result()
        except BrokenProcessPool:
            raise self._death() from None

    def close(self) -> None:
        """End the workers, in the middle of a chunk if need be."""
        if any(not future.done() for future in self._submitted):
            self._context.kill()
        deadline = threading.Timer(SHUTDOWN_SECONDS, self._context.kill)
        deadline.start()
        self._pool.shutdown(wait=True, cancel_futures=True)
        deadline.cancel()

    def _submit(self, *call: Any) -> Future:
        """Submit a call to the pool, which may start another worker for it. Raises UserError."""
        try:
            return self._pool.submit(*call)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOMEM):
                raise UserError(
                    f"a process that plays the evaluation's episodes cannot be started: {error.strerror}; "
                    "evaluation.workers=N makes them fewer"
                ) from error
            raise self._death() from None  # of a worker, before or while another was started
        except BrokenProcessPool:
            raise self._death() from None

    def _death(self) -> UserError:
        code, deadline = None, time.monotonic() + SHUTDOWN_SECONDS
        while code is None and time.monotonic() < deadline:  # the exit code may come a moment after the failure
            codes = [worker.exitcode for worker in self._context.workers if not worker.killed]
            code = next((code for code in codes if code is not None), None)
            time.sleep(0.01)
        if code is None:
            cause = "while it was started"
        else:
            cause = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if code == -signal.SIGKILL:
            cause += ", most likely for lack of memory: each takes some 100 MB, evaluation.workers=N makes them fewer"
        return UserError(
            f"a process that plays the evaluation's episodes died ({cause}); give the same command again: a training "
            "goes on from its last checkpoint"
        )


def pickled(thing: object, name: str) -> bytes:
    """The pickle of an object for another process. Raises UserError that calls the object `name`."""
    try:
        return pickle.dumps(thing)
    except Exception as error:  # a user's class may raise anything
        raise UserError(
            f"{name} cannot be sent to the processes that play the evaluation's episodes "
            f"({' '.join(str(error).split())}): keep open files, locks and lambdas out of it, or use evaluation=none"
        ) from error


def step_seconds(task: Task, act: Act, seeds: Sequence[int]) -> float:
    """Seconds that one step of one episode takes on one core, simulator, policy and resets together.

    Measured in this process, in chunks as workers play them: act takes batches [CHUNK, …].
    """
    envs = task.make_envs(min(CHUNK, len(seeds)))
    began = time.perf_counter()
    steps = sum(int(evaluate_chunk(act, envs, chunk).lengths.sum()) for chunk in _chunks(seeds))
    taken = time.perf_counter() - began
    envs.close()
    return taken / steps


def _chunks(seeds: Sequence[int]) -> list[Sequence[int]]:
    return [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]


def _own_registrations() -> list[bytes]:
    """The environments registered here beside Gymnasium's own, for workers, which import other modules."""
    specs = []
    for spec in gymnasium.registry.values():
        if not str(spec.entry_point).startswith("gymnasium"):
            with contextlib.suppress(Exception):  # one that cannot be pickled is missing in the workers
                specs.append(pickle.dumps(spec))
    return specs
