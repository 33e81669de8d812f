"""Members of a pack in turn on a CPU's threads."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch

from iql.data.sampling import Batches
from iql.execution.iql_gradients import IQLGradients
from iql.execution.native_autograd import NativeAutograd
from iql.execution.native_iql import NativeIQL
from iql.execution.native_library import Library
from iql.execution.two_threads import on_two_threads
from iql.learner.learner import Learner, Metrics

_UPDATES_PER_TURN = 4
"""Updates of a member before the thread continues with another one."""


class MemberThreads:
    """Every member by itself on a CPU: the same bits alone and in any pack, on one thread for a member or two.

    native: the library in C that computes the passes; with it they stay on these threads. Without it, threads that
    members cannot use go into torch's products, which may change the last bits. written_out: whether the algorithm's
    gradients are; else autograd takes them, which needs the library.
    """

    def __init__(self, learner: Learner, batch_size: int, threads: int, native: Library | None, *, written_out: bool):
        self.name = "native" if native else "fused"
        self.threads = threads
        self._learner = learner
        members = len(learner.seeds)
        self._two_threads = members == 1 and threads > 1
        self._workers = min(members, threads)
        streams = 2 if self._two_threads else 1
        within = 1 if native else max(1, threads // (self._workers * streams))
        torch.set_num_threads(within)  # of this thread; the pool's, started when they are needed, have their own
        self._pool = ThreadPoolExecutor(self._workers, "updates", torch.set_num_threads, (within,))
        self._updates: list[IQLGradients | NativeAutograd] = []
        for member in (range(m, m + 1) for m in range(members)):
            if not written_out:
                assert native is not None
                update: IQLGradients | NativeAutograd = NativeAutograd(
                    learner, member, native, two_threads=self._two_threads
                )
            elif native:
                update = NativeIQL(learner, member, batch_size, streams=streams, library=native)
            else:
                update = IQLGradients(learner, member, batch_size, together=False, streams=streams)
            self._updates.append(update)
        self._pack: Batches | None = None
        self._batches: list[Batches] = []

    def refresh(self) -> None:
        """Copy weights that were loaded into what is derived from them."""
        for update in self._updates:
            update.refresh()

    def advance(self, batches: Batches, count: int, measure: bool = False) -> Metrics | None:
        """`count` updates of every member; returns the last one's metrics, [M] each, if `measure`."""
        if self._pack is not batches:
            self._pack, self._batches = batches, [batches.of(range(m, m + 1)) for m in range(len(self._updates))]
        first = self._learner.update_count
        metrics = self._run(range(first, first + count), measure)
        self._learner.update_count += count
        return metrics

    def _run(self, numbers: range, measure: bool) -> Metrics | None:
        first = self._updates[0]
        if self._two_threads and len(numbers) == 1 and isinstance(first, NativeIQL):
            with torch.no_grad():
                return first.update_with_helper(self._batches[0].at(numbers[0]), numbers[0], measure)
        if self._two_threads and isinstance(first, IQLGradients):
            return on_two_threads(first, self._batches[0], numbers, measure, self._pool)
        results: list[Metrics | None] = [None] * len(self._updates)
        waiting = deque((member, numbers) for member in range(len(self._updates)))

        @torch.no_grad()  # holds for a thread
        def work() -> None:
            # A few updates of the member that waited longest: with three members on two threads both end together.
            while waiting:
                try:
                    member, left = waiting.popleft()
                except IndexError:
                    return
                for number in left[:_UPDATES_PER_TURN]:
                    batch = self._batches[member].at(number)
                    phase, last = self._learner.phase(number), number == numbers[-1]
                    results[member] = self._updates[member].update(batch, number, phase, measure and last)
                if left[_UPDATES_PER_TURN:]:
                    waiting.append((member, left[_UPDATES_PER_TURN:]))

        if self._workers == 1:
            work()
        else:
            for worker in [self._pool.submit(work) for _ in range(self._workers)]:
                worker.result()
        measured = [metrics for metrics in results if metrics is not None]
        return {name: torch.cat([each[name] for each in measured]) for name in measured[0]} if measured else None
