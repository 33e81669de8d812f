"""One member's updates as its algorithm has them, with autograd, whose perceptrons are computed in C."""

from __future__ import annotations

import torch
from torch import Tensor

from iql.data.sampling import Batch
from iql.execution.mlp_passes import Buffers
from iql.execution.native_library import Library
from iql.execution.native_mlp import NativeMLP
from iql.learner.learner import Learner, Metrics


class NativeAutograd:
    """The updates of one member of a learner, in place; with `two_threads` on this thread and the library's own."""

    def __init__(self, learner: Learner, member: range, library: Library, *, two_threads: bool):
        self._learner = learner.of(member)
        one, other = Buffers(learner.device), Buffers(learner.device)
        lanes = (one, other if two_threads else one)
        self._perceptrons: list[NativeMLP] = []
        for name, network in self._learner.networks.items():
            network.net.computed_by = NativeMLP(self._learner, name, library, lanes, two_threads)
            self._perceptrons.append(network.net.computed_by)

    def refresh(self) -> None:
        """Nothing is derived from the weights."""

    def update(self, batch: Batch, number: int | Tensor, phase: int, measure: bool) -> Metrics | None:
        """Update `number` of the member, [1, B]; returns its metrics, [1] each, if `measure`."""
        for each in self._perceptrons:
            each.begin()
        with torch.enable_grad():
            return self._learner.update(batch, number, phase, measure)
