"""The multilayer perceptron that all networks are built of, for a whole pack: parameters lead with the member axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iql.data.random_streams import key

PRODUCT_TYPES = {"float32": None, "ieee": None, "bf16": torch.bfloat16}
"""The type of the large products by the setting `precision`; None: that of the weights."""


class MLP(nn.Module):
    """`copies` perceptrons with ReLU for each of M members, as one batched product a layer.

    Input [M, B, widths[0]], output [M, B, widths[-1]] for one copy, [M, copies, B, widths[-1]] for more.
    Kernels are [M, (copies,) in, out]. `initialization`: orthogonal (gain √2 on every layer, zero biases:
    the authors') or pytorch (uniform within ±1/√in, biases too: gwthomas, CORL).
    Weights are drawn on the CPU from (seed, name), so a pack does not change them. product_dtype: the type of the
    products between hidden layers, the large ones, or None for that of the weights.
    """

    product_dtype: torch.dtype | None = None

    def __init__(self, widths: Sequence[int], seeds: Sequence[int], names: Sequence[str], initialization: str):
        super().__init__()
        self.copies = len(names)
        drawn = [[_draw_layers(widths, seed, name, initialization) for name in names] for seed in seeds]
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in range(len(widths) - 1):
            for parameters, part in ((self.kernels, 0), (self.biases, 1)):
                stacked = torch.stack([torch.stack([copy[layer][part] for copy in member]) for member in drawn])
                parameters.append(nn.Parameter(stacked.squeeze(1) if self.copies == 1 else stacked))

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """masks: what each hidden layer's output is multiplied by (dropout), [M, B, width] each."""
        members, batch, _ = x.shape
        if self.copies > 1:
            x = x.unsqueeze(1).expand(-1, self.copies, -1, -1).reshape(members * self.copies, batch, -1)
        last = len(self.kernels) - 1
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            bias, kernel = bias.flatten(0, -2).unsqueeze(1), kernel.flatten(0, -3)
            if self.product_dtype is not None and 0 < layer < last:
                x = torch.baddbmm(
                    bias.to(self.product_dtype), x.to(self.product_dtype), kernel.to(self.product_dtype)
                ).to(x.dtype)
            else:
                x = torch.baddbmm(bias, x, kernel)
            if layer < last:
                x = torch.relu(x)
                if masks is not None:
                    x = x * masks[layer]
        return x if self.copies == 1 else x.view(members, self.copies, batch, -1)


def _draw_layers(widths: Sequence[int], seed: int, name: str, initialization: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(key(seed, f"initialization/{name}"))
    layers = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        kernel, bias = torch.empty(fan_in, fan_out), torch.zeros(fan_out)
        if chosen(initialization, "orthogonal", "pytorch"):
            nn.init.orthogonal_(kernel, gain=2**0.5, generator=generator)
        else:
            for parameter in (kernel, bias):
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers.append((kernel, bias))
    return layers


def chosen(value: str, yes: str, no: str) -> bool:
    """Whether `value` is `yes`. Raises ValueError unless it is one of the two."""
    if value not in (yes, no):
        raise ValueError(f"must be {yes} or {no}, got {value!r}")
    return value == yes
