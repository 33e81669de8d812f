"""Random numbers that an update draws: functions of (seed, name, number of the update)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from iql.data.random_streams import keys, normal, uniform


class Noise:
    """The random number streams of a pack, one for each member and name."""

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self._seeds, self._device = seeds, device
        self._keys: dict[str, Tensor] = {}

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
        if name not in self._keys:
            self._keys[name] = keys(self._seeds, f"noise/{name}", self._device)
        count = math.prod(shape)
        counters = torch.arange(count, device=self._device) + number * count
        return distribution(self._keys[name], counters).view(-1, *shape)


class UpdateNoise:
    """The random numbers of one update (algorithms.algorithm.Draws)."""

    def __init__(self, noise: Noise, number: int | Tensor):
        self._noise, self._number = noise, number

    def normal(self, name: str, *shape: int) -> Tensor:
        return self._noise.normal(name, self._number, shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self._noise.uniform(name, self._number, shape)
