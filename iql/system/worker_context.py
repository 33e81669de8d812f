"""The multiprocessing context that starts worker processes: shielded from signals, each with one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerContext(SpawnContext):
    """Starts worker processes, also those of a ProcessPoolExecutor, and keeps them in `workers`.

    An executor's initializer would come too late for what `_Worker.start` sets up, and the executor tells nobody its
    processes, whose exit codes name the cause of a death. It makes a process by calling `Process` of the context and
    `start` of the process; in a version of Python that does so in another way tests/evaluation/test_workers.py fails.
    """

    def __init__(self) -> None:
        self.workers: list[_Worker] = []

    def Process(self, *arguments: Any, **options: Any) -> _Worker:  # type: ignore[override]  # noqa: N802
        self.workers.append(_Worker(*arguments, **options))
        return self.workers[-1]

    def kill(self) -> None:
        """Kill the workers that are still running."""
        for worker in self.workers:
            if worker.is_alive():
                worker.terminate()

    def join(self) -> None:
        """Wait until all workers have ended."""
        for worker in self.workers:
            worker.join()


class _Worker(SpawnProcess):
    """A process that starts with the signals blocked that are meant for its parent, and with one thread."""

    killed = False

    def start(self) -> None:
        start_resource_tracker()  # started within super().start() it would unblock the signals
        with _blocked_signals(), _environment({**dict.fromkeys(_ONE_THREAD, "1"), **_known_glfw()}):
            super().start()

    def terminate(self) -> None:
        # The executor terminates all its processes when one died: only that one's exit code names the cause.
        if not connection.wait([self.sentinel], timeout=0):
            self.killed = True
            self.kill()


def end_with_parent() -> None:
    """In a worker: have it end with the process that started it, however that ends."""
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def start_resource_tracker() -> None:
    """Start multiprocessing's own helper process, out of reach of the signals that SLURM sends to a whole job.

    It ignores SIGINT and SIGTERM by itself; the others it must inherit as blocked.
    """
    with _blocked_signals():
        resource_tracker.ensure_running()


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _known_glfw() -> dict[str, str]:
    """Where this process found GLFW, which Gymnasium's MuJoCo environments import.

    Without it each worker starts a Python of its own that asks the library for its version, and that prints a
    traceback where the worker ends before it.
    """
    library = getattr(sys.modules.get("glfw.library"), "glfw", None)
    return {"PYGLFW_LIBRARY": library._name} if library is not None else {}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    earlier = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
