"""Random numbers that an update draws: functions of (seed, name, number of the update)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from iql.data.random_streams import keys, normal, uniform

_UPDATES_PER_BLOCK, _NUMBERS_PER_BLOCK = 64, 1 << 16
"""Drawn in one call at most, instead of in one call per update: 10 µs an update instead of 300."""


class Noise:
    """The random number streams of a pack, one for each member and name."""

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self._seeds, self._device = seeds, device
        self._keys: dict[str, Tensor] = {}
        self._blocks: dict[Any, tuple[range, Tensor]] = {}

    def of(self, members: range) -> Noise:
        """The streams of some members."""
        return Noise(self._seeds[members.start : members.stop], self._device)

    def at(self, number: int | Tensor) -> UpdateNoise:
        """The random numbers of update `number`, as algorithms ask for them."""
        return UpdateNoise(self, number)

    def normal(self, name: str, number: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of update `number`, [M, *shape] float32."""
        return self._draw(normal, name, number, shape)

    def uniform(self, name: str, number: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Numbers in [0, 1) of update `number`, [M, *shape] float32."""
        return self._draw(uniform, name, number, shape)

    def _draw(
        self,
        distribution: Callable[[Tensor, Tensor], Tensor],
        name: str,
        number: int | Tensor,
        shape: Sequence[int],
    ) -> Tensor:
        if isinstance(number, Tensor):  # of a CUDA graph, which draws for itself
            return self._drawn(distribution, name, number, (1, *shape))[:, 0]
        place = (distribution, name, *shape)
        numbers, drawn = self._blocks.get(place, (range(0), torch.empty(0)))
        if number not in numbers:
            most = _NUMBERS_PER_BLOCK // max(1, len(self._seeds) * math.prod(shape))
            size = max(1, min(_UPDATES_PER_BLOCK, most))
            first = number // size * size
            numbers = range(first, first + size)
            drawn = self._drawn(distribution, name, first, (size, *shape))
            self._blocks[place] = numbers, drawn
        return drawn[:, number - numbers.start]

    def _drawn(
        self,
        distribution: Callable[[Tensor, Tensor], Tensor],
        name: str,
        first: int | Tensor,
        shape: Sequence[int],
    ) -> Tensor:
        """The numbers of the updates from `first` on, [M, *shape]; shape[0]: of how many."""
        if name not in self._keys:
            self._keys[name] = keys(self._seeds, f"noise/{name}", self._device)
        count = math.prod(shape[1:])
        counters = torch.arange(count * shape[0], device=self._device) + first * count
        return distribution(self._keys[name], counters).view(-1, *shape)


class UpdateNoise:
    """The random numbers of one update (algorithms.algorithm.Draws)."""

    def __init__(self, noise: Noise, number: int | Tensor):
        self._noise, self._number = noise, number

    def normal(self, name: str, *shape: int) -> Tensor:
        return self._noise.normal(name, self._number, shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self._noise.uniform(name, self._number, shape)
