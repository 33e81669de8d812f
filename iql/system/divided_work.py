"""Work on many items that is divided among processes which end with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import TypeVar

from iql.system.worker_context import WorkerContext, end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def divided(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> list[Result]:
    """function(item) of every item, in their order, computed by so many processes, this one among them.

    Function, items and results are pickled. What a process does not deliver, because it cannot start, fails or dies, is
    computed here, which also raises what the function raises. The program's main module is imported by each process, so
    that it must do nothing on import.

    Each process has a pipe of its own: those of a ProcessPoolExecutor share one, on which all wait for ever if a
    process is killed in the middle of a large result.
    """
    shares = [range(first, len(items), processes) for first in range(processes)]
    context = WorkerContext()
    try:
        receivers = [_start(context, function, [items[index] for index in share]) for share in shares[1:]]
        found = {index: function(items[index]) for index in shares[0]}
        for share, receiver in zip(shares[1:], receivers, strict=True):
            try:
                results = receiver.recv()
            except (EOFError, OSError):  # OSError: it ended in the middle of its results
                results = [function(items[index]) for index in share]
            found.update(zip(share, results, strict=True))
    finally:
        context.kill()
        context.join()
    return [found[index] for index in range(len(items))]


def _start(context: WorkerContext, function: Callable, items: list) -> connection.Connection:
    """Start a process on these items; what its results come from, which ends at once if it cannot be started."""
    receiver, sender = context.Pipe(duplex=False)
    with sender:
        try:
            context.Process(target=_deliver, args=(sender, function, items), daemon=True).start()
        except OSError:  # no more processes, or no memory
            context.workers.pop()
    return receiver


def _deliver(sender: connection.Connection, function: Callable, items: list) -> None:
    end_with_parent()
    try:
        sender.send([function(item) for item in items])
    except Exception:
        return  # the receiver computes them, and raises the error where it is seen
