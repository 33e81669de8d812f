"""A file's own next_observations: comparison with the order of its rows, and rows rearranged by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from iql.data.transitions import BLOCK
from iql.dataset_files.columns import Column, describe
from iql.dataset_files.rows import Rows, check_finite
from iql.errors import UserError

ROUNDING = 8
"""The most units in the last place of an entry's largest number by which rounding may change an observation."""


def compared(data: Rows, columns: Mapping[str, Column]) -> Rows:
    """The rows, with `contradicted` set: the number of rows within an episode whose successor on file is another row.

    Unchanged where next_observations do not have the form of observations.
    """
    if column_problem(data, columns):
        return data
    goes_on = ~(data.terminals | data.timeouts)
    goes_on[-1] = False
    return replace(data, contradicted=int(np.count_nonzero(_differing(data, columns) & goes_on)))


def arranged(data: Rows, columns: Mapping[str, Column], source: Path | str) -> Rows:
    """The same transitions with the successors on file, rearranged so that each row is followed by its successor.

    Interleaved episodes are separated: where a row's successor is not the next row, its episode continues with a row
    that has this observation. If there is none, the episode ends there, and an added row (a timeout with reward 0)
    holds its last observation. A timeout whose successor on file is the next row, the first after a reset, stays a
    timeout and makes no transition. Where several rows have equal observations, the returns of episodes may differ
    from the recorded ones; transitions do not. Raises UserError.
    """
    if problem := column_problem(data, columns):
        raise UserError(f"{source}: {problem}")
    apart = _differing(data, columns)
    apart[-1] = True
    reset = data.timeouts & ~apart  # the next row is the next episode's first observation
    ends = np.flatnonzero(apart | data.terminals | reset)  # of segments, within which the next row is the successor
    starts = np.concatenate([[0], ends[:-1] + 1])
    seams = np.flatnonzero(~(data.terminals | reset)[ends])  # segments whose last row's successor is to be found
    successors = _picked(columns["next_observations"], ends[seams])
    check_finite(successors, "next_observations", source)
    unmarked = ~data.timeouts[ends[seams]]
    following = np.full(len(ends), -1)
    following[seams[unmarked]] = _equal(successors[unmarked], data.observations[starts])
    order, last = _chained(following)

    closed = np.zeros(len(ends), bool)  # segments after which a row holds the last observation
    closed[seams] = last[seams]
    closed[order[-1]] = True  # no transition starts from the last row of all
    lengths = (ends - starts + 1 + closed)[order]
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # of a row in its segment
    segment = np.repeat(order, lengths)
    index = np.minimum(starts[segment] + place, ends[segment])
    closing = starts[segment] + place > ends[segment]

    observations, actions, rewards = data.observations[index], data.actions[index], data.rewards[index]
    terminals, timeouts = data.terminals[index] & ~closing, reset[index]
    rewards[closing] = 0
    number = np.full(len(ends), -1)
    number[seams] = np.arange(len(seams))
    holding = closing & (number[segment] >= 0)
    observations[holding] = successors[number[segment[holding]]]
    timeouts[closing] = holding[closing]
    return Rows(observations, actions, rewards, terminals, timeouts, contradicted=0)


def column_problem(data: Rows, columns: Mapping[str, Column]) -> str | None:
    """Why next_observations cannot be successors, for a message; None if they can."""
    column = columns["next_observations"]
    if column.dtype.kind in "fiub" and column.shape == data.observations.shape:
        return None
    needed = list(data.observations.shape)
    return f"next_observations is {describe(column)} where numbers {needed} are needed, as observations are"


def _differing(data: Rows, columns: Mapping[str, Column]) -> np.ndarray:
    """[R] bool: whether a row's successor on file is another than the next row, beyond rounding; False for the last."""
    column, rows = columns["next_observations"], data.observations
    precisions = [
        np.finfo(each.dtype).eps for each in (rows, columns["observations"], column) if each.dtype.kind == "f"
    ]
    largest = np.max([np.abs(rows[first : first + BLOCK]).max(0) for first in range(0, len(rows), BLOCK)], axis=0)
    allowed = ROUNDING * max(precisions) * largest
    apart = np.zeros(len(rows), bool)
    for first in range(0, len(rows) - 1, BLOCK):
        end = min(first + BLOCK, len(rows) - 1)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(_float32(column[first:end]) - rows[first + 1 : end + 1])
        apart[first:end] = ~(difference <= allowed).all(1)  # NaN differs
    return apart


def _picked(column: Column, rows: np.ndarray) -> np.ndarray:
    """The given rows [n] of a column, read in blocks: HDF5 is slow at reading single rows."""
    parts = [np.empty((0, *column.shape[1:]), np.float32)]
    for first in range(0, len(column), BLOCK):
        inside = rows[(rows >= first) & (rows < first + BLOCK)]
        if len(inside):
            parts.append(_float32(column[first : first + BLOCK])[inside - first])
    return np.concatenate(parts)


def _float32(block: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(block).astype(np.float32)


def _equal(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """For each observation of `wanted` the place in `among` [n, entries] of an equal one, each place once; else −1."""
    ours, theirs = _hashes(wanted), _hashes(among)
    order, theirs_order = np.argsort(ours, kind="stable"), np.argsort(theirs, kind="stable")
    ours, theirs = ours[order], theirs[theirs_order]
    repeated = np.arange(len(ours)) - np.searchsorted(ours, ours)  # the k-th of equal ones gets the k-th place
    place = np.searchsorted(theirs, ours) + repeated
    inside = place < len(theirs)
    inside[inside] = theirs[place[inside]] == ours[inside]
    found = np.full(len(wanted), -1)
    found[order[inside]] = theirs_order[place[inside]]
    for first in range(0, len(found), BLOCK):
        block = found[first : first + BLOCK]
        block[(among[block] != wanted[first : first + BLOCK]).any(1)] = -1
    return found


def _hashes(observations: np.ndarray) -> np.ndarray:
    """Hashes [n] uint64 of observations [n, entries] float32; equal observations have equal hashes."""
    factors = np.random.default_rng(0).integers(1 << 63, size=observations.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.zeros(len(observations), np.uint64)
    for first in range(0, len(observations), BLOCK):
        bits = (observations[first : first + BLOCK] + 0.0).view(np.uint32)  # + 0.0: −0 equals 0
        hashes[first : first + BLOCK] = (bits.astype(np.uint64) * factors).sum(1, dtype=np.uint64)
    return hashes


def _chained(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments [n] in their episodes' order, and for each whether its episode ends with it.

    following: the segment that continues each, −1 for none. An episode begins with a segment that continues none; a
    cycle is cut before its first segment.
    """
    first = np.ones(len(following), bool)
    first[following[following >= 0]] = False
    order: list[int] = []
    last = np.zeros(len(following), bool)
    left, after = np.ones(len(following), bool).tolist(), following.tolist()
    for head in (*np.flatnonzero(first).tolist(), *range(len(following))):
        if not left[head]:
            continue
        while head >= 0 and left[head]:
            left[head] = False
            order.append(head)
            head = after[head]
        last[order[-1]] = True
    return np.array(order), last
