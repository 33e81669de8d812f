"""Locks between processes, as files beside what they guard; the system releases the lock of a killed process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from iql.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def exclusive(lock_file: Path, waiting: str, seconds: float = -1) -> Iterator[None]:
    """Hold the lock of a file for the time of the block; the message `waiting` is logged if another process has it.

    seconds: how long to wait; -1: without end. Raises UserError after that time.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info(waiting)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            line = f"{lock_file}: locked for {seconds / 60:.0f} minutes by another command; stop that first"
            raise UserError(line) from None
    try:
        yield
    finally:
        lock.release()
