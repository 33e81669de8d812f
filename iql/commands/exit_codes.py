"""Errors as a command line reports them: one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.errors import InstantiationException, SearchPathException

from iql.commands.usage import usage
from iql.config.validation import composition_problem, one_line
from iql.errors import UserError
from iql.runs.leases import LeaseLost
from iql.system.atomic_files import refusal
from iql.training.signals import Stopped, hand_over

ONE_LINE_ERRORS = "IQL_ONE_LINE_ERRORS"
"""Environment variable, set where HYDRA_FULL_ERROR=1 was set by this program and not by the user."""


def exit_code_of(command: Callable[[], int | None], interrupted: str = "") -> int:
    """Run a command; its exit code: what it returns (None is 0), 1 after one line for an error, 130 for Ctrl-C.

    interrupted: the message for Ctrl-C. Raises errors that are not the user's to correct (see `report`).
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    script = Path(sys.argv[0]).name
    try:
        return command() or 0
    except (Exception, KeyboardInterrupt) as error:
        if not _is_interrupt(error):
            return report(error, script)
        if interrupted:
            print(f"\n{script}: {interrupted}", file=sys.stderr)
        return 130


def report(error: BaseException, script: str) -> int:
    """Print one line, which begins with the script's name, for an error that a user can correct; the exit code.

    Every other error is raised again, and with HYDRA_FULL_ERROR=1 in the user's environment every error, so that its
    traceback is shown. A signal that stopped a training is no error: its code is 128 + the signal's number. Raises
    KeyboardInterrupt for an error that Ctrl-C led to.
    """
    if _is_interrupt(error):
        raise KeyboardInterrupt from error
    if isinstance(error, Stopped):
        print(f"{script}: {error}; the same command goes on from there", file=sys.stderr)
        return hand_over(error.number)
    line = str(error) if isinstance(error, LeaseLost) else problem(error)
    if line is None or _tracebacks_wanted():
        raise error
    print(f"{script}: {usage(line)}", file=sys.stderr)
    return 1


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or an error that Ctrl-C led to in a library, which fails when it cleans up after it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def problem(error: BaseException) -> str | None:
    """One line for an error that a user can correct; None for every other error."""
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if not isinstance(cause, UserError):
            return f"{one_line(str(error))} (HYDRA_FULL_ERROR=1 shows where)"
        error = cause
    if isinstance(error, SearchPathException):
        return f"--config-dir: {error}"
    if isinstance(error, UserError):
        return str(error)
    return composition_problem(error) or (refusal(error) if isinstance(error, OSError) else None)


def _tracebacks_wanted() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and ONE_LINE_ERRORS not in os.environ
