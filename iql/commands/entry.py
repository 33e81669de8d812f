"""How every command starts: `python train.py`, `python scripts/status.py`, and the installed iql-train, iql-status."""

from __future__ import annotations

import importlib
import signal
import sys
from functools import partial


def start(name: str) -> None:
    """Run the command of iql/commands/NAME.py with this process's arguments and exit with its code.

    Its imports take seconds. Until they are done, Ctrl-C has the system's default action, so that the process ends
    without a traceback.
    """
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = importlib.import_module(f"iql.commands.{name}")
    if default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(command.main())
    except KeyboardInterrupt:
        sys.exit(130)


# What pyproject.toml names for the installed commands.
train = partial(start, "train")
sweep = partial(start, "sweep")
status = partial(start, "status")
report = partial(start, "report")
evaluate = partial(start, "evaluate")
export = partial(start, "export")
verify = partial(start, "verify")
fetch = partial(start, "fetch")
parity = partial(start, "parity")
