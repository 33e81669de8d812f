"""Updates on CUDA, captured in graphs: launching one costs next to nothing beside its work."""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from torch import Tensor

from iql.data.sampling import Batch, Batches
from iql.execution.eager import Eager
from iql.learner.learner import Learner, Metrics
from iql.learner.optimizers import PackAdam
from iql.networks.lifting import Lifted

log = logging.getLogger(__name__)

UPDATES_PER_GRAPH = 16
"""Updates captured in one CUDA graph: launching it is then nothing beside them."""


class Update(Protocol):
    """An update that can be captured: of the whole pack, its number a tensor [] on the device."""

    def update(self, batch: Batch, number: Tensor, phase: int, measure: bool) -> Metrics | None: ...

    def state(self) -> list[Tensor]:
        """All tensors that an update changes for good."""

    def refresh(self) -> None:
        """Copy weights that were loaded into what is derived from them."""


class NotCapturable(Exception):
    """An update that cannot be captured in a graph; the message says why."""


class AutogradUpdate:
    """The algorithm's own update with autograd, of a learner whose optimizers can be captured."""

    def __init__(self, learner: Learner):
        self._learner = learner
        if not all(isinstance(optimizer, PackAdam) for optimizer in learner.optimizers.values()):
            raise NotCapturable("the optimizer is not torch.optim.Adam")

    def update(self, batch: Batch, number: Tensor, phase: int, measure: bool) -> Metrics | None:
        with torch.enable_grad():
            metrics = self._learner.update(batch, number, phase, measure)
        for name, network in self._learner.networks.items():
            if isinstance(network, Lifted) and network.draws:
                raise NotCapturable(f"network.{name} draws random numbers of its own")
        return metrics

    def state(self) -> list[Tensor]:
        weights = [flat.rows for flat in self._learner.flats.values()]
        optimizers = [each for each in self._learner.optimizers.values() if isinstance(each, PackAdam)]
        return weights + [tensor for optimizer in optimizers for tensor in optimizer.tensors()]

    def refresh(self) -> None:
        """Nothing is derived from the weights."""


class Graphs:
    """The whole pack at once, in graphs of many updates and of one that is measured.

    What a graph reads and writes stays in place: the number of the next update is counted on the device, and
    batches, dropout and learning rates follow from it there. Elsewhere than on CUDA the same runs without graphs. An
    update that turns out not to be capturable goes on without them. name: the code path that numbers are equal to.
    """

    def __init__(self, learner: Learner, update: Update, threads: int, name: str):
        self.name, self.threads = name, threads
        self._learner, self._update = learner, update
        self._number = torch.zeros((), dtype=torch.int64, device=learner.device)
        self._graphs: dict[tuple[int, int, bool], tuple[torch.cuda.CUDAGraph | None, Metrics | None]] = {}
        self._batches: Batches | None = None
        self._eager: Eager | None = None

    def refresh(self) -> None:
        """Copy weights that were loaded into what is derived from them."""
        self._update.refresh()

    def advance(self, batches: Batches, count: int, measure: bool = False) -> Metrics | None:
        """`count` updates; returns the last one's metrics, [M] each, if `measure`.

        Nothing is synchronised to the host; the metrics are copies.
        """
        if self._batches is not batches:
            self._batches = batches
            self._graphs.clear()
        end, metrics = self._learner.update_count + count, None
        self._number.fill_(self._learner.update_count)
        try:
            while self._eager is None and (left := end - self._learner.update_count):
                plain = left - measure
                updates = UPDATES_PER_GRAPH if plain >= UPDATES_PER_GRAPH else 1
                metrics = self._replay(updates, measured=plain == 0)
                self._learner.update_count += updates
        except NotCapturable as reason:
            log.warning("updates are not captured in CUDA graphs, and slower for it: %s", reason)
            self._eager = Eager(self._learner, self.threads)
        if self._eager is not None:
            return self._eager.advance(batches, end - self._learner.update_count, measure)
        return {name: metric.clone() for name, metric in metrics.items()} if metrics else None

    @torch.no_grad()
    def run(self, phase: int, updates: int, measure: bool) -> Metrics | None:
        """What a graph holds: so many updates from the number that is counted on the device, the first of `phase`."""
        assert self._batches is not None
        metrics = None
        # All batches in one kernel a column, the updates first so that each batch is contiguous.
        batches = self._batches.gather(self._batches.draw(self._number, updates).transpose(0, 1))
        for i in range(updates):
            batch = Batch(*(column if column is None else column[i] for column in batches))  # type: ignore[arg-type]
            metrics = self._update.update(batch, self._number, self._learner.phase(phase + i), measure)
            self._number.add_(1)
        return metrics

    def _replay(self, updates: int, measured: bool) -> Metrics | None:
        key = (self._learner.phase(self._learner.update_count), updates, measured)
        if key not in self._graphs:
            self._graphs[key] = self._captured(*key)
        graph, metrics = self._graphs[key]
        if graph is None:
            return self.run(*key)
        graph.replay()
        return metrics

    def _captured(self, phase: int, updates: int, measure: bool) -> tuple[torch.cuda.CUDAGraph | None, Metrics | None]:
        """A graph of `run` and the metrics that it writes; no graph elsewhere than on CUDA.

        Libraries set themselves up in a run of a whole cycle before it, whose changes are taken back.
        """
        cycle = self._learner.algorithm.cycle
        saved = [(tensor, tensor.clone()) for tensor in (*self._update.state(), self._number)]
        try:
            if self._number.device.type != "cuda":
                self.run(phase, cycle, measure)
                return None, None
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.run(phase, cycle, measure)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                metrics = self.run(phase, updates, measure)
            return graph, metrics
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what torch raises where the host has to wait for a number
            raise NotCapturable(str(error).split("\n")[0]) from error
        finally:
            if self._number.device.type == "cuda":
                torch.cuda.synchronize()
            for tensor, before in saved:
                tensor.copy_(before)
            self._update.refresh()
