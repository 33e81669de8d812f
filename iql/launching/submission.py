"""From jobs to a launcher's queue: the code is copied, the jobs are written down, and then handed over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from iql.errors import UserError
from iql.launching import snapshot
from iql.launching.launcher import Launcher, Silent
from iql.launching.ledger import Ledger, Submission

ROOT = Path(__file__).resolve().parents[2]


def submit(ledger: Ledger, node: dict[str, Any], jobs: Iterable[tuple[list[str], Mapping[str, Any]]]) -> Submission:
    """Submit jobs through the launcher of a settings section; for the holder of the ledger's lock.

    Raises UserError for what the queue refuses; if it took none of the jobs, nothing is left behind.
    """
    launcher: Launcher = instantiate(node, _convert_="all")
    launcher.check()
    code = snapshot.take(ROOT, ledger.folder / "code")
    submission = ledger.add(node, launcher.chunk, code, jobs)
    try:
        launcher.submit(submission)
    except UserError:
        # A queue that does not answer may hold some of them: they are found by their names when it does again.
        with contextlib.suppress(Silent):
            if not launcher.queue([submission]):
                ledger.discard(submission)
        raise
    return submission
