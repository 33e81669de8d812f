"""Work on many items that is divided among processes which end with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import TypeVar

from iql.system.worker_context import WorkerContext

Item = TypeVar("Item")
Result = TypeVar("Result")


def divided(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> list[Result]:
    """function(item) of every item, in their order, computed by so many processes, this one among them.

    Function, items and results are pickled. What a process does not deliver, because it failed or died, is computed
    here, which also raises what the function raises. The program's main module is imported by each process, so that it
    must do nothing on import.
    """
    shares = [range(first, len(items), processes) for first in range(processes)]
    context = WorkerContext()
    receivers = []
    try:
        for share in shares[1:]:
            receiver, sender = context.Pipe(duplex=False)
            arguments = (sender, function, [items[index] for index in share])
            context.Process(target=_deliver, args=arguments, daemon=True).start()
            sender.close()
            receivers.append(receiver)
        found = {index: function(items[index]) for index in shares[0]}
        for share, receiver in zip(shares[1:], receivers, strict=True):
            try:
                results = receiver.recv()
            except EOFError:
                results = [function(items[index]) for index in share]
            found.update(zip(share, results, strict=True))
    finally:
        context.kill()
    return [found[index] for index in range(len(items))]


def _deliver(sender: connection.Connection, function: Callable[[Item], Result], items: list[Item]) -> None:
    try:
        sender.send([function(item) for item in items])
    except Exception:
        return  # the receiver computes them, and raises the error where it is seen
