"""Schedules of learning rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEDULES = ("cosine", "constant")


def rate_factor(schedule: str, update: int | Tensor, updates: int) -> float | Tensor:
    """What a learning rate is multiplied by in update number `update` of `updates`; [] float32 for a tensor [].

    cosine falls from 1 to 0 and stays there, where torch's CosineAnnealingLR climbs back up.
    """
    if schedule == "constant":
        return 1.0
    if isinstance(update, Tensor):
        return (0.5 * (1 + torch.cos(math.pi * (update.double() / updates).clamp(max=1.0)))).float()
    return 0.5 * (1 + math.cos(math.pi * min(update / updates, 1.0)))
