"""Networks as rows of numbers, and passes through them into buffers that stay: forward, back, Adam's step.

What torch's operations do here on any device, native.py does on a CPU that has a C compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from iql.networks import Policy, TwinQ, Value

_adam = torch._fused_adam_  # what torch.optim.Adam(fused=True) calls, without its 60 µs of bookkeeping a step
_relu_backward = torch.ops.aten.threshold_backward.grad_input


class Flat:
    """A network's parameters, a row for each of G = members × copies perceptrons: [G, P].

    The module's parameters become views of `rows`: kernel and bias of each layer, then what else it learns. The
    last kernel lies transposed, [out, in]: with so few columns products are up to ten times faster that way.
    """

    def __init__(self, module: Value | TwinQ | Policy):
        net = module.net
        layers = [p for pair in zip(net.kernels, net.biases, strict=True) for p in pair]
        parameters = layers + [p for p in module.parameters() if all(p is not layer for layer in layers)]
        self.members, self.copies, self.depth = layers[0].shape[0], net.copies, len(net.kernels)
        lead = (self.members,) if self.copies == 1 else (self.members, self.copies)
        self._shapes = [p.shape[len(lead) :] for p in parameters]
        self._last = 2 * (self.depth - 1)
        self._ends = list(accumulate(shape.numel() for shape in self._shapes))
        self.rows = torch.empty(self.members * self.copies, self._ends[-1], device=layers[0].device)
        for parameter, view in zip(parameters, self.views(self.rows), strict=True):
            own = view.unflatten(0, lead)
            own.copy_(parameter.detach())
            parameter.data = own

    def views(self, rows: Tensor) -> list[Tensor]:
        """Each parameter in `rows` [G, P] of some perceptrons, [G, ...]; the last kernel is a transposed view."""
        views = []
        for number, (shape, end) in enumerate(zip(self._shapes, self._ends, strict=True)):
            part = rows[:, end - shape.numel() : end]
            turned = number == self._last
            views.append(part.view(len(rows), *shape[::-1]).mT if turned else part.view(len(rows), *shape))
        return views

    def of_members(self, members: slice) -> Tensor:
        """The members' rows, [members, copies · P]."""
        return self.rows.view(self.members, -1)[members]


class FlatAdam:
    """One member's state of Adam in a network, [copies, P], and steps [copies]; saves and loads as torch's do."""

    def __init__(self, flat: Flat, member: int, settings: dict[str, Any]):
        self.settings = settings
        self.weights = flat.rows.view(flat.members, flat.copies, -1)[member]
        self.first_moments = torch.zeros_like(self.weights)
        self.second_moments = torch.zeros_like(self.weights)
        self.steps = torch.zeros(flat.copies, device=self.weights.device)

    def state_dict(self) -> dict[str, Tensor]:
        return {"exp_avg": self.first_moments, "exp_avg_sq": self.second_moments, "step": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(state[name])


class Buffers:
    """Tensors by name and shape. Passes that never overlap in time share them, so that they stay in the cache."""

    def __init__(self, device: torch.device):
        self._device = device
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = torch.float32) -> Tensor:
        place = (name, shape, dtype)
        if place not in self._kept:
            self._kept[place] = torch.zeros(*shape, dtype=dtype, device=self._device)
        return self._kept[place]


class Part:
    """Some perceptrons of a network that are computed as one batch of products.

    rows: of `flat`, those of all members, or one copy of one member. optimizers: the members', none for a target.
    low: the type of the products between hidden layers, None for float32.
    """

    def __init__(
        self, flat: Flat, rows: range, optimizers: Sequence[FlatAdam], buffers: Buffers, low: torch.dtype | None
    ):
        self.rows = flat.rows[rows.start : rows.stop]
        self.gradients = buffers.take("gradients", *self.rows.shape)
        parameters, gradients = flat.views(self.rows), flat.views(self.gradients)
        layers = 2 * flat.depth
        self.kernels, self.kernel_gradients = parameters[0:layers:2], gradients[0:layers:2]
        self.biases = [bias.unsqueeze(1) for bias in parameters[1:layers:2]]
        self.bias_gradients = [bias.unsqueeze(1) for bias in gradients[1:layers:2]]
        self.others, self.other_gradients = parameters[layers:], gradients[layers:]
        self.buffers, self.low = buffers, low
        large = range(1, flat.depth - 1) if low else ()
        self.low_kernels = {i: self.kernels[i].to(low) for i in large}
        self.low_biases = {i: self.biases[i].to(low) for i in large}
        copies = slice(None) if len(rows) > 1 else slice(rows.start % flat.copies, rows.start % flat.copies + 1)
        self._by_member = self.gradients.view(max(len(optimizers), 1), -1)
        self._steps = [each.steps[copies] for each in optimizers]
        self.adam = self._arguments(optimizers, copies)

    def _arguments(self, optimizers: Sequence[FlatAdam], copies: slice) -> list[tuple[dict[str, Any], tuple]]:
        """Settings and tensors for Adam's kernel: members of one learning rate take their step together."""
        rates: dict[float, list[int]] = {}
        for member, optimizer in enumerate(optimizers):
            rates.setdefault(optimizer.settings["lr"], []).append(member)
        groups: list[tuple[dict[str, Any], tuple]] = []
        for members in rates.values():
            each = [optimizers[member] for member in members]
            weights = [one.weights[copies].view(-1) for one in each]
            first = [one.first_moments[copies].view(-1) for one in each]
            second = [one.second_moments[copies].view(-1) for one in each]
            gradients = [self._by_member[member] for member in members]
            steps = [self._steps[member][0] for member in members]
            groups.append((each[0].settings, (weights, gradients, first, second, [], steps)))
        return groups

    def pass_of(self, x: Tensor, larger: Pass | None = None) -> Pass:
        """A way through it from the buffer x; `larger` as in Pass."""
        return Pass(self, x, larger)

    def refresh(self) -> None:
        """Take up weights that have changed."""
        for i, low_kernel in self.low_kernels.items():
            low_kernel.copy_(self.kernels[i])
            self.low_biases[i].copy_(self.biases[i])

    def step(self, factor: float | Tensor = 1.0) -> None:
        """Adam's step, the learning rates times `factor`."""
        torch._foreach_add_(self._steps, 1)
        for settings, tensors in self.adam:
            _adam(
                *tensors,
                lr=settings["lr"] * factor,
                beta1=settings["betas"][0],
                beta2=settings["betas"][1],
                weight_decay=settings["weight_decay"],
                eps=settings["eps"],
                amsgrad=False,
                maximize=False,
            )
        self.refresh()

    def follow(self, other: Part, polyak: float | Tensor) -> None:
        """The target network's step towards `other`."""
        self.rows.lerp_(other.rows, polyak)
        self.refresh()

    def gradient_norms(self) -> Tensor:
        """[members]."""
        return torch.linalg.vector_norm(self._by_member, dim=1)


class Pass:
    """A part's way forward from one input, a buffer x [G, B, in], to `output` [G, B, out], and back.

    All views are made here once: an update is then nothing but products and the few steps between them.
    """

    def __init__(self, part: Part, x: Tensor, larger: Pass | None = None):
        """larger: a pass of more rows, of which this one is the first."""
        self.part, depth, take = part, len(part.kernels), part.buffers.take
        groups, batch, _ = x.shape
        widths = [kernel.shape[2] for kernel in part.kernels]
        if larger is None:
            hidden = [take(f"hidden {i}", groups, batch, width) for i, width in enumerate(widths[:-1])]
            self.outputs = [*hidden, torch.zeros(groups, batch, widths[-1], device=x.device)]
        else:
            self.outputs = [output[:, :batch] for output in larger.outputs]
        self.output = self.outputs[-1]
        self.inputs = [x, *self.outputs[:-1]]
        self._turned_inputs = [each.mT for each in self.inputs]
        self.gradients = [take(f"gradient {i}", groups, batch, width) for i, width in enumerate(widths[:-1])]
        self._turned_kernels = [kernel.mT for kernel in part.kernels]
        self._turned_gradient = part.kernel_gradients[-1].mT
        self._low: dict[int, tuple[Tensor, ...]] = {}
        for i in part.low_kernels:
            if larger is None:
                around = (("input", widths[i - 1]), ("output", widths[i]))
                low = (take(f"low {name} {i}", groups, batch, width, dtype=part.low) for name, width in around)
                self._low[i] = tuple(low)
            else:
                self._low[i] = tuple(each[:, :batch] for each in larger._low[i])
        self._low_gradients = {i: torch.empty_like(kernel) for i, kernel in part.low_kernels.items()}
        self._outer = torch.mul if widths[-1] == 1 else torch.bmm  # an outer product is slow as bmm
        self._last = depth - 1

    def forward(self, masks: Sequence[Tensor] | None = None) -> Tensor:
        """The output; masks as in MLP.forward."""
        part = self.part
        for i, (bias, x, kernel, output) in enumerate(
            zip(part.biases, self.inputs, part.kernels, self.outputs, strict=True)
        ):
            if i in self._low:
                low_x, low_output = self._low[i]
                low_x.copy_(x)
                output.copy_(torch.baddbmm(part.low_biases[i], low_x, part.low_kernels[i], out=low_output))
            else:
                torch.baddbmm(bias, x, kernel, out=output)
            if i < self._last:
                output.relu_()
                if masks is not None:
                    output.mul_(masks[i])
        return self.output

    def backward(self, gradient: Tensor, dropout: float | None = None) -> None:
        """The part's gradients from that of the output that forward() has just given."""
        part, last = self.part, self._last
        torch.sum(gradient, 1, keepdim=True, out=part.bias_gradients[last])
        torch.bmm(gradient.mT, self.inputs[last], out=self._turned_gradient)
        self._outer(gradient, self._turned_kernels[last], out=self.gradients[last - 1])
        for i in range(last - 1, -1, -1):
            gradient = self.gradients[i]
            # What was dropped is 0 after ReLU too, what was kept was scaled.
            _relu_backward(gradient, self.outputs[i], 0, grad_input=gradient)
            if dropout:
                gradient.mul_(1 / (1 - dropout))
            torch.sum(gradient, 1, keepdim=True, out=part.bias_gradients[i])
            if i in self._low:
                low_x, low_gradient = self._low[i]
                low_gradient.copy_(gradient)
                part.kernel_gradients[i].copy_(torch.bmm(low_x.mT, low_gradient, out=self._low_gradients[i]))
                self.gradients[i - 1].copy_(torch.bmm(low_gradient, part.low_kernels[i].mT, out=low_x))
                continue
            torch.bmm(self._turned_inputs[i], gradient, out=part.kernel_gradients[i])
            if i:
                torch.bmm(gradient, self._turned_kernels[i], out=self.gradients[i - 1])
