"""Random search: joint draws of the values of some overrides, each a function of the sweep's seed and its number."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.types import IntervalSweep, Override, Sweep

from iql.errors import UserError

TAG = "draw"
"""The tag that marks a list of values as one to draw from: KEY=tag(draw,choice(a,b)). An interval is always drawn."""

DIGITS = 6
"""Significant digits of a value that is drawn from an interval; they are in the names of runs."""


def is_drawn(override: Override) -> bool:
    """Whether the override's values are drawn rather than all taken."""
    value = override.value()
    return isinstance(value, IntervalSweep) or isinstance(value, Sweep) and TAG in value.tags


def drawn(overrides: Sequence[Override], count: int, seed: int) -> Iterator[list[str]]:
    """So many distinct joint values of these overrides, as text in Hydra's grammar.

    Every value is uniform and depends on seed, key and the draw's number alone: a larger count adds draws, and neither
    the order of the overrides nor another override changes one. Raises UserError where there are fewer joint values.
    """
    sources = [value if isinstance(value := each.value(), IntervalSweep) else _listed(each) for each in overrides]
    possible = math.prod(math.inf if isinstance(each, IntervalSweep) else len(set(each)) for each in sources)
    if possible < count:
        raise UserError(f"sweep.draws={count}: there are only {possible} joint values to draw from")
    seen: set[tuple[str, ...]] = set()
    for number in itertools.count():
        values = [
            _at(source, _uniform(seed, each.key_or_group, number))
            for each, source in zip(overrides, sources, strict=True)
        ]
        if tuple(values) not in seen:
            seen.add(tuple(values))
            yield values
        if len(seen) == count:
            return


def _listed(override: Override) -> list[str]:
    return [str(text) for text in override.sweep_string_iterator()]


def _at(source: IntervalSweep | list[str], share: float) -> str:
    """The value at a share [0, 1) of an interval or of a list."""
    if isinstance(source, list):
        return source[int(share * len(source))]
    assert source.start is not None and source.end is not None
    return f"{source.start + share * (source.end - source.start):.{DIGITS}g}"


def _uniform(seed: int, key: str, number: int) -> float:
    """A number in [0, 1) of 53 bits, as floats have."""
    digest = hashlib.sha256(f"{seed}/{key}/{number}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
