"""Signals that a training sends itself at an update: the patches of Python that run before train.py."""

from __future__ import annotations


def signal_at(update: int, number: str = "SIGTERM", execution: str = "threads.MemberThreads") -> str:
    """Before the block of updates with number `update`; execution: what carries updates out, in iql.execution."""
    module, _, name = execution.partition(".")
    return f"""
import os, signal
from iql.execution.{module} import {name}
real = {name}.advance
def advance(self, batches, count, measure):
    if self._learner.update_count <= {update} < self._learner.update_count + count:
        os.kill(os.getpid(), signal.{number})
    return real(self, batches, count, measure)
{name}.advance = advance
"""


def stop_at(update: int, execution: str = "threads.MemberThreads") -> str:
    """As kill -9 would."""
    return signal_at(update, "SIGKILL", execution)
