"""Dropout whose masks are drawn from random number streams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iql.data.random_streams import keys, words


class DropoutMasks(nn.Module):
    """Inverted dropout for the hidden layers of a pack, drawn by (seed, layer, update).

    `at` gives one [M, B, width] tensor for each hidden layer: 0 with probability `rate` (to 1/65,536: a unit takes
    16 bits), else 1 / (1 − rate).
    """

    keys: Tensor

    def __init__(self, rate: float, widths: Sequence[int], seeds: Sequence[int]):
        super().__init__()
        self.rate = rate
        self.widths = tuple(widths)
        layers = [keys(seeds, f"dropout/{layer}") for layer in range(len(self.widths))]
        self.register_buffer("keys", torch.stack(layers), persistent=False)  # [layers, M]

    def at(self, update: int | Tensor, batch_size: int, members: slice = slice(None)) -> list[Tensor]:
        """The masks of `members` in update number `update`."""
        threshold = round(self.rate * (1 << 16)) - (1 << 15)
        masks = []
        for layer_keys, width in zip(self.keys[:, members], self.widths, strict=True):
            units = batch_size * width
            size = -(-units // 4)  # four units a word
            counters = torch.arange(size, device=layer_keys.device) + update * size
            drawn = words(layer_keys, counters).view(torch.int16)[:, :units]
            masks.append((drawn >= threshold).view(-1, batch_size, width).float().mul_(1 / (1 - self.rate)))
        return masks
