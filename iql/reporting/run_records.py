"""Runs read from their directories, whatever their state."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iql.config.class_names import current
from iql.config.phases import Phases
from iql.envs.d4rl.mujoco_versions import is_exact
from iql.errors import UserError
from iql.reporting.algorithm_names import algorithm_name
from iql.reporting.protocols import MEASURES, NO_SIMULATOR, Protocol
from iql.runs.leases import live_owner
from iql.runs.metrics_file import Record, read_sample
from iql.runs.run_state import run_state
from iql.system.atomic_files import read_json
from iql.system.divided_work import divided

SAMPLED_RECORDS = 100
"""Train records of a whole run that are read, evenly spaced."""

RUNS_OF_A_PROCESS = 50
"""Runs that are worth starting another process."""

_OTHER_FOLDERS = ("wandb", "tensorboard", "checkpoints")


@dataclass(frozen=True)
class RunRecord:
    """What the directory of one run holds.

    env, configuration, seed  the parts of its id
    algorithm    its name, as in published.yaml
    state        one of iql.runs.run_state
    score        the headline score; None before the end and without an evaluation
    reason       why it failed
    evaluations  update and mean score of each evaluation, [T, 2] float64
    train        sampled train records, as written
    online       the outcome of finetuning; None without it and before its end
    episodes     of exploration: updates before its end, and score, [E, 2] float64
    own_data     the file's name, where it trained on data of the user's own; else ""
    """

    directory: Path
    sweep: str
    env: str
    configuration: str
    seed: int
    state: str
    settings: dict[str, Any]
    protocol: Protocol
    algorithm: str
    own_data: str
    score: float | None
    reason: str
    update: int
    evaluations: np.ndarray
    train: list[Record] = field(repr=False)
    summary: dict[str, Any] | None = field(repr=False)
    online: dict[str, Any] | None = None
    episodes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)), repr=False)
    host: str = ""
    device: str = ""
    speed: float | None = None
    wandb: str | None = None
    commit: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies a run: task, configuration with its hash, seed."""
        return self.env, self.configuration, self.seed


class NoRuns(UserError):
    """There are no runs to report; the message says which folders are empty."""


class Reader:
    """Reads the runs below some folders; later calls read only those that have changed.

    processes  how many read the runs; more than one only in a program whose main module does nothing on import
    notes      what is wrong, a line each
    """

    def __init__(self, folders: Iterable[Path], processes: int = 1):
        self.folders = list(folders)
        self.processes = processes
        self.notes: list[str] = []
        self._read: dict[Path, tuple[tuple, _Reading]] = {}

    def runs(self) -> list[RunRecord]:
        """Every run, ordered by task, configuration and seed; where two folders have the same run, the first.

        Raises UserError for a folder that does not exist, NoRuns where there are no runs at all.
        """
        self.notes = []
        now = time.time()  # not the file server's clock: reading that needs a write, and a report writes nothing here
        for folder in self.folders:
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder; a sweep's is runs/NAME")
        below = [list(_directories(folder)) for folder in self.folders]
        self._read_changed([directory for directories in below for directory in directories], now)
        found: dict[tuple[str, str, int], RunRecord] = {}
        for folder, directories in zip(self.folders, below, strict=True):
            if not directories:
                self.notes.append(f"{folder}: there are no runs in it")
            for directory in directories:
                run, notes = self._read[directory][1]
                self.notes += notes
                if run is None:
                    continue
                first = found.setdefault(run.key, run)
                if first.directory.resolve() != run.directory.resolve():
                    self.notes.append(f"{run.directory}: the same run as {first.directory}, which is shown")
        if not found:
            raise NoRuns("; ".join(self.notes))
        return [found[key] for key in sorted(found)]

    def _read_changed(self, directories: list[Path], now: float) -> None:
        stamps = {directory: _stamp(directory, now) for directory in directories}
        changed = [
            each
            for each, stamp in stamps.items()
            if (known := self._read.get(each)) is None or known[0] != stamp or known[1].run is None
        ]
        processes = max(1, min(self.processes, len(changed) // RUNS_OF_A_PROCESS))
        for directory, reading in zip(changed, divided(partial(_reading, now=now), changed, processes), strict=True):
            self._read[directory] = stamps[directory], reading


class _Reading(NamedTuple):
    """A run, None if it cannot be read, and what is wrong with it."""

    run: RunRecord | None
    notes: list[str]


def _reading(directory: Path, now: float) -> _Reading:
    with _Warnings() as lines:
        try:
            return _Reading(read(directory, now), lines)
        except (UserError, OSError, KeyError, TypeError, ValueError) as error:
            what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            return _Reading(None, [f"{directory}: cannot be read, left out ({what})"])


def read(directory: Path, now: float) -> RunRecord:
    """Read the run of a directory; now: the time that the heartbeat's age is measured by.

    Raises UserError, KeyError, TypeError or ValueError where manifest or summary is damaged.
    """
    manifest = current(read_json(directory / "manifest.json"))
    settings, attempt, facts = manifest["settings"], manifest["lives"][-1], manifest["facts"]
    env, configuration, _ = manifest["run"].rsplit("/", 2)
    state = run_state(directory, now)
    summary = state.summary
    phases = Phases.of(settings)
    records = phases.total // settings["log_every"]
    train, evaluations, episodes = read_sample(directory / "metrics.jsonl", max(1, round(records / SAMPLED_RECORDS)))
    last = max((each["update"] for each in (*train[-1:], *evaluations[-1:])), default=0)
    outcome = {**facts, "data": facts, "headline": settings["evaluation"]["headline"]} if summary is None else summary
    return RunRecord(
        directory=directory,
        sweep=settings["sweep"]["name"],
        env=env,
        configuration=configuration,
        seed=settings["seed"],
        state=state.name,
        settings=settings,
        protocol=Protocol(
            measure=scored if (scored := outcome["data"].get("scored")) in MEASURES else "normalised",
            updates=phases.total,
            headline=outcome["headline"],
            every=phases.every if phases.steps else settings["evaluation"]["every"],
            episodes=settings["evaluation"]["episodes"],
            physics=outcome.get("physics") or NO_SIMULATOR,
            mujoco=outcome.get("mujoco") or "",
            exact=_exact(outcome, settings),
            success_timing=outcome["data"].get("success_timing") or "",
            steps=phases.steps,
        ),
        algorithm=algorithm_name(settings["algorithm"]),
        own_data=_own_data(outcome["data"]),
        score=None if summary is None else summary["score"],
        reason=state.reason,
        update=last if summary is None else summary["updates"],
        evaluations=_points(evaluations),
        train=train,
        summary=summary,
        online=(summary or {}).get("finetune"),
        episodes=_points(episodes),
        host=attempt["host"],
        device=attempt["device"],
        speed=(summary or (train[-1] if train else {})).get("updates_per_second"),
        wandb=_first_line(directory / "wandb" / "url"),
        commit=((manifest.get("git") or {}).get("commit") or "")[:12],
    )


def _points(records: list[Record]) -> np.ndarray:
    """Update and score of the records that have a score, [T, 2]."""
    points = [(each["update"], each["score"]) for each in records if each.get("score") is not None]
    return np.array(points, float).reshape(-1, 2)


def _own_data(facts: dict[str, Any]) -> str:
    """The name of the user's own file; "" for other data."""
    return (Path(facts.get("dataset") or "").name or "own data") if facts.get("custom") else ""


def _exact(outcome: dict[str, Any], settings: dict[str, Any]) -> bool | None:
    """Whether the simulator was exact; derived where summaries of earlier versions do not say it."""
    if "exact_physics" in outcome or outcome.get("physics") != "d4rl":
        return outcome.get("exact_physics")
    return is_exact(settings["env"].get("simulator", ""), outcome.get("mujoco") or "")


def _directories(folder: Path, roots: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Run directories at or below a folder, in order of their names.

    A link is followed only if it leads out of `roots`, the folders that are being read: what is within them is found
    anyway, and a link to a folder that contains it would never end.
    """
    roots = roots or (folder.resolve(),)
    if (folder / "manifest.json").is_file():
        yield folder
        return
    below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    for path in below:
        if os.path.basename(path) in _OTHER_FOLDERS:
            continue
        if not os.path.islink(path):
            yield from _directories(Path(path), roots)
            continue
        place = Path(path).resolve()
        if not any(place.is_relative_to(root) or root.is_relative_to(place) for root in roots):
            yield from _directories(Path(path), (*roots, place))


def _stamp(directory: Path, now: float) -> tuple:
    """A value that changes whenever the content of a run's directory does."""
    names = ("manifest.json", "metrics.jsonl", "summary.json", "failed.json")
    stamps: list[Any] = []
    for name in names:
        try:
            status = os.stat(directory / name)
            stamps.append((status.st_mtime_ns, status.st_size))
        except OSError:
            stamps.append(None)
    return (*stamps, stamps[2] is None and live_owner(directory, now))


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().split("\n", 1)[0].strip() or None
    except (OSError, ValueError):
        return None


class _Warnings(logging.Handler):
    """Collects the warnings of iql.runs.metrics_file, so that they become notes of the report."""

    def __enter__(self) -> list[str]:
        self.lines: list[str] = []
        self._logger = logging.getLogger("iql.runs.metrics_file")
        self._logger.addHandler(self)
        self._propagate, self._logger.propagate = self._logger.propagate, False
        return self.lines

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagate

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
