"""The status of every run of a sweep, from its directory and from the queue that has its job."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iql.config.phases import Phases
from iql.config.trust import LAUNCHERS, made
from iql.errors import UserError
from iql.launching.launcher import Queued, QueueUnavailable
from iql.launching.ledger import JobKey, Ledger, Submission
from iql.runs.metrics_file import read_tail
from iql.runs.run_state import DONE, FAILED, NEW, RUNNING, UNFINISHED, run_state
from iql.system.atomic_files import read_json, write_json

WAITING, CANCELLED, LOST, UNKNOWN = "waiting", "cancelled", "lost", "unknown"
STATES = (DONE, RUNNING, WAITING, FAILED, CANCELLED, LOST, UNKNOWN, NEW)
"""new: never begun, in no queue; lost: begun, not finished, in no queue; unknown: its queue does not answer."""

_OPEN = (LOST, NEW, FAILED)
"""States by the files alone that a queue may correct."""


@dataclass(frozen=True)
class RunStatus:
    """The status of one run. update, updates, speed (updates/s) and score are None where they are not known.

    detail  the host of a running run, the reason of a failed or waiting one
    """

    state: str
    detail: str = ""
    job: str = ""
    update: int | None = None
    updates: int | None = None
    speed: float | None = None
    score: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """The remaining training time at the speed last logged."""
        if self.state != RUNNING or not self.speed or self.update is None or self.updates is None:
            return None
        return (self.updates - self.update) / self.speed


class StatusReader:
    """Reads the status of a sweep's runs. The status of a run that is done is read once and cached in one file.

    launchers  the classes that may be made from the ledger's settings
    trust      whether any class may be made
    notes      queues that did not answer at the last call of `statuses`, a line each
    """

    def __init__(self, ledger: Ledger, launchers: Collection[str] = LAUNCHERS, trust: bool = False):
        self.ledger = ledger
        self.launchers, self.trust = launchers, trust
        self.notes: list[str] = []
        self._done: dict[str, Any] = {}

    def statuses(self, wanted: Iterable[str] = (), use_cache: bool = True) -> dict[str, RunStatus]:
        """By run id, the status of every run that was submitted, that has a directory, or that is in `wanted`.

        use_cache: take runs that the cache has as done; otherwise every directory is read.
        """
        self.notes = []
        latest: dict[str, tuple[Submission, int]] = {}
        for submission in self.ledger.submissions():
            for index, runs in enumerate(submission.jobs):
                latest.update(dict.fromkeys(runs, (submission, index)))
        ids = dict.fromkeys([*latest, *self._directories(), *wanted])
        self._done = self._cached() if use_cache else {}
        cached = len(self._done)
        now = self._file_server_time()
        found = {run: self._by_files(run, now) for run in ids}
        open_runs = {run: latest[run] for run, status in found.items() if status.state in _OPEN and run in latest}
        queued, silent = self._queues(list({each.folder: each for each, _ in open_runs.values()}.values()))
        for run, (submission, index) in open_runs.items():
            entry = queued.get((submission.number, index))
            if entry is not None or submission.folder in silent:
                found[run] = _by_queue(found[run], entry)
        missing = {run: job for run, job in open_runs.items() if found[run].state in (LOST, NEW)}
        for run in missing:  # it may have ended after its files were read and before the queue was asked
            found[run] = self._by_files(run, now)
        self._explain(found, {run: job for run, job in missing.items() if found[run].state in (LOST, NEW)})
        if len(self._done) > cached or not use_cache:
            with contextlib.suppress(OSError):  # the sweep of another user
                write_json(self._cache, self._done, indent=None)
        return found

    def launcher(self, submission: Submission) -> Any:
        """The launcher that a submission was made with. Raises UserError for one that is not trusted."""
        source = f"{submission.folder}/index.json: its launcher"
        return made(submission.launcher, self.launchers, source, self.trust)

    @property
    def _cache(self) -> Path:
        return self.ledger.folder / "done.json"

    def _cached(self) -> dict[str, Any]:
        try:
            return read_json(self._cache) or {}
        except UserError:
            return {}

    def _file_server_time(self) -> float:
        """The time of the file server, where a file can be written: the clocks of hosts may differ."""
        probe = self.ledger.folder / f".clock.{uuid.uuid4().hex}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def _directories(self) -> Iterator[str]:
        for env in _folders(self.ledger.sweep):
            for configuration in _folders(env):
                for seed in _folders(configuration):
                    if re.fullmatch(r"seed=\d+", seed.name):
                        yield str(seed.relative_to(self.ledger.sweep))

    def _by_files(self, run: str, now: float) -> RunStatus:
        directory = self.ledger.sweep / run
        if run not in self._done:
            if not directory.is_dir():
                return RunStatus(NEW)
            try:
                state = run_state(directory, now)
                if state.summary is None:
                    progress = _progress(directory)
                    if state.owner is not None:
                        return RunStatus(RUNNING, state.owner.host, state.owner.job, **progress)
                    return RunStatus(LOST if state.name == UNFINISHED else state.name, state.reason, **progress)
                self._done[run] = {field: state.summary[key] for field, key in _SUMMARY_KEYS.items()}
            except (UserError, OSError, KeyError, TypeError) as error:
                return RunStatus(FAILED, str(error))
        return RunStatus(DONE, **self._done[run])

    def _queues(self, submissions: list[Submission]) -> tuple[dict[JobKey, Queued], set[Path]]:
        """The jobs of these submissions that are in a queue, and the folders of those whose queue does not answer."""
        queued: dict[JobKey, Queued] = {}
        silent: set[Path] = set()
        for own in by_launcher(submissions):
            try:
                queued |= self.launcher(own[-1]).queue(own)
            except (QueueUnavailable, UserError) as error:
                self.notes.append(f"{error}: what waits or runs there is unknown")
                silent |= {each.folder for each in own}
        return queued, silent

    def _explain(self, found: dict[str, RunStatus], jobs: dict[str, tuple[Submission, int]]) -> None:
        """Set the status of runs that are neither done nor queued: failed, cancelled or lost, with the reason."""
        if not jobs:
            return
        ends: dict[JobKey, str] = {}
        for own in by_launcher({each.folder: each for each, _ in jobs.values()}.values()):
            ends |= self.launcher(own[-1]).ended(own)
        for run, (submission, index) in jobs.items():
            state, detail = LOST, ends.get((submission.number, index), "")
            with contextlib.suppress(OSError):
                state, detail = FAILED, submission.failure(index).read_text().strip()
            if state == LOST and submission.cancelled:
                state = CANCELLED
            found[run] = replace(found[run], state=state, detail=detail)


def by_launcher(submissions: Iterable[Submission]) -> list[list[Submission]]:
    """The submissions of each class of launcher, oldest first."""
    groups: dict[str, list[Submission]] = {}
    for submission in sorted(submissions, key=lambda each: each.number):
        groups.setdefault(str(submission.launcher.get("_target_")), []).append(submission)
    return list(groups.values())


_SUMMARY_KEYS = {"update": "updates", "updates": "updates", "speed": "updates_per_second", "score": "score"}
"""The key of summary.json behind each field of the status of a run that is done."""


def _progress(directory: Path) -> dict[str, Any]:
    """The progress of a run that is not done, read from its files, as fields of RunStatus."""
    manifest, metrics = read_json(directory / "manifest.json"), directory / "metrics.jsonl"
    if manifest is None:
        return {}
    progress = {"updates": Phases.of(manifest["settings"]).total}
    for record in read_tail(metrics) if metrics.exists() else ():
        if record.get("kind") == "train":
            progress |= {"update": record["update"], "speed": record["updates_per_second"]}
        elif record.get("kind") == "eval":
            progress["score"] = record["score"]
    return progress


def _by_queue(status: RunStatus, entry: Queued | None) -> RunStatus:
    """The status of an open run whose queue has the entry; None: the queue does not answer."""
    if entry is None:
        return status if status.state == FAILED else replace(status, state=UNKNOWN)
    detail = entry.detail
    if entry.running:
        detail += ", no heartbeat" if status.update else ", starting"
    return replace(status, state=RUNNING if entry.running else WAITING, detail=detail, job=entry.job)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return []
