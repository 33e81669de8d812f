"""A network's perceptrons in C as one operation of autograd's: for every algorithm, whatever it does with them.

The passes are native.c's. They compute what networks.mlp.MLP does with torch's operations, to the last bits or so
(tests/execution/test_native_mlp.py), in one call instead of thirty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iql.execution.mlp_passes import Buffers
from iql.execution.native_iql import NativePart, NativePass
from iql.execution.native_library import CallStruct, Library, compute, meanwhile
from iql.learner.learner import Learner
from iql.learner.optimizers import PackAdam
from iql.networks.mlp import MLP, PRODUCT_TYPES

_WORTH_A_THREAD = 500_000
"""Multiplications of a pass that take much longer than to hand it to the other thread: some ten microseconds."""


class NativeMLP:
    """The perceptrons of one member's network `name`; takes the place of its MLP's forward.

    Each copy is a pass, and of a single copy each half of the rows, with `two_threads` on a thread of its own. The
    halves are the same on one thread, and their gradients are added in the same order: the bits do not depend on it.
    lanes: buffers of the first passes and of the second, which all networks share.
    """

    def __init__(
        self,
        learner: Learner,
        name: str,
        library: Library,
        lanes: tuple[Buffers, Buffers],
        two_threads: bool,
    ):
        network: nn.Module = learner.networks[name]
        net = network.net
        assert isinstance(net, MLP)
        self.net, self._learner, self._name = net, learner, name
        self.flat, self.library, self.lanes, self._two_threads = learner.flats[name], library, lanes, two_threads
        self.low = PRODUCT_TYPES[learner.precision]
        dropout: Any = getattr(network, "dropout", None)
        self.dropout: float | None = dropout.rate if dropout else None
        layers = [*zip(net.kernels, net.biases, strict=True), *zip(net.norm_scales, net.norm_biases, strict=True)]
        self.parameters = [parameter for pair in layers for parameter in pair]  # as they lie in the rows
        self._learning: dict[int, list[_Call]] = {}
        self._used: dict[int, int] = {}
        self._frozen: dict[int, _Call] = {}
        adam = learner.optimizers.get(name)
        self._gradients = adam.gradients if isinstance(adam, PackAdam) else None
        """Where the optimizer looks for them: for the first call, which mostly is the only one."""
        self.update = 0

    def begin(self) -> None:
        """A new update: what was kept for the backward passes of the one before is free."""
        self.update += 1
        self._used.clear()

    def __call__(self, x: Tensor, masks: Sequence[Tensor] | None) -> Tensor:
        rows = x.shape[1]
        if not torch.is_grad_enabled():
            if rows not in self._frozen:
                self._frozen[rows] = _Call(self, rows, learning=False)
            return self._frozen[rows].forward(x, masks)
        number = self._used.get(rows, 0)
        self._used[rows] = number + 1
        calls = self._learning.setdefault(rows, [])
        if number == len(calls):
            calls.append(_Call(self, rows, learning=True, gradients=self._gradients))
            self._gradients = None
        output: Tensor = _Perceptrons.apply(self, calls[number], masks, x, *self.parameters)
        return output

    @property
    def asked(self) -> bool:
        """Whether the gradient that is being taken is that of this network's parameters."""
        return self._learner.minimized in (None, self._name)

    def compute(self, calls: Sequence[CallStruct], rows: int) -> None:
        """All calls, the last one of two on the other thread."""
        *own, last = calls
        if own and self._two_threads and rows * self.flat.rows.shape[1] > _WORTH_A_THREAD:
            with meanwhile(self.library, last):
                compute(self.library, *own)
        else:
            compute(self.library, *calls)


class _Kept(Buffers):
    """The buffers of a pass that others may come after before its backward pass: what that reads is its own."""

    def __init__(self, lane: Buffers, device: torch.device):
        super().__init__(device)
        self._lane = lane

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = torch.float32) -> Tensor:
        own = name.partition(" ")[0] in ("hidden", "product", "statistics")
        return super().take(name, *shape, dtype=dtype) if own else self._lane.take(name, *shape, dtype=dtype)


class _Call:
    """The passes of one call in an update; learning: whether its backward pass may be asked for.

    gradients: where that puts the gradients of all copies, [copies, P]; None for a place of its own.
    """

    def __init__(self, native: NativeMLP, rows: int, *, learning: bool, gradients: Tensor | None = None):
        self._native, self._rows = native, rows
        flat, copies = native.flat, native.flat.copies
        self._x = torch.empty(1, rows, native.net.kernels[0].shape[-2])
        half = -(-rows // 2)
        halves = [slice(0, half), slice(half, rows)] if rows > 1 else [slice(0, 1)]
        places = [(0, each) for each in halves] if copies == 1 else [(copy, slice(0, rows)) for copy in range(copies)]
        self._slices = [each for _, each in places]
        total = torch.zeros(copies, flat.rows.shape[1]) if gradients is None else gradients
        self._total, self._halves = total, torch.zeros(2, flat.rows.shape[1]) if copies == 1 else None
        of_passes = total if self._halves is None else self._halves
        self._passes: list[NativePass] = []
        for place, (copy, each) in enumerate(places):
            own, lane = of_passes[place : place + 1], native.lanes[place % 2]
            buffers = _Kept(lane, self._x.device) if learning else lane
            part = NativePart(flat, range(copy, copy + 1), None, buffers, native.low, native.library, own)
            self._passes.append(part.pass_of(self._x[:, each]))
        views = flat.views(self._total)[: len(native.parameters)]
        lead = (1,) if copies == 1 else (1, copies)
        self._of_parameters = [view.unflatten(0, lead) for view in views]

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None) -> Tensor:
        self._x.copy_(x)
        calls = []
        for each, rows in zip(self._passes, self._slices, strict=True):
            calls.append(each.forward_call(masks and [mask[:, rows] for mask in masks]))
        self._native.compute(calls, self._rows)
        outputs = [each.output for each in self._passes]
        return torch.stack(outputs, 1) if self._native.flat.copies > 1 else torch.cat(outputs, 1)

    def backward(self, gradient: Tensor, dropped: bool, kernels: bool, of_input: bool) -> tuple[Any, ...]:
        """The gradients of the input and of each parameter; None where they are not asked for."""
        native, copies = self._native, self._native.flat.copies
        gradient, dropout = gradient.contiguous(), native.dropout if dropped else None
        given = torch.empty(copies, *self._x.shape[1:]) if of_input else None
        calls = []
        for place, (each, rows) in enumerate(zip(self._passes, self._slices, strict=True)):
            copy = place if copies > 1 else 0
            of_output = gradient[:, copy] if copies > 1 else gradient[:, rows]
            into = None if given is None else given[copy, rows]
            calls.append(each.backward_call(of_output, dropout, kernels=kernels, of_input=into))
        native.compute(calls, self._rows)
        if given is not None and copies > 1:
            given = given.sum(0, keepdim=True)
        if not kernels:
            return given, *[None] * len(self._of_parameters)
        if self._halves is not None:
            torch.add(self._halves[:1], self._halves[1:], out=self._total)
        return given, *self._of_parameters


class _Perceptrons(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, native: NativeMLP, call: _Call, masks: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.native, ctx.call, ctx.masks, ctx.update = native, call, masks, native.update
        ctx.save_for_backward(x)
        return call.forward(x, masks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        native: NativeMLP = ctx.native
        (x,) = ctx.saved_tensors  # raises where it was changed in place, or its graph was freed
        if ctx.update != native.update:
            raise RuntimeError("a gradient was asked for in another update than its network was called in")
        needs = ctx.needs_input_grad[3]
        if torch.is_grad_enabled():  # the gradient's own gradient will be asked for
            inputs = [x, *native.parameters] if needs else native.parameters
            with torch.enable_grad():
                output = native.net.layers(x, ctx.masks)
            found = torch.autograd.grad(output, inputs, gradient, create_graph=True)
            return None, None, None, *(() if needs else (None,)), *found
        return None, None, None, *ctx.call.backward(gradient, ctx.masks is not None, native.asked, needs)
