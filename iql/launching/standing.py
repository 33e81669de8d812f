"""How every run of a sweep stands: by its directory, and by what the queues say of its job."""

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

from iql.errors import UserError
from iql.launching.launcher import Queued, Silent
from iql.launching.ledger import Ledger, Place, Submission
from iql.leases import live_owner
from iql.metrics import read_tail
from iql.storage import read_json, write_json
from iql.trust import LAUNCHERS, made

DONE, RUNNING, WAITING, FAILED, CANCELLED, LOST, UNKNOWN, NEW = STATES = (
    "done",
    "running",
    "waiting",
    "failed",
    "cancelled",
    "lost",
    "unknown",
    "new",
)
"""new: never submitted; lost: neither done nor failed, and no queue knows it; unknown: its queue does not answer."""


@dataclass(frozen=True)
class Standing:
    """How one run stands. update, updates, speed (updates/s) and score as far as they are known."""

    state: str
    detail: str = ""
    job: str = ""
    update: int | None = None
    updates: int | None = None
    speed: float | None = None
    score: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Of training, at the speed last logged."""
        if self.state != RUNNING or not self.speed or self.update is None or self.updates is None:
            return None
        return (self.updates - self.update) / self.speed


class Follower:
    """Reads a sweep's directories and queues. What is done once stays done: it is read once and kept in one file.

    launchers  the classes that may be made of the ledger's settings; trust: any class may
    """

    def __init__(self, ledger: Ledger, launchers: Collection[str] = LAUNCHERS, trust: bool = False):
        self.ledger = ledger
        self.launchers, self.trust = launchers, trust
        self.notes: list[str] = []
        self._done: dict[str, Any] = {}

    def standings(self, wanted: Iterable[str] = (), trust: bool = True) -> dict[str, Standing]:
        """By run id, all that were submitted, all that have a directory, and those `wanted`.

        trust: take the list of done runs for what it says; else every directory is looked into.
        """
        self.notes = []
        submissions = self.ledger.submissions()
        latest: dict[str, tuple[Submission, int]] = {}
        for submission in submissions:
            for index, runs in enumerate(submission.jobs):
                latest.update(dict.fromkeys(runs, (submission, index)))
        ids = dict.fromkeys([*latest, *self._directories(), *wanted])
        self._done = self._remembered() if trust else {}
        known = len(self._done)
        now = self._now()
        found = {run: self._by_files(run, now) for run in ids}
        open_runs = {run: latest[run] for run, standing in found.items() if standing.state in _OPEN and run in latest}
        concerned = list({each.folder: each for each, _ in open_runs.values()}.values())
        queued, silent = self._queues(concerned)
        for run, (submission, index) in open_runs.items():
            entry = queued.get((submission.number, index))
            if entry is not None or submission.folder in silent:
                found[run] = self._by_queue(run, found[run], entry)
        gone = {run: place for run, place in open_runs.items() if found[run].state in (LOST, NEW)}
        for run in gone:  # it may have ended between the two looks
            found[run] = self._by_files(run, now)
        self._explain(found, {run: place for run, place in gone.items() if found[run].state in (LOST, NEW)})
        if len(self._done) > known or not trust:
            with contextlib.suppress(OSError):  # somebody else's sweep
                write_json(self._memory, self._done, indent=None)
        return found

    @property
    def _memory(self) -> Path:
        return self.ledger.folder / "done.json"

    def _remembered(self) -> dict[str, Any]:
        try:
            return read_json(self._memory) or {}
        except UserError:
            return {}

    def _now(self) -> float:
        """The file server's time, where it can be had: hosts' clocks need not agree."""
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

    def _by_files(self, run: str, now: float) -> Standing:
        if run in self._done:
            return Standing(DONE, **self._done[run])
        directory = self.ledger.sweep / run
        try:
            names = {entry.name for entry in os.scandir(directory)}
        except OSError:
            return Standing(NEW)
        try:
            if "summary.json" in names:
                summary = read_json(directory / "summary.json")
                keys = {"update": "updates", "updates": "updates", "speed": "updates_per_second", "score": "score"}
                self._done[run] = {name: summary[key] for name, key in keys.items()}
                return Standing(DONE, **self._done[run])
            progress = self._progress(directory, names)
            if "lease.json" in names and (owner := live_owner(directory, now)) is not None:
                return Standing(RUNNING, owner.host, owner.job, **progress)
            if "failed.json" in names:
                return Standing(FAILED, read_json(directory / "failed.json")["reason"], **progress)
        except (UserError, OSError, KeyError, TypeError) as error:
            return Standing(FAILED, str(error))
        return Standing(LOST if "manifest.json" in names else NEW, **progress)

    def _progress(self, directory: Path, names: set[str]) -> dict[str, Any]:
        if "manifest.json" not in names:
            return {}
        progress = {"updates": read_json(directory / "manifest.json")["settings"]["updates"]}
        for record in read_tail(directory / "metrics.jsonl") if "metrics.jsonl" in names else ():
            if record.get("kind") == "train":
                progress |= {"update": record["update"], "speed": record["updates_per_second"]}
            elif record.get("kind") == "eval":
                progress["score"] = record["score"]
        return progress

    def _queues(self, submissions: list[Submission]) -> tuple[dict[Place, Queued], set[Path]]:
        """What the queues know of these submissions, and the folders of those whose queue does not answer."""
        queued: dict[Place, Queued] = {}
        silent: set[Path] = set()
        for own in by_kind(submissions):
            try:
                queued |= self.launcher(own[-1]).queue(own)
            except (Silent, UserError) as silence:
                self.notes.append(f"{silence}: what waits or runs there is unknown")
                silent |= {each.folder for each in own}
        return queued, silent

    def launcher(self, submission: Submission) -> Any:
        """What it went through. Raises UserError for a launcher that is not trusted."""
        source = f"{submission.folder}/index.json: its launcher"
        return made(submission.launcher, self.launchers, source, self.trust)

    def _by_queue(self, run: str, standing: Standing, entry: Queued | None) -> Standing:
        if entry is None:
            return standing if standing.state == FAILED else replace(standing, state=UNKNOWN)
        detail = entry.detail
        if entry.running:
            detail += ", no heartbeat" if standing.update else ", starting"
        return replace(standing, state=RUNNING if entry.running else WAITING, detail=detail, job=entry.job)

    def _explain(self, found: dict[str, Standing], places: dict[str, tuple[Submission, int]]) -> None:
        """Why runs that were submitted are neither done nor queued: failed by themselves, cancelled, or lost."""
        if not places:
            return
        submissions = list({each.folder: each for each, _ in places.values()}.values())
        ends: dict[Place, str] = {}
        for own in by_kind(submissions):
            ends |= self.launcher(own[-1]).ended(own)
        for run, (submission, index) in places.items():
            state, detail = LOST, ends.get((submission.number, index), "")
            with contextlib.suppress(OSError):
                state, detail = FAILED, submission.failure(index).read_text().strip()
            if state == LOST and submission.cancelled:
                state = CANCELLED
            found[run] = replace(found[run], state=state, detail=detail)


_OPEN = (LOST, NEW, FAILED)
"""States, as the files tell them, of runs that a queue may know more of."""


def by_kind(submissions: Iterable[Submission]) -> list[list[Submission]]:
    """The submissions of each class of launcher, oldest first."""
    kinds: dict[str, list[Submission]] = {}
    for submission in sorted(submissions, key=lambda each: each.number):
        kinds.setdefault(str(submission.launcher.get("_target_")), []).append(submission)
    return list(kinds.values())


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return []
