"""Signals that ask a run to stop: noted when they come, acted on when the update is over."""

from __future__ import annotations

import signal
from types import FrameType

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(Exception):
    """A signal ended the training after `update`, or something that is no signal (0); everything is saved."""

    def __init__(self, number: int, update: int):
        by = f" by {signal.Signals(number).name}" if number else ""
        super().__init__(f"stopped{by} after update {update}, all saved")
        self.number = number


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGUSR1/2 only set `received`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        for number in _ASKING:
            self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number


def hand_over(number: int) -> int:
    """Call the handler that stands for `number` now, if somebody set one (submitit's requeues the job).

    Returns the exit code of a program that a signal ended: 128 + number; 1 where there was none.
    """
    if not number:
        return 1
    handler = signal.getsignal(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
    return 128 + number
