"""Random draws that are pure functions of (seed, purpose, update), and the batches drawn with them.

A counter-based generator in 64-bit integer tensor arithmetic: no state, so a run draws the same numbers
in any pack, on any device and wherever it was resumed.
"""

from __future__ import annotations

import copy
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


def words(member_keys: Tensor, counters: Tensor) -> Tensor:
    """64 random bits for each pair of key [M] and counter [...]: int64 [M, ...]."""
    x = member_keys.view(-1, *[1] * counters.dim()) + (counters + 1) * _WEYL
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def bits(member_keys: Tensor, counters: Tensor) -> Tensor:
    """63 random bits for each pair of key [M] and counter [...]: int64 [M, ...], all ≥ 0."""
    return _shift(words(member_keys, counters), 1)


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

    def of(self, members: range) -> Batches:
        """Some members' batches, of the same data."""
        own = copy.copy(self)
        own._keys = self._keys[members.start : members.stop]
        own._block = -1
        return own

    def at(self, update: int) -> Batch:
        """The batch of update number `update` (counted from 0)."""
        block, place = divmod(update, _UPDATES_PER_BLOCK)
        if block != self._block:
            self._block_rows = self.draw(block * _UPDATES_PER_BLOCK, _UPDATES_PER_BLOCK)
            self._block = block
        return self.gather(self._block_rows[:, place])

    def draw(self, first: int | Tensor, updates: int) -> Tensor:
        """The rows of the data that updates first, first + 1, ... see, [M, updates, B] int64."""
        counters = torch.arange(updates * self.batch_size, device=self._keys.device) + first * self.batch_size
        return self.rows[bits(self._keys, counters) % len(self.rows)].view(-1, updates, self.batch_size)

    def gather(self, rows: Tensor) -> Batch:
        """The batch of these rows [M, B]."""
        flat = rows.reshape(-1)

        def take(data: Tensor, chosen: Tensor) -> Tensor:  # index_select takes half the time of data[rows]
            return data.index_select(0, chosen).view(*rows.shape, *data.shape[1:])

        return Batch(
            take(self.observations, flat),
            take(self.actions, flat),
            take(self.rewards, flat),
            take(self.masks, flat),
            take(self.observations, flat + 1),
        )


class DropoutMasks:
    """Inverted dropout for the hidden layers of a pack, drawn per (seed, update, layer).

    `at` gives one [M, B, width] tensor a hidden layer: 0 with probability `rate` (to 1/65,536: a unit takes 16
    bits), else 1 / (1 − rate).
    """

    def __init__(self, rate: float, widths: Sequence[int], seeds: Sequence[int], device: torch.device | str):
        self.rate = rate
        self.widths = tuple(widths)
        self._keys = [keys(seeds, f"dropout/{layer}", device) for layer in range(len(self.widths))]

    def of(self, members: range) -> DropoutMasks:
        """Some members' masks."""
        own = copy.copy(self)
        own._keys = [layer_keys[members.start : members.stop] for layer_keys in self._keys]
        return own

    def at(self, update: int | Tensor, batch_size: int) -> list[Tensor]:
        threshold = round(self.rate * (1 << 16)) - (1 << 15)
        masks = []
        for layer_keys, width in zip(self._keys, self.widths, strict=True):
            units = batch_size * width
            size = -(-units // 4)  # four units a word
            counters = torch.arange(size, device=layer_keys.device) + update * size
            drawn = words(layer_keys, counters).view(torch.int16)[:, :units]
            masks.append((drawn >= threshold).view(-1, batch_size, width).float().mul_(1 / (1 - self.rate)))
        return masks
