"""The state of a run, determined from the files in its directory: done, running, failed, unfinished or new."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iql.runs.leases import Owner, live_owner
from iql.system.atomic_files import read_json

DONE, RUNNING, FAILED, UNFINISHED, NEW = ("done", "running", "failed", "unfinished", "new")
"""unfinished: begun, neither done nor failed, and no process trains it; new: not begun, so without a manifest."""


@dataclass(frozen=True)
class RunState:
    """The state of one run.

    summary  the content of summary.json, if the run is done
    owner    the process that trains it, if it is running
    reason   why it failed; also while it is trained again after a failure
    """

    name: str
    summary: dict[str, Any] | None = None
    owner: Owner | None = None
    reason: str = ""


def run_state(directory: Path, now: float) -> RunState:
    """The state of the run of a directory; now: the time that the heartbeat's age is measured by.

    Raises UserError, KeyError or TypeError for a damaged summary.json or failed.json.
    """
    summary = read_json(directory / "summary.json")
    if summary is not None:
        return RunState(DONE, summary)
    failure = read_json(directory / "failed.json")
    reason = "" if failure is None else failure["reason"]
    owner = live_owner(directory, now)
    if owner is not None:
        return RunState(RUNNING, owner=owner, reason=reason)
    if failure is not None:
        return RunState(FAILED, reason=reason)
    return RunState(UNFINISHED if (directory / "manifest.json").exists() else NEW)
