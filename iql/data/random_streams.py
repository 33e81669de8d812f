"""Random number streams: every number is a pure function of (seed, purpose, counter).

A counter-based generator in 64-bit integer tensor arithmetic: no state, so a run draws the same numbers
in any pack, on any device and wherever it was resumed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), as signed integers.
_WEYL = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


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


def normal(member_keys: Tensor, counters: Tensor) -> Tensor:
    """A standard normal number for each pair of key [M] and counter [...]: float32 [M, ...], within ±5.8.

    Box and Muller's transform of two uniform numbers of 24 bits.
    """
    drawn = words(member_keys, counters)
    first = (_shift(drawn, 40) + 1).float() * 2.0**-24  # in (0, 1]
    second = ((drawn >> 8) & 0xFFFFFF).float() * 2.0**-24
    return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()


def uniform(member_keys: Tensor, counters: Tensor) -> Tensor:
    """A number in [0, 1) for each pair of key [M] and counter [...]: float32 [M, ...], in steps of 2^−24."""
    return _shift(words(member_keys, counters), 40).float() * 2.0**-24


def bits(member_keys: Tensor, counters: Tensor) -> Tensor:
    """63 random bits for each pair of key [M] and counter [...]: int64 [M, ...], all ≥ 0."""
    return _shift(words(member_keys, counters), 1)
