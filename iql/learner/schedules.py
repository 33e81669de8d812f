"""Schedules of learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCHEDULES = ("cosine", "constant")
ONLINE = ("constant", "restarted", "continued")


@dataclass(frozen=True)
class Horizon:
    """The updates over which a learning rate follows its schedule.

    updates  of the whole run or, where online ones follow, of the offline phase
    online   the online phase's
    how      what the online phase means for a rate: constant (it is so in both phases), restarted (the schedule begins
             again with the online phase and ends with it) or continued (as torch's CosineAnnealingLR goes on: it climbs
             back up as it fell)
    """

    updates: int
    online: int = 0
    how: str = "restarted"

    def rate_factor(self, schedule: str, update: int | Tensor) -> float | Tensor:
        """What a learning rate is multiplied by in update number `update`; [] float32 for a tensor [].

        cosine falls from 1 to 0. Without an online phase it stays there.
        """
        if schedule == "constant" or (self.online and self.how == "constant"):
            return 1.0
        if isinstance(update, Tensor):
            number = update.double()
            restarted = (number - self.updates) / max(self.online, 1)
            share = torch.where(number < self.updates, number / max(self.updates, 1), self._after(number, restarted))
            return (0.5 * (1 + torch.cos(math.pi * share))).float()
        if update < self.updates:
            return 0.5 * (1 + math.cos(math.pi * update / self.updates))
        share = self._after(update, (update - self.updates) / max(self.online, 1))
        return 0.5 * (1 + math.cos(math.pi * share))

    def _after(self, number: Any, restarted: Any) -> Any:
        """How much of its way from 1 to 0 the rate has gone after `updates`; beyond 1 it climbs."""
        if not self.online:
            return 0 * number + 1
        return restarted if self.how == "restarted" else number / max(self.updates, 1)
