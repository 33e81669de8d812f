"""One member's updates on two threads, as a pipeline of two stages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import torch

from iql.data.sampling import Batches
from iql.execution.iql_gradients import IQLGradients
from iql.learner.learner import Metrics


@torch.no_grad()
def on_two_threads(
    update: IQLGradients, batches: Batches, numbers: range, measure: bool, pool: ThreadPoolExecutor
) -> Metrics | None:
    """One member's updates on this thread and one of the pool; returns the last one's metrics if `measure`.

    An update has 16 large products. This thread computes the first target, V's passes and the first Q's backward pass;
    the other one the second target, both Q's forward passes, the second Q's backward pass and the policy's step of the
    update before, which no other stage needs. So each has 8 products, and waits little for the other.
    """
    there: SimpleQueue[Any] = SimpleQueue()
    back: SimpleQueue[Any] = SimpleQueue()
    other = pool.submit(_second_thread, update, numbers, there, back)
    try:
        batch = batches.at(numbers[0])
        there.put(batch)
        for number in numbers:
            update.load_pairs(batch, number, 0)
            there.put("the first Q has its pairs and its weights")
            update.target(0)
            _receive(back)
            target_q, v, target, measured = update.value(batch, measure and number == numbers[-1])
            _receive(back)
            weights = update.weigh(target_q, v, measured)
            there.put((weights, target, measured))
            if number < numbers[-1]:
                batch = batches.at(number + 1)
                there.put(batch)
            update.backward_q(0, target, measured)
    except BaseException as error:
        there.put(error)
        raise
    other.result()
    return update.metrics(batch, numbers[-1], weights, target, measured)


@torch.no_grad()
def _second_thread(update: IQLGradients, numbers: range, there: SimpleQueue[Any], back: SimpleQueue[Any]) -> None:
    delayed: tuple[Any, ...] | None = None  # the policy's step, one update late: nothing waits for it
    try:
        for number in numbers:
            batch = _receive(there)
            update.load_pairs(batch, number, 1)
            update.target(1)
            back.put("the second target")
            _receive(there)
            update.forward_q(0)
            update.forward_q(1)
            back.put("both Q's forward passes")
            if delayed is not None:
                update.policy(*delayed)
            weights, target, measured = _receive(there)
            update.backward_q(1, target, measured)
            delayed = batch, weights, number, measured
        if delayed is not None:
            update.policy(*delayed)
    except BaseException as error:
        back.put(error)
        raise


def _receive(messages: SimpleQueue[Any]) -> Any:
    """The next message of the other thread. Raises RuntimeError if it failed."""
    message = messages.get()
    if isinstance(message, BaseException):
        raise RuntimeError("the other thread of the update failed") from message
    return message
