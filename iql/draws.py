"""Random draws that are pure functions of (seed, purpose, update), and the batches drawn with them.

A counter-based generator in 64-bit integer tensor arithmetic: no state, so a run draws the same numbers
in any pack, on any device and wherever it was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from iql.transitions import Transitions

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), as signed integers.
_WEYL = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_UPDATES_PER_BLOCK = 64  # one call per block instead of one per update: 6 µs an update instead of 95


def key(seed: int, purpose: str) -> int:
    """A 63-bit key of its own for every (seed, purpose)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little") >> 1


def keys(seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> Tensor:
    """The members' keys, [M] int64."""
    return torch.tensor([key(seed, purpose) for seed in seeds], dtype=torch.int64, device=device)


def _shift(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically: the mask makes it logical.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def bits(member_keys: Tensor, counters: Tensor) -> Tensor:
    """63 random bits for each pair of key [M] and counter [...]: int64 [M, ...], all ≥ 0."""
    x = member_keys.view(-1, *[1] * counters.dim()) + (counters + 1) * _WEYL
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return _shift(x ^ _shift(x, 31), 1)


class Batch(NamedTuple):
    """A batch for every member of a pack.

    observations, next_observations  [M, B, observation_dim]
    actions                          [M, B, action_dim]
    rewards, masks                   [M, B]
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    masks: Tensor
    next_observations: Tensor


class Batches:
    """Batches of a dataset, uniformly with replacement, each member by its own seed.

    The index is the draw modulo the number of transitions: its bias, below 1e-12 for 1e7 rows, is not seen.
    """

    def __init__(self, data: Transitions, seeds: Sequence[int], batch_size: int, device: torch.device | str):
        def tensor(array):
            return torch.as_tensor(array, device=device)

        self.observations = tensor(data.observations)
        self.actions = tensor(data.actions)
        self.rewards = tensor(data.rewards)
        self.masks = tensor(data.masks)
        self.rows = tensor(data.rows)
        self.batch_size = batch_size
        self._keys = keys(seeds, "batch", device)
        self._block = -1
        self._block_rows = torch.empty(0)

    def at(self, update: int) -> Batch:
        """The batch of update number `update` (counted from 0)."""
        block, place = divmod(update, _UPDATES_PER_BLOCK)
        if block != self._block:
            size = _UPDATES_PER_BLOCK * self.batch_size
            counters = torch.arange(block * size, (block + 1) * size, device=self._keys.device)
            chosen = self.rows[bits(self._keys, counters) % len(self.rows)]
            self._block_rows = chosen.view(len(self._keys), _UPDATES_PER_BLOCK, self.batch_size)
            self._block = block
        rows = self._block_rows[:, place]
        return Batch(
            self.observations[rows],
            self.actions[rows],
            self.rewards[rows],
            self.masks[rows],
            self.observations[rows + 1],
        )


class DropoutMasks:
    """Inverted dropout for the hidden layers of a pack, drawn per (seed, update, layer).

    `at` gives one [M, B, width] tensor a hidden layer: 0 with probability `rate`, else 1 / (1 − rate).
    """

    def __init__(self, rate: float, widths: Sequence[int], seeds: Sequence[int], device: torch.device | str):
        self.rate = rate
        self.widths = tuple(widths)
        self._keys = [keys(seeds, f"dropout/{layer}", device) for layer in range(len(self.widths))]

    def at(self, update: int, batch_size: int) -> list[Tensor]:
        threshold = int(self.rate * (1 << 63))
        masks = []
        for layer_keys, width in zip(self._keys, self.widths, strict=True):
            size = batch_size * width
            counters = torch.arange(update * size, (update + 1) * size, device=layer_keys.device)
            kept = bits(layer_keys, counters).view(-1, batch_size, width) >= threshold
            masks.append(kept.float().mul_(1 / (1 - self.rate)))
        return masks
