"""The multilayer perceptron that all networks are built of, for a whole pack: parameters lead with the member axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from iql.networks.initialization import draw_layers

PRODUCT_TYPES = {"float32": None, "ieee": None, "bf16": torch.bfloat16}
"""The type of the large products by the setting `precision`; None: that of the weights."""


LAYER_NORM_EPSILON = 1e-6
"""What layer normalisation adds to the variance: flax's number, that of the implementations in JAX."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": partial(nn.functional.gelu, approximate="tanh"),
}
"""What follows a hidden layer's product. gelu is its tanh form, ½x(1 + tanh(√(2/π)(x + 0.044715x³))), as in JAX."""


class MLP(nn.Module):
    """`copies` perceptrons for each of M members, as one batched product a layer.

    Input [M, B, widths[0]], output [M, B, widths[-1]] for one copy, [M, copies, B, widths[-1]] for more.
    Kernels are [M, (copies,) in, out]. `initialization`: a name of initialization.INITIALIZATIONS. layer_norm: whether
    hidden layers are normalised, "before" their activation (SQL, XQL) or "after" it (ReBRAC), or None. activation: a
    name of ACTIVATIONS.
    Weights are drawn on the CPU from (seed, name), so a pack does not change them. product_dtype: the type of the
    products between hidden layers, the large ones, or None for that of the weights. computed_by: what takes forward's
    place (execution.native_mlp), or None.
    """

    product_dtype: torch.dtype | None = None
    computed_by: Callable[[Tensor, Sequence[Tensor] | None], Tensor] | None = None

    def __init__(
        self,
        widths: Sequence[int],
        seeds: Sequence[int],
        names: Sequence[str],
        initialization: str,
        layer_norm: str | None = None,
        activation: str = "relu",
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be {' or '.join(ACTIVATIONS)}, got {activation!r}")
        if layer_norm not in (None, "before", "after"):
            raise ValueError(f"layer_norm must be before, after or null, got {layer_norm!r}")
        self.copies, self.layer_norm, self.activation = len(names), layer_norm, activation
        drawn = [[draw_layers(widths, seed, name, initialization) for name in names] for seed in seeds]
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in range(len(widths) - 1):
            for parameters, part in ((self.kernels, 0), (self.biases, 1)):
                stacked = torch.stack([torch.stack([copy[layer][part] for copy in member]) for member in drawn])
                parameters.append(nn.Parameter(stacked.squeeze(1) if self.copies == 1 else stacked))
        self.norm_scales = nn.ParameterList()
        self.norm_biases = nn.ParameterList()
        for bias in self.biases[:-1] if layer_norm else ():
            self.norm_scales.append(nn.Parameter(torch.ones_like(bias)))
            self.norm_biases.append(nn.Parameter(torch.zeros_like(bias)))

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """masks: what each hidden layer's output is multiplied by (dropout), [M, B, width] each."""
        return (self.computed_by or self.layers)(x, masks)

    def layers(self, x: Tensor, masks: Sequence[Tensor] | None) -> Tensor:
        """What forward gives, with torch's operations."""
        members, batch, _ = x.shape
        if self.copies > 1:
            x = x.unsqueeze(1).expand(-1, self.copies, -1, -1).reshape(members * self.copies, batch, -1)
        last, activate = len(self.kernels) - 1, ACTIVATIONS[self.activation]
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            bias, kernel = bias.flatten(0, -2).unsqueeze(1), kernel.flatten(0, -3)
            if self.product_dtype is not None and 0 < layer < last:
                x = torch.baddbmm(
                    bias.to(self.product_dtype), x.to(self.product_dtype), kernel.to(self.product_dtype)
                ).to(x.dtype)
            else:
                x = torch.baddbmm(bias, x, kernel)
            if layer < last:
                if self.layer_norm == "before":
                    x = self._normalized(layer, x)
                x = activate(x)
                if self.layer_norm == "after":
                    x = self._normalized(layer, x)
                if masks is not None:
                    x = x * masks[layer]
        return x if self.copies == 1 else x.view(members, self.copies, batch, -1)

    def _normalized(self, layer: int, x: Tensor) -> Tensor:
        scale, bias = (each[layer].flatten(0, -2).unsqueeze(1) for each in (self.norm_scales, self.norm_biases))
        return nn.functional.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPSILON) * scale + bias
