"""Forward and backward passes of perceptrons into buffers that stay, and the steps of their parameters.

What torch's operations do here on any device, native_iql.py does on a CPU that has a C compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iql.learner.optimizers import PackAdam
from iql.learner.parameters import FlatParameters
from iql.networks.mlp import LAYER_NORM_EPSILON

_relu_backward = torch.ops.aten.threshold_backward.grad_input
_gelu, _gelu_backward = torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input


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

    rows: of `flat`, those of all members, or one copy of one member. adam: the network's, None for a target. low: the
    type of the products between hidden layers, None for float32. gradients: where they go, None for one of `buffers`.
    """

    def __init__(
        self,
        flat: FlatParameters,
        rows: range,
        adam: PackAdam | None,
        buffers: Buffers,
        low: torch.dtype | None,
        gradients: Tensor | None = None,
    ):
        self.rows = flat.rows[rows.start : rows.stop]
        # By the size, too: what pads the rows of one network must not hold gradients of another.
        of_size = f"gradients of {flat.size}"
        self.gradients = buffers.take(of_size, *self.rows.shape) if gradients is None else gradients
        parameters, of_parameters = flat.views(self.rows), flat.views(self.gradients)
        layers = 2 * flat.depth
        self.kernels, self.kernel_gradients = parameters[0:layers:2], of_parameters[0:layers:2]
        self.biases = [bias.unsqueeze(1) for bias in parameters[1:layers:2]]
        self.bias_gradients = [bias.unsqueeze(1) for bias in of_parameters[1:layers:2]]
        self.layer_norm, self.gelu = flat.layer_norm, flat.activation == "gelu"
        norms = layers + 2 * (flat.depth - 1 if flat.layer_norm else 0)
        self.norm_scales = [scale.unsqueeze(1) for scale in parameters[layers:norms:2]]
        self.norm_biases = [bias.unsqueeze(1) for bias in parameters[layers + 1 : norms : 2]]
        self.norm_scale_gradients = [scale.unsqueeze(1) for scale in of_parameters[layers:norms:2]]
        self.norm_bias_gradients = [bias.unsqueeze(1) for bias in of_parameters[layers + 1 : norms : 2]]
        self.others, self.other_gradients = parameters[norms:], of_parameters[norms:]
        self.buffers, self.low = buffers, low
        large = range(1, flat.depth - 1) if low else ()
        self.low_kernels = {i: self.kernels[i].to(low) for i in large}
        self.low_biases = {i: self.biases[i].to(low) for i in large}
        self.adam = None if adam is None else adam.rows(rows, self.gradients)
        self._by_member = self.gradients.view(-1, self.gradients.shape[1] * min(flat.copies, len(rows)))

    def pass_of(self, x: Tensor, larger: Pass | None = None) -> Pass:
        """A pass through it from the buffer x; `larger` as in Pass."""
        return Pass(self, x, larger)

    def refresh(self) -> None:
        """Copy weights that have changed into what is derived from them."""
        for i, low_kernel in self.low_kernels.items():
            low_kernel.copy_(self.kernels[i])
            self.low_biases[i].copy_(self.biases[i])

    def step(self, factor: float | Tensor = 1.0) -> None:
        """Adam's step, the learning rates times `factor`."""
        assert self.adam is not None
        self.adam.step(factor)
        self.refresh()

    def follow(self, other: Part, polyak: float | Tensor) -> None:
        """The target network's step towards `other`."""
        self.rows.lerp_(other.rows, polyak)
        self.refresh()

    def gradient_norms(self) -> Tensor:
        """[members]."""
        return torch.linalg.vector_norm(self._by_member, dim=1)


class Norm:
    """Layer normalisation of a hidden layer of a part, in whatever pass came last."""

    def __init__(self, part: Part, layer: int):
        self._scale, self._bias = part.norm_scales[layer], part.norm_biases[layer]
        self._scale_gradient, self._bias_gradient = part.norm_scale_gradients[layer], part.norm_bias_gradients[layer]
        self._last: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor, output: Tensor) -> None:
        normalized, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, LAYER_NORM_EPSILON)
        self._last = x, normalized, mean, inverse
        torch.addcmul(self._bias, normalized, self._scale, out=output)

    def backward(self, gradient: Tensor) -> None:
        """From the gradient of the output to that of x, in place."""
        x, normalized, mean, inverse = (each[:, : gradient.shape[1]].contiguous() for each in self._last)
        torch.sum(gradient, 1, keepdim=True, out=self._bias_gradient)
        torch.sum(gradient * normalized, 1, keepdim=True, out=self._scale_gradient)
        gradient.mul_(self._scale)
        rest = (x.shape[-1:], mean, inverse, None, None, [True, False, False])
        gradient.copy_(torch.ops.aten.native_layer_norm_backward(gradient, x, *rest)[0])


class Pass:
    """The forward pass of a part from an input buffer x [G, B, in] to `output` [G, B, out], and its backward pass.

    All views are made once, in the constructor, so that an update takes no time for them.
    """

    def __init__(self, part: Part, x: Tensor, larger: Pass | None = None):
        """larger: a pass of more rows, of which this one is the first."""
        self.part, depth, take, norm = part, len(part.kernels), part.buffers.take, part.layer_norm
        groups, batch, _ = x.shape
        widths = [kernel.shape[2] for kernel in part.kernels]
        if larger is None:
            hidden = [take(f"hidden {i}", groups, batch, width) for i, width in enumerate(widths[:-1])]
            self.outputs = [*hidden, torch.zeros(groups, batch, widths[-1], device=x.device)]
        else:
            self.outputs = [output[:, :batch] for output in larger.outputs]
        self.norms: list[Norm] = larger.norms if larger else [Norm(part, i) for i in range(depth - 1 if norm else 0)]

        self._further: dict[str, list[Tensor]] = {}

        def further(name: str) -> list[Tensor]:
            """A tensor for each layer, besides its output; the last layer has its output alone."""
            if larger is not None:
                self._further[name] = [each[:, :batch] for each in larger._further[name]]
            else:
                own = [take(f"{name} {i}", groups, batch, width) for i, width in enumerate(widths[:-1])]
                self._further[name] = [*own, self.outputs[-1]]
            return self._further[name]

        self.products = further("product") if norm or part.gelu else self.outputs
        """What a layer's product goes into."""
        self._entering, self._activated = self.products, self.outputs
        """What the activation is of, and what comes out; ReLU works in place."""
        if norm == "before":
            self._entering = further("entering") if part.gelu else self.outputs
        elif norm == "after":
            self._activated = further("activated") if part.gelu else self.products
        self._masks: Sequence[Tensor] | None = None
        self.output = self.outputs[-1]
        self.inputs = [x, *self.outputs[:-1]]
        self._transposed_inputs = [each.mT for each in self.inputs]
        self.gradients = [take(f"gradient {i}", groups, batch, width) for i, width in enumerate(widths[:-1])]
        self._transposed_kernels = [kernel.mT for kernel in part.kernels]
        self._transposed_gradient = part.kernel_gradients[-1].mT
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
        part, self._masks = self.part, masks
        for i, (bias, x, kernel, output) in enumerate(
            zip(part.biases, self.inputs, part.kernels, self.products, strict=True)
        ):
            if i in self._low:
                low_x, low_output = self._low[i]
                low_x.copy_(x)
                output.copy_(torch.baddbmm(part.low_biases[i], low_x, part.low_kernels[i], out=low_output))
            else:
                torch.baddbmm(bias, x, kernel, out=output)
            if i < self._last:
                if part.layer_norm == "before":
                    self.norms[i].forward(output, self._entering[i])
                if part.gelu:
                    _gelu(self._entering[i], approximate="tanh", out=self._activated[i])
                else:
                    self._activated[i].relu_()
                if part.layer_norm == "after":
                    self.norms[i].forward(self._activated[i], self.outputs[i])
                if masks is not None:
                    self.outputs[i].mul_(masks[i])
        return self.output

    def backward(self, gradient: Tensor, dropout: float | None = None) -> None:
        """The part's gradients from that of the output that forward() has just given."""
        part, last = self.part, self._last
        torch.sum(gradient, 1, keepdim=True, out=part.bias_gradients[last])
        torch.bmm(gradient.mT, self.inputs[last], out=self._transposed_gradient)
        self._outer(gradient, self._transposed_kernels[last], out=self.gradients[last - 1])
        for i in range(last - 1, -1, -1):
            gradient = self.gradients[i]
            if self._masks is not None and (part.gelu or part.layer_norm == "after"):
                gradient.mul_(self._masks[i])
            elif dropout:  # what was dropped is 0 after ReLU too, what was kept was scaled
                gradient.mul_(1 / (1 - dropout))
            if part.layer_norm == "after":
                self.norms[i].backward(gradient)
            if part.gelu:
                _gelu_backward(gradient, self._entering[i], approximate="tanh", grad_input=gradient)
            else:
                _relu_backward(gradient, self._activated[i], 0, grad_input=gradient)
            if part.layer_norm == "before":
                self.norms[i].backward(gradient)
            torch.sum(gradient, 1, keepdim=True, out=part.bias_gradients[i])
            if i in self._low:
                low_x, low_gradient = self._low[i]
                low_gradient.copy_(gradient)
                part.kernel_gradients[i].copy_(torch.bmm(low_x.mT, low_gradient, out=self._low_gradients[i]))
                self.gradients[i - 1].copy_(torch.bmm(low_gradient, part.low_kernels[i].mT, out=low_x))
                continue
            torch.bmm(self._transposed_inputs[i], gradient, out=part.kernel_gradients[i])
            if i:
                torch.bmm(gradient, self._transposed_kernels[i], out=self.gradients[i - 1])
