"""The update of IQL, SQL, EQL and XQL in C: the passes and gradients of native.c in place of torch's operations.

It computes what iql_gradients.py and mlp_passes.py compute, to the last bits or so (tests/execution/test_native.py),
with less memory traffic between products, and without Python's lock, so that threads do not wait for each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from math import inf
from typing import Any, cast

import torch
from torch import Tensor

from iql.algorithms.eql import EQL
from iql.algorithms.iql import IQL
from iql.algorithms.iql_fql import FQLIQL
from iql.algorithms.sql import SQL
from iql.algorithms.xql import XQL
from iql.data.sampling import Batch
from iql.execution.iql_gradients import IQLGradients
from iql.execution.mlp_passes import Buffers, Part, Pass
from iql.execution.native_library import WIDTH, CallStruct, Library, PassStruct, compute, meanwhile
from iql.learner.learner import Learner, Metrics
from iql.learner.optimizers import PackAdam
from iql.learner.parameters import FlatParameters


class NativePart(Part):
    """One perceptron of one member, on a CPU."""

    def __init__(
        self,
        flat: FlatParameters,
        rows: range,
        adam: PackAdam | None,
        buffers: Buffers,
        low: torch.dtype | None,
        library: Library,
        gradients: Tensor | None = None,
    ):
        super().__init__(flat, rows, adam, buffers, None, gradients)
        self.library, self.bf16 = library, low is not None
        settings = adam.settings if adam else {}
        self._adam_settings = [*settings.get("betas", ()), settings.get("eps"), settings.get("weight_decay")]
        self._adam_arguments = [
            (rate, weights.numel(), [each.data_ptr() for each in (weights, gradient, first, second, step)])
            for rate, tensors in (self.adam.groups if self.adam else ())
            for weights, gradient, first, second, step in zip(*tensors, strict=True)
        ]

    def pass_of(self, x: Tensor, larger: Pass | None = None) -> NativePass:
        return NativePass(self, x, larger)

    def step(self, factor: float | Tensor = 1.0) -> None:
        for rate, size, pointers in self._adam_arguments:
            self.library.adam(size, *pointers, rate * float(factor), *self._adam_settings)

    def follow(self, other: Part, polyak: float | Tensor) -> None:
        self.library.follow(self.rows.numel(), self.rows.data_ptr(), other.rows.data_ptr(), float(polyak))


class NativePass(Pass):
    """A pass in C; of `part`, a NativePart."""

    def __init__(self, part: NativePart, x: Tensor, larger: Pass | None = None):
        super().__init__(part, x, larger)
        self._library, batch = part.library, x.shape[1]
        self._normalized: list[Tensor] = []
        self._inverses: list[Tensor] = []
        widths = [x.shape[2], *(kernel.shape[2] for kernel in part.kernels)]
        wide, most = max(widths), max(batch, *widths)
        scratch = part.buffers.take("scratch", WIDTH * most + (wide + 6) * (batch + wide + 6))
        self._kept: list[Any] = [(c_int64 * len(widths))(*widths)]
        of_layers = (self.inputs, part.kernels, part.biases, self.gradients, part.kernel_gradients, part.bias_gradients)
        self._kept += [_pointers(tensors) for tensors in of_layers]
        hidden = len(part.kernels) - 1
        self._statistics: list[Tensor] = [
            part.buffers.take(f"statistics {i}", batch, 2) for i in range(len(self.norms))
        ]
        if isinstance(larger, NativePass):
            self._statistics = larger._statistics  # of whatever pass came last
        norms = (part.norm_scales, part.norm_biases, part.norm_scale_gradients, part.norm_bias_gradients)
        self._kept += [_pointers(tensors) for tensors in (*norms, self.products[:hidden], self._statistics)]
        addresses = [ctypes.addressof(each) for each in self._kept]
        norm = (None, "before", "after").index(part.layer_norm)
        self._pass = ctypes.pointer(
            PassStruct(
                *(len(part.kernels), batch, part.bf16, norm, part.gelu),
                *addresses,
                self.output.data_ptr(),
                scratch.data_ptr(),
            )
        )
        self._of_masks: Any = None

    def forward(self, masks: Sequence[Tensor] | None = None) -> Tensor:
        compute(self._library, self.forward_call(masks))
        return self.output

    def backward(self, gradient: Tensor, dropout: float | None = None) -> None:
        compute(self._library, self.backward_call(gradient, dropout))

    def forward_call(self, masks: Sequence[Tensor] | None = None) -> CallStruct:
        """forward(), to be computed; its output is in `output`."""
        self._masks = masks  # which their pointers do not keep
        self._of_masks = None if masks is None else _pointers(masks)
        return CallStruct(self._pass, self._masks_at)

    def backward_call(
        self,
        gradient: Tensor,
        dropout: float | None = None,
        *,
        kernels: bool = True,
        of_input: Tensor | None = None,
    ) -> CallStruct:
        """backward(), to be computed, for which `gradient` must be kept.

        Without `kernels` their gradients are left out; that of the input is put into `of_input`.
        """
        scale = 1 / (1 - dropout) if dropout else 1.0
        into = None if of_input is None else of_input.data_ptr()
        return CallStruct(self._pass, self._masks_at, gradient.data_ptr(), scale, kernels, into)

    @property
    def _masks_at(self) -> int | None:
        return None if self._of_masks is None else ctypes.addressof(self._of_masks)


VALUE_GRADIENTS: dict[type[IQL], tuple[str, str, str]] = {
    IQL: ("expectile_gradient", "tau", "tau"),
    FQLIQL: ("expectile_gradient", "tau", "tau"),
    SQL: ("sparse_gradient", "alpha", "alpha"),
    EQL: ("exponential_gradient", "alpha", "max_clip"),
    XQL: ("gumbel_gradient", "loss_temperature", "max_clip"),
}
"""For each algorithm the gradient of V's loss in native.c, and the two settings that it is given."""


class NativeIQL(IQLGradients):
    """The update of one member on a CPU. What it returns is not written to again: the other thread may be late."""

    def __init__(self, learner: Learner, members: range, batch_size: int, *, streams: int, library: Library):
        self._library = library
        super().__init__(learner, members, batch_size, together=False, streams=streams)
        own: Any = self._algorithm
        function, *settings = VALUE_GRADIENTS[type(self._algorithm)]
        self._gradient_of_v = getattr(library, function)
        self._of_value = [float(getattr(own, name)) for name in settings]
        self._random = own.random_actions if isinstance(own, XQL) else 0
        linear = isinstance(own, SQL)
        temperature = 0.0 if linear else float(own.beta / own.alpha if isinstance(own, EQL) else own.beta)
        self._of_weights = [linear, temperature, float(own.advantage_cap)]
        self._discount = float(own.discount)
        huber = isinstance(own, XQL)
        self._of_error = (1 / batch_size, float(own.huber_delta)) if huber else (2 * own.q_loss_scale / batch_size, inf)
        self._v_gradient = torch.empty(1, batch_size)
        self._q_gradients = [torch.empty(1, batch_size, 1) for _ in self.q]
        self._mean_gradient = torch.empty(self._policy.output.shape)

    def update_with_helper(self, batch: Batch, number: int, measure: bool) -> Metrics | None:
        """One update by itself on this thread and the library's own, which compute 16 large products in the time of 9.

        two_threads.on_two_threads takes that of 8, of several updates in a row: it computes the policy beside the next
        update, which here is not known yet, as it may depend on this policy.
        """
        library, one, other = self._library, *cast("list[NativePass]", self.q)
        target_of_other, policy = cast("NativePass", self.q_target[1]), cast("NativePass", self._policy)
        for part in range(2):
            self.load_pairs(batch, number, part)
        with meanwhile(library, target_of_other.forward_call()):
            self.target(0)
        masks = self.load_policy(batch, number)
        with meanwhile(library, one.forward_call(), other.forward_call(), policy.forward_call(masks)):
            target_q, v, target, measured = self.value(batch, measure)
        weights = self.weigh(target_q, v, measured)
        gradient = self._q_gradient(1, target)
        with meanwhile(library, other.backward_call(gradient)):
            self.backward_q(0, target, measured)
        self.step_q(1, measured)
        self.step_policy(batch, weights, number, measured)
        return self.metrics(batch, number, weights, target, measured)

    def _part(
        self, flat: FlatParameters, rows: range, adam: PackAdam | None, buffers: Buffers, low: torch.dtype | None
    ) -> Part:
        return NativePart(flat, rows, adam, buffers, low, self._library)

    def _smaller(self, both: Sequence[Tensor]) -> Tensor:
        q = torch.empty_like(both[0])
        self._library.smaller(q.numel(), *(each.data_ptr() for each in both), q.data_ptr())
        return q

    def _value_gradient(self, aim: Tensor, v: Tensor) -> Tensor:
        gradient = self._v_gradient
        inputs = (self._size, self._random, aim.data_ptr(), v.data_ptr())
        self._gradient_of_v(*inputs, *self._of_value, gradient.data_ptr())
        return gradient

    def _q_target(self, next_v: Tensor, batch: Batch) -> Tensor:
        target = torch.empty_like(next_v)
        inputs = [each.data_ptr() for each in (next_v, batch.rewards, batch.masks)]
        self._library.q_target(self._size, *inputs, self._discount, target.data_ptr())
        return target

    def _weigh(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        advantage, weights = torch.empty_like(v), torch.empty_like(v)
        pointers = q.data_ptr(), v.data_ptr()
        self._library.weigh(self._size, *pointers, *self._of_weights, advantage.data_ptr(), weights.data_ptr())
        return advantage, weights

    def _policy_gradient(self, weights: Tensor, mean: Tensor, actions: Tensor) -> Tensor:
        policy, part = self._policy_network, self._policy.part
        log_std, of_log_std, ends = 0, 0, (-inf, inf)
        if part.others:
            log_std, of_log_std = part.others[0].data_ptr(), part.other_gradients[0].data_ptr()
            ends = policy.log_std_range
        elif policy.fixed_log_std is not None:
            log_std = policy.fixed_log_std[self._members].data_ptr()
        inputs = [each.data_ptr() for each in (weights, mean, actions)]
        gradient = self._mean_gradient
        self._library.policy_gradient(
            *(self._size, mean.shape[2], *inputs, bool(policy.squash), log_std, *ends, gradient.data_ptr(), of_log_std)
        )
        return gradient

    def _q_gradient(self, part: int, target: Tensor) -> Tensor:
        gradient, q = self._q_gradients[part], self.q[part].output
        self._library.q_gradient(self._size, q.data_ptr(), target.data_ptr(), *self._of_error, gradient.data_ptr())
        return gradient


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
