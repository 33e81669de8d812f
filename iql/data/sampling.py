"""Batches of transitions, sampled for every member of a pack by its own seed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from iql.data.random_streams import bits, keys
from iql.data.transitions import Transitions

UPDATES_PER_BLOCK = 64  # drawn in one call per block instead of one per update: 6 µs an update instead of 95


class Batch(NamedTuple):
    """A batch for every member of a pack.

    observations, next_observations  [M, B, observation_dim]
    actions                          [M, B, action_dim]
    rewards, masks                   [M, B]
    next_actions                     [M, B, action_dim], the data's own after next_observations; after a terminal they
                                     belong to another episode. None unless the algorithm asks for them
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    masks: Tensor
    next_observations: Tensor
    next_actions: Tensor | None = None


class Batches:
    """Batches of a dataset, uniformly with replacement, each member by its own seed.

    The index is the draw modulo the number of transitions: its bias, below 1e-12 for 1e7 rows, is negligible.
    next_actions: whether batches have them.
    """

    def __init__(
        self,
        data: Transitions,
        seeds: Sequence[int],
        batch_size: int,
        device: torch.device | str,
        next_actions: bool = False,
    ):
        def tensor(array):
            return torch.as_tensor(array, device=device)

        self.observations = tensor(data.observations)
        self.actions = tensor(data.actions)
        self.rewards = tensor(data.rewards)
        self.masks = tensor(data.masks)
        self.rows = tensor(data.rows)
        self.batch_size, self.next_actions = batch_size, next_actions
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
        block, place = divmod(update, UPDATES_PER_BLOCK)
        if block != self._block:
            self._block_rows = self.draw(block * UPDATES_PER_BLOCK, UPDATES_PER_BLOCK)
            self._block = block
        return self.gather(self._block_rows[:, place])

    def draw(self, first: int | Tensor, updates: int) -> Tensor:
        """The rows of the batches of updates first, first + 1, ..., [M, updates, B] int64."""
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
            take(self.actions, flat + 1) if self.next_actions else None,
        )
