"""The replay buffer of finetuning: the offline rows, which a pack shares, and the online rows of each member."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iql.data.random_streams import bits
from iql.data.sampling import UPDATES_PER_BLOCK, Batch, Batches
from iql.data.transitions import Transitions


class OnlineRow(NamedTuple):
    """One step in the environment, as it is stored: observations normalised and the reward transformed like the data's.

    observation, next_observation [observation_dim], action [action_dim] within ±1, reward and mask numbers; the mask is
    0 where the environment terminated, and not where a time limit cut the episode.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: float
    mask: float
    next_observation: np.ndarray

    def packed(self) -> np.ndarray:
        """The row as numbers, [row_size] float32."""
        return np.concatenate(
            [self.observation, self.action, [self.reward, self.mask], self.next_observation], dtype=np.float32
        )


class ReplayBuffer(Batches):
    """Batches of offline rows and of the rows that each member has inserted since, by the member's own seed.

    capacity       slots of a member. The offline rows fill the first ones; the next rows are inserted behind them and,
                   once all are filled, from the first slot on (Kostrikov et al.'s buffer)
    steps          the most rows that a member inserts
    offline_share  share of a batch that is drawn from the offline rows, all of which then stay, the rest being drawn
                   from the online rows, which then have the `capacity` slots to themselves. None: a batch is drawn from
                   all slots alike
    inserted       [M] int64, rows inserted so far, on the device

    Draws are those of Batches: without an online row the two give the same batches. Raises ValueError where the offline
    rows do not fit.
    """

    def __init__(
        self,
        data: Transitions,
        seeds: Sequence[int],
        batch_size: int,
        device: torch.device | str,
        *,
        capacity: int,
        steps: int,
        offline_share: float | None,
    ):
        super().__init__(data, seeds, batch_size, device)
        if offline_share is None and capacity < len(data):
            raise ValueError(f"a capacity of {capacity:,} is less than the data's {len(data):,} transitions")
        self.capacity = capacity
        self._offline = None if offline_share is None else round(offline_share * batch_size)
        self._sizes = [data.observations.shape[1], data.actions.shape[1], 1, 1, data.observations.shape[1]]
        self._slots = min(steps, capacity)
        self._rows = torch.zeros(len(seeds), self._slots, sum(self._sizes), device=device)
        self._members = torch.arange(len(seeds), device=device).view(-1, 1, 1)
        self._counts = [0] * len(seeds)
        self.inserted = torch.zeros(len(seeds), dtype=torch.int64, device=device)
        self._drawn = torch.empty(0)

    def of(self, members: range) -> ReplayBuffer:
        """Some members' batches, of the same rows."""
        own = copy.copy(self)
        chosen = slice(members.start, members.stop)
        own._keys, own._members, own.inserted = self._keys[chosen], self._members[chosen], self.inserted[chosen]
        own._block = -1
        return own

    def insert(self, member: int, row: np.ndarray) -> None:
        """Insert a member's next row, an OnlineRow as [row_size] float32."""
        self._rows[member, self._counts[member] % self._slots] = torch.from_numpy(row)
        self._counts[member] += 1
        self.inserted[member] += 1

    def restore(self, member: int, rows: np.ndarray) -> None:
        """Take up all rows [R, row_size] float32 that a member has inserted, in their order."""
        kept = np.arange(max(0, len(rows) - self._slots), len(rows))
        self._rows[member, kept % self._slots] = torch.from_numpy(rows[kept]).to(self._rows.device)
        self._counts[member] = len(rows)
        self.inserted[member] = len(rows)

    def at(self, update: int) -> Batch:
        """The batch of update number `update`, drawn from what the buffer holds now."""
        block, place = divmod(update, UPDATES_PER_BLOCK)
        if block != self._block:
            self._drawn = self._bits(block * UPDATES_PER_BLOCK, UPDATES_PER_BLOCK)
            self._block = block
        return self.gather(self._places(self._drawn[:, place : place + 1]).squeeze(1))

    def draw(self, first: int | Tensor, updates: int) -> Tensor:
        """The places of the batches of updates first, first + 1, ..., [M, updates, B] int64, of what it holds now."""
        return self._places(self._bits(first, updates))

    def gather(self, rows: Tensor) -> Batch:
        """The batch of these places."""
        flat, offline = rows.reshape(-1), len(self.masks)
        from_online = flat >= offline
        # Each place is looked up in both parts, in the other one at row 0.
        stored = self._rows.flatten(0, 1).index_select(0, (flat - offline).clamp(min=0)).split(self._sizes, 1)
        row = flat.masked_fill(from_online, 0)
        of_data = (
            self.observations.index_select(0, row),
            self.actions.index_select(0, row),
            self.rewards.index_select(0, row),
            self.masks.index_select(0, row),
            self.observations.index_select(0, row + 1),
        )
        return Batch(
            *(
                torch.where(from_online.view(-1, *[1] * (own.dim() - 1)), other.view(own.shape), own).view(
                    *rows.shape, *own.shape[1:]
                )
                for own, other in zip(of_data, stored, strict=True)
            )
        )

    def _bits(self, first: int | Tensor, updates: int) -> Tensor:
        counters = torch.arange(updates * self.batch_size, device=self._keys.device) + first * self.batch_size
        return bits(self._keys, counters).view(-1, updates, self.batch_size)

    def _places(self, drawn: Tensor) -> Tensor:
        """Random bits [M, updates, B] as places: the data's rows, behind them each member's online rows."""
        offline, inserted = len(self.rows), self.inserted.view(-1, 1, 1)
        if self._offline is None:
            slot = drawn % (offline + inserted).clamp(max=self.capacity)
            # The online row that was inserted there last; negative where the slot still has its offline row.
            online = inserted - 1 - (offline + inserted - 1 - slot) % self.capacity
            return torch.where(online >= 0, self._online_place(online), self.rows[slot.clamp(max=offline - 1)])
        of_data, rest = drawn[..., : self._offline], drawn[..., self._offline :]
        newest = inserted - 1 - rest % inserted.clamp(1, self._slots)
        return torch.cat([self.rows[of_data % offline], self._online_place(newest)], -1)

    def _online_place(self, number: Tensor) -> Tensor:
        return len(self.masks) + self._members * self._slots + number % self._slots
