"""How a learner's updates are carried out: which code path, on which threads, or as CUDA graphs.

plain   IQL.update with autograd, for networks, optimizers and algorithms of a user's own
native  native.NativeUpdate, on a CPU in C: each member on one thread; a member alone on two, in two lanes
fused   fused.FusedUpdate, the same with torch's operations
graphs  fused.FusedUpdate on CUDA: the whole pack at once, many updates in one CUDA graph
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iql.draws import Batches
from iql.errors import UserError
from iql.fused import FusedUpdate
from iql.native import Library, NativeUpdate, Unavailable, load
from iql.networks import Policy, TwinQ, Value
from iql.passes import Flat, FlatAdam

if TYPE_CHECKING:
    from iql.learner import IQL

log = logging.getLogger(__name__)

LOW = {"float32": None, "ieee": None, "bf16": torch.bfloat16}
"""The type of the large products by `precision`."""

UPDATES_PER_GRAPH = 16
"""Updates captured in one CUDA graph: launching it is then nothing beside them."""

Metrics = dict[str, Tensor]


def obstacle(learner: IQL) -> str | None:
    """Why a learner's updates cannot be fused, or None: only what we know by heart has its gradients written out."""
    from iql.learner import IQL

    if type(learner) is not IQL:
        return f"algorithm is a {type(learner).__name__}"
    for name, kind in (("value", Value), ("q", TwinQ), ("policy", Policy)):
        if type(learner.networks[name]) is not kind:
            return f"network.{name} is a {type(learner.networks[name]).__name__}"
    for optimizer in (each for members in learner.optimizers.values() for each in members):
        if type(optimizer) is not torch.optim.Adam:
            return f"optimizer is a {type(optimizer).__name__}"
        for key in ("amsgrad", "maximize", "decoupled_weight_decay"):
            if optimizer.param_groups[0].get(key):
                return f"optimizer.{key} is true"
    return None


def fuse(learner: IQL, batch_size: int, path: str, threads: int) -> Fused | Graphs | None:
    """What carries out the learner's updates on `path` from now on; None for plain.

    path: "auto", "plain", "native", "fused" (which is "graphs" on CUDA) or "graphs" (elsewhere the same without
    graphs, to be tested); auto is the fastest that can be. The learner's parameters and optimizers are laid out
    anew. Raises UserError for another path than plain where it cannot be.
    """
    reason = obstacle(learner)
    if path == "plain" or (path == "auto" and reason):
        return None
    if reason:
        raise UserError(f"code_path={path}: {reason}; use code_path=auto or plain")
    on_cuda, low = learner.device.type == "cuda", LOW[learner.precision]
    native = _native(learner, path, threads)
    flats = {name: Flat(network) for name, network in learner.networks.items()}
    for name, optimizers in learner.optimizers.items():
        learner.optimizers[name] = [
            FlatAdam(flats[name], member, optimizer.param_groups[0]) for member, optimizer in enumerate(optimizers)
        ]
    if on_cuda or path == "graphs":
        return Graphs(learner, flats, batch_size, low)
    return Fused(learner, flats, batch_size, low, threads, native)


def _native(learner: IQL, path: str, threads: int) -> Library | None:
    """The library in C, where `path` allows it and it can be had; for auto a log line says why it cannot."""
    if path not in ("auto", "native"):
        return None
    if learner.device.type == "cuda":
        if path == "native":
            raise UserError(f"code_path=native: it is for CPUs, not {learner.device}; use code_path=auto")
        return None
    members = len(learner.seeds)
    usable = 2 * (2 if members == 1 else members)  # from here on torch takes each product on two threads or more
    if path == "auto" and threads >= usable:
        return None
    try:
        library = load()
        if LOW[learner.precision] and not library.has_bf16():
            raise Unavailable("this CPU or its C compiler lacks AVX512_BF16, which it needs for precision=bf16")
    except Unavailable as error:
        if path == "native":
            raise UserError(f"code_path=native: {error}; use code_path=auto, or set CC") from None
        log.warning("code_path=fused, which is slower than native: %s", error)
        return None
    return library


class Fused:
    """On a CPU, every member by itself: the same bits alone and in any pack, on one thread a member or two.

    Where `native` takes the passes they stay on these threads. Else more threads than members and lanes can use go
    into the products, which may change the last bits.
    """

    def __init__(
        self,
        learner: IQL,
        flats: dict[str, Flat],
        batch_size: int,
        low: torch.dtype | None,
        threads: int,
        native: Library | None,
    ):
        self.name = "native" if native else "fused"
        members = len(learner.seeds)
        self._lanes = 2 if members == 1 and threads > 1 else 1
        self._workers = min(members, threads)
        within = 1 if native else max(1, threads // (self._workers * self._lanes))
        torch.set_num_threads(within)  # of this thread; the pool's, started when they are needed, have their own
        self._pool = ThreadPoolExecutor(self._workers, "updates", torch.set_num_threads, (within,))
        self._updates: list[FusedUpdate] = []
        for member in (range(m, m + 1) for m in range(members)):
            if native:
                update: FusedUpdate = NativeUpdate(
                    learner, flats, member, batch_size, lanes=self._lanes, low=low, library=native
                )
            else:
                update = FusedUpdate(learner, flats, member, batch_size, together=False, lanes=self._lanes, low=low)
            self._updates.append(update)
        self._pack: Batches | None = None
        self._batches: list[Batches] = []

    def refresh(self) -> None:
        """Take up weights that were loaded."""
        for update in self._updates:
            update.refresh()

    def advance(self, batches: Batches, first: int, count: int, measure: bool) -> Metrics | None:
        """Updates first, first + 1, ... of every member; returns the last one's metrics, [M] each, if `measure`."""
        if self._pack is not batches:
            self._pack, self._batches = batches, [batches.of(range(m, m + 1)) for m in range(len(self._updates))]
        numbers = range(first, first + count)
        if self._lanes > 1:
            return in_two_lanes(self._updates[0], self._batches[0], numbers, measure, self._pool)
        results: list[Metrics | None] = [None] * len(self._updates)
        waiting = deque((member, numbers) for member in range(len(self._updates)))

        @torch.no_grad()  # holds for a thread
        def work() -> None:
            # A few updates of whoever waits longest: with three members on two threads both end together.
            while waiting:
                try:
                    member, left = waiting.popleft()
                except IndexError:
                    return
                for number in left[:_TURN]:
                    batch = self._batches[member].at(number)
                    results[member] = self._updates[member].update(batch, number, measure and number == numbers[-1])
                if left[_TURN:]:
                    waiting.append((member, left[_TURN:]))

        if self._workers == 1:
            work()
        else:
            for worker in [self._pool.submit(work) for _ in range(self._workers)]:
                worker.result()
        measured = [metrics for metrics in results if metrics is not None]
        return {name: torch.cat([each[name] for each in measured]) for name in measured[0]} if measured else None


_TURN = 4
"""Updates of a member before another has its turn on the thread."""


@torch.no_grad()
def in_two_lanes(
    update: FusedUpdate, batches: Batches, numbers: range, measure: bool, pool: ThreadPoolExecutor
) -> Metrics | None:
    """One member's updates on this thread and one of the pool; returns the last one's metrics, if `measure`.

    An update is 16 large products. This lane takes the first target, V's and the first Q's backward pass; the
    other the second target, both Q's forward passes, the second Q's backward pass and the policy, that of the
    update before, for which nothing waits. So each has 8, and waits little for the other.
    """
    there: SimpleQueue[Any] = SimpleQueue()
    back: SimpleQueue[Any] = SimpleQueue()
    other = pool.submit(_second_lane, update, numbers, there, back)
    try:
        batch = batches.at(numbers[0])
        there.put(batch)
        for number in numbers:
            update.load_pairs(batch, 0)
            there.put("the first Q has its pairs and its weights")
            update.target(0)
            _receive(back)
            weights, target, measured = update.value(batch, measure and number == numbers[-1])
            there.put((weights, target, measured))
            if number < numbers[-1]:
                batch = batches.at(number + 1)
                there.put(batch)
            _receive(back)
            update.backward_q(0, target, measured)
    except BaseException as error:
        there.put(error)
        raise
    other.result()
    return update.metrics(batch, numbers[-1], weights, target, measured)


@torch.no_grad()
def _second_lane(update: FusedUpdate, numbers: range, there: SimpleQueue[Any], back: SimpleQueue[Any]) -> None:
    late: tuple[Any, ...] | None = None  # the policy's step
    try:
        for number in numbers:
            batch = _receive(there)
            update.load_pairs(batch, 1)
            update.target(1)
            back.put("the second target")
            _receive(there)
            update.forward_q(0)
            back.put("the first Q's forward pass")
            update.forward_q(1)
            if late is not None:
                update.policy(*late)
            weights, target, measured = _receive(there)
            update.backward_q(1, target, measured)
            late = batch, weights, number, measured
        if late is not None:
            update.policy(*late)
    except BaseException as error:
        back.put(error)
        raise


def _receive(messages: SimpleQueue[Any]) -> Any:
    """The next message of the other lane, which sends what ended it."""
    message = messages.get()
    if isinstance(message, BaseException):
        raise RuntimeError("the other lane of the update failed") from message
    return message


class Graphs:
    """On CUDA: the whole pack at once, captured in CUDA graphs of many updates and of one that is measured.

    What a graph reads and writes stays in place: the number of the next update is counted on the device, and
    batches, dropout and the policy's learning rate follow from it there.
    """

    name = "graphs"

    def __init__(self, learner: IQL, flats: dict[str, Flat], batch_size: int, low: torch.dtype | None):
        self._update = FusedUpdate(learner, flats, range(len(learner.seeds)), batch_size, together=True, low=low)
        self._number = torch.zeros((), dtype=torch.int64, device=learner.device)
        self._graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, Metrics | None]] = {}
        self._batches: Batches | None = None

    def refresh(self) -> None:
        """Take up weights that were loaded."""
        self._update.refresh()

    def advance(self, batches: Batches, first: int, count: int, measure: bool) -> Metrics | None:
        """As Fused.advance. Nothing is synchronised to the host; the metrics are copies."""
        if self._batches is not batches:
            self._batches = batches
            self._graphs.clear()
        self._number.fill_(first)
        plain = count - measure
        for _ in range(plain // UPDATES_PER_GRAPH):
            self._replay(UPDATES_PER_GRAPH, False)
        for _ in range(plain % UPDATES_PER_GRAPH):
            self._replay(1, False)
        metrics = self._replay(1, True) if measure else None
        return {name: metric.clone() for name, metric in metrics.items()} if metrics else None

    @torch.no_grad()
    def run(self, updates: int, measure: bool) -> Metrics | None:
        """What a graph holds: so many updates from the number that is counted on the device."""
        assert self._batches is not None
        rows, metrics = self._batches.draw(self._number, updates), None
        for i in range(updates):
            metrics = self._update.update(self._batches.gather(rows[:, i]), self._number, measure)
            self._number.add_(1)
        return metrics

    def _replay(self, updates: int, measure: bool) -> Metrics | None:
        key = (updates, measure)
        if self._number.device.type != "cuda":
            return self.run(*key)
        if key not in self._graphs:
            self._graphs[key] = self._capture(*key)
        graph, metrics = self._graphs[key]
        graph.replay()
        return metrics

    def _capture(self, updates: int, measure: bool) -> tuple[torch.cuda.CUDAGraph, Metrics | None]:
        """A graph of `run`. Libraries set themselves up in a run before it, whose changes are taken back."""
        kept = [(tensor, tensor.clone()) for tensor in (*self._update.state(), self._number)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.run(1, measure)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            metrics = self.run(updates, measure)
        for tensor, before in kept:
            tensor.copy_(before)
        self._update.refresh()
        return graph, metrics
