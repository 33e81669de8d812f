"""How far training is: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LINE_SECONDS = 30.0  # in a log file a line on training at most this often
# A narrow terminal cuts the end off: what matters most comes first.
BAR = "{percentage:3.0f}% {bar:10} {n:,}/{total:,} [{remaining} left{postfix}, {rate_fmt}]"


class Progress:
    """Shows a pack's way to `total_updates`, from `start` where it resumes.

    On a terminal: one bar with the members' mean losses, their scores and the time left; log records
    appear above it. Elsewhere: a line at most every LINE_SECONDS. An evaluation has a line in both.
    A stream that is gone (a closed terminal) silences it; training goes on.

    members   the runs' names, in the order of the records that follow
    networks  whose losses are shown
    """

    def __init__(
        self,
        total_updates: int,
        start: int,
        members: list[str],
        networks: Sequence[str],
        stream: TextIO | None = None,
    ) -> None:
        self._total = total_updates
        self._members = _what_differs(members)
        self._networks = tuple(networks)
        self._stream = stream or sys.stderr
        self._origin = start
        self._began = time.monotonic()
        self._last_line = -math.inf
        self._losses = self._scores = ""
        self._gone = False
        self._resources = contextlib.ExitStack()
        self._bar: Any = None
        if self._stream.isatty():
            sized = all(os.get_terminal_size(self._stream.fileno()))  # 0 by 0 in some containers
            self._bar = tqdm(
                total=total_updates,
                initial=start,
                file=self._stream,
                unit=" updates",
                dynamic_ncols=sized,
                ncols=None if sized else 80,
                nrows=None if sized else 24,
                miniters=1,  # train is called once a record: draw whenever mininterval allows
                smoothing=0.05,
                bar_format=BAR,
            )
            self._resources.enter_context(logging_redirect_tqdm())

    def train(self, update: int, records: Sequence[dict[str, Any]]) -> None:
        """Moves to `update`; `records` are the members' train records."""
        if self._gone:
            return
        self._losses = " ".join(f"{name} {_mean(records, f'{name}_loss'):.3g}" for name in self._networks)
        with self._unless_gone():
            if self._bar is not None:
                self._bar.set_postfix_str(self._scores + self._losses, refresh=False)
                self._bar.update(update - self._bar.n)
                return
            now = time.monotonic()
            if now - self._last_line >= LINE_SECONDS or update >= self._total:
                self._last_line = now
                self._write(f"{self._position(update)}, losses: {self._losses}{self._speed(update, now)}")

    def evaluated(self, update: int, records: Sequence[dict[str, Any]]) -> None:
        """Tells the members' scores at `update`; `records` are their eval records."""
        score = _mean(records, "score")
        self._scores = f"score {score:.1f}, "
        line = f"{self._position(update)}, score {score:.1f}"
        if len(records) > 1:
            line += ": " + ", ".join(
                f"{name} {record['score']:.1f}"
                for name, record in zip(self._members, records, strict=False)
                if record.get("score") is not None
            )
        elif records:
            line += f" ± {records[0]['score_std']:.1f}"
            line += f" (return {records[0]['return_mean']:.1f}, length {records[0]['length_mean']:.0f})"
        if self._bar is not None:
            self._bar.set_postfix_str(self._scores + self._losses, refresh=False)
        self.note(line)

    def note(self, line: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._gone:
            return
        with self._unless_gone():
            self._write(line)

    def close(self) -> None:
        """Leaves the bar as it stands; calling it again does nothing."""
        bar, self._bar = self._bar, None
        with self._unless_gone():
            if bar is not None:
                bar.close()
        self._resources.close()

    def _write(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def _position(self, update: int) -> str:
        return f"update {update:,} of {self._total:,} ({100 * update / max(self._total, 1):.0f} %)"

    def _speed(self, update: int, now: float) -> str:
        rate = (update - self._origin) / max(now - self._began, 1e-9)
        if rate <= 0:
            return ""
        left = tqdm.format_interval((self._total - update) / rate)
        return f", {rate:,.0f} updates/s, {left} left"

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._gone = True
            if self._bar is not None:
                self._bar.disable = True  # or it would try once more when it is collected


def _mean(records: Sequence[dict[str, Any]], key: str) -> float:
    """Mean of the members that have a number there; NaN where none has."""
    values = [float(record[key]) for record in records if record.get(key) is not None]
    return sum(values) / len(values) if values else math.nan


def _what_differs(names: Sequence[str]) -> list[str]:
    """The names without the words that all have: `-1a2b seed=0`, `-1a2b seed=1` are seed=0 and seed=1."""
    shared = set.intersection(*(set(name.split()) for name in names)) if names else set()
    return [" ".join(word for word in name.split() if word not in shared) or name for name in names]
