"""The processes that play an evaluation's episodes beside training; they import no torch.

What is played is cut into chunks of CHUNK episodes of one member, each a batch of fixed size in one process,
so that neither the number of processes nor who plays what when changes a bit of it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from iql.cores import usable
from iql.errors import UserError
from iql.evaluation import Episodes, evaluate
from iql.tasks import Task

CHUNK = 5
"""Episodes that are played side by side, whose policy's inputs make one batch."""

MOST = 16
"""Processes at most unless told otherwise; each takes some 100 MB."""

CLOSING = 5.0
"""Seconds that players without work have to end by themselves."""

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Act = Callable[[np.ndarray], np.ndarray]


class Players:
    """Processes with a task's environments open. They start in the background and die with this one.

    workers  how many; None: one a core, at most MOST and one a chunk
    members, episodes  what an evaluation is of

    Raises UserError for a task that cannot be sent to another process, and where no process can be started.
    """

    def __init__(self, task: Task, workers: int | None, members: int, episodes: int) -> None:
        chunks = members * len(_chunks(range(episodes)))
        workers = min(workers or min(usable(), MOST), chunks)
        self._context = _PlayerContext()
        stage = pickled(task, f"the task {type(task).__name__}"), min(CHUNK, episodes), _own_environments()
        _start_tracker()
        self._pool = ProcessPoolExecutor(workers, self._context, _begin, stage)
        self._given: list[Future] = []
        try:
            self._starting = [self._submit(_ready) for _ in range(workers)]
        except UserError:
            self.close()
            raise

    def play(self, act: bytes, seeds: Sequence[int], keep_observations: bool = False) -> list[Future[Episodes]]:
        """One member's episodes, a future for each chunk of them; act is a pickled Act of batches [CHUNK, …].

        Raises UserError where a player died.
        """
        futures = [
            self._submit(_play, act, chunk, keep_observations, number * CHUNK)
            for number, chunk in enumerate(_chunks(seeds))
        ]
        self._given = [future for future in self._given if not future.done()] + futures
        return futures

    def check_start(self) -> None:
        """Raise what kept a player from opening its environments, once that is known."""
        for future in [future for future in self._starting if future.done()]:
            self.result(future)
            self._starting.remove(future)

    def result(self, future: Future) -> Any:
        """What a finished future holds. Raises what the player raised, and UserError where it died."""
        try:
            return future.result()
        except BrokenProcessPool:
            raise self._death() from None

    def close(self) -> None:
        """End the players, in the middle of a chunk if need be."""
        if any(not future.done() for future in self._given):
            self._context.kill()
        hurry = threading.Timer(CLOSING, self._context.kill)
        hurry.start()
        self._pool.shutdown(wait=True, cancel_futures=True)
        hurry.cancel()

    def _submit(self, *call: Any) -> Future:
        """Hand a call to the players, of which this may start another. Raises UserError."""
        try:
            return self._pool.submit(*call)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOMEM):
                raise UserError(
                    f"a process that plays the evaluation's episodes cannot be started: {error.strerror}; "
                    "evaluation.workers=N makes them fewer"
                ) from error
            raise self._death() from None  # of a player, before or while another was started
        except BrokenProcessPool:
            raise self._death() from None

    def _death(self) -> UserError:
        how, patience = None, time.monotonic() + CLOSING
        while how is None and time.monotonic() < patience:  # the system may take a moment to say how it ended
            codes = [player.exitcode for player in self._context.players if not player.killed]
            how = next((code for code in codes if code is not None), None)
            time.sleep(0.01)
        cause = "while it was started" if how is None else f"exit code {how}" if how > 0 else signal.Signals(-how).name
        if how == -signal.SIGKILL:
            cause += ", most likely for lack of memory: each takes some 100 MB, evaluation.workers=N makes them fewer"
        return UserError(
            f"a process that plays the evaluation's episodes died ({cause}); give the same command again: a training "
            "goes on from its last checkpoint"
        )


def pickled(thing: object, name: str) -> bytes:
    """The thing as bytes for another process. Raises UserError that calls it `name`."""
    try:
        return pickle.dumps(thing)
    except Exception as error:  # whatever a user's class may raise
        raise UserError(
            f"{name} cannot be sent to the processes that play the evaluation's episodes "
            f"({' '.join(str(error).split())}): keep open files, locks and lambdas out of it, or use evaluation=none"
        ) from error


def step_seconds(task: Task, act: Act, seeds: Sequence[int]) -> float:
    """Seconds that one step of one episode takes on one core, simulator, policy and resets together.

    It is measured in this process as players play: act takes batches [CHUNK, …].
    """
    envs = task.make_envs(min(CHUNK, len(seeds)))
    began = time.perf_counter()
    steps = sum(int(play_chunk(act, envs, chunk, False).lengths.sum()) for chunk in _chunks(seeds))
    taken = time.perf_counter() - began
    envs.close()
    return taken / steps


class _Player(SpawnProcess):
    """A process that begins with our signals blocked, which are for its parent, and with one thread."""

    killed = False

    def start(self) -> None:
        resource_tracker.ensure_running()  # where it is started it unblocks signals
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with _environment({**dict.fromkeys(_ONE_THREAD, "1"), **_known_glfw()}):
                super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, earlier)

    def terminate(self) -> None:
        if not connection.wait([self.sentinel], timeout=0):  # else it ended by itself
            self.killed = True
            self.kill()


def _start_tracker() -> None:
    """Start multiprocessing's own helper process, out of reach of the signals that SLURM sends to a whole job.

    It ignores SIGINT and SIGTERM by itself; the others it must inherit as blocked.
    """
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


class _PlayerContext(SpawnContext):
    """Makes players, and knows those it made."""

    def __init__(self) -> None:
        self.players: list[_Player] = []

    def Process(self, *arguments: Any, **options: Any) -> _Player:  # type: ignore[override]  # noqa: N802
        self.players.append(_Player(*arguments, **options))
        return self.players[-1]

    def kill(self) -> None:
        for player in self.players:
            if player.is_alive():
                player.terminate()


def _known_glfw() -> dict[str, str]:
    """Where this process found GLFW, which Gymnasium's MuJoCo environments import.

    Without it each player starts a Python of its own that asks the library for its version, and leaves a traceback
    where the player ends before it.
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


def _chunks(seeds: Sequence[int]) -> list[Sequence[int]]:
    return [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]


def _own_environments() -> list[bytes]:
    """What has been registered here beside Gymnasium's own environments, for players that import other modules."""
    specs = []
    for spec in gymnasium.registry.values():
        if not str(spec.entry_point).startswith("gymnasium"):
            with contextlib.suppress(Exception):  # what cannot be pickled cannot be had there
                specs.append(pickle.dumps(spec))
    return specs


# What follows runs in a player. Its stage: the task, the number of environments, the user's registrations.
_stage: tuple[bytes, int, list[bytes]]


def _begin(*stage: Any) -> None:
    global _stage
    _stage = stage
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # warnings came from the parent already
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@cache
def _envs() -> VectorEnv:
    task, num, specs = _stage
    for spec in specs:
        with contextlib.suppress(Exception):  # of a module that is not to be had: gymnasium.make says so
            own = pickle.loads(spec)
            gymnasium.registry.setdefault(own.id, own)
    envs = pickle.loads(task).make_envs(num)
    atexit.register(envs.close)
    return envs


def _ready() -> None:
    try:
        _envs()
    except Exception as error:
        raise _portable(error) from error


def _play(act: bytes, seeds: Sequence[int], keep_observations: bool, first: int) -> Episodes:
    try:
        return play_chunk(pickle.loads(act), _envs(), seeds, keep_observations, first)
    except Exception as error:
        raise _portable(error) from error


def play_chunk(act: Act, envs: VectorEnv, seeds: Sequence[int], keep_observations: bool, first: int = 0) -> Episodes:
    """At most CHUNK episodes, from number `first` on, as a player plays them; act takes batches [CHUNK, …]."""
    batch = np.zeros((CHUNK, *(envs.single_observation_space.shape or ())), np.float32)

    def padded(rows: np.ndarray) -> np.ndarray:
        batch[: len(seeds)] = rows[0]
        return act(batch)[None, : len(seeds)]

    return evaluate(padded, envs, [seeds], keep_observations, first)[0]


def _portable(error: Exception) -> Exception:
    """The exception if it survives the way to the parent, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
