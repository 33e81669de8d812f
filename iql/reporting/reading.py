"""Runs as their directories tell of them: finished, running, failed or left alone."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iql.errors import UserError
from iql.leases import live_owner
from iql.metrics import Record, read_sample
from iql.storage import read_json
from iql.tasks.mujoco_versions import described, is_exact

DONE, RUNNING, FAILED, UNFINISHED = STATES = ("done", "running", "failed", "unfinished")
"""unfinished: neither done nor failed, and nobody works on it."""

SAMPLES = 100
"""Train records of a whole run that are read, evenly apart."""

_LEFT_OUT = ("wandb", "tensorboard", "checkpoints")


@dataclass(frozen=True)
class Protocol:
    """What two scores must share to stand in one table.

    measure   "normalised" or "return"
    physics   the simulator's profile, mujoco its version ("" where there is none)
    exact     whether the d4rl profile was shown to equal D4RL's dynamics on that version; None for another profile
    headline  last10 or final
    every     updates between two evaluations, episodes of each; None without an evaluation
    """

    measure: str
    updates: int
    headline: str
    every: int | None
    episodes: int
    physics: str
    mujoco: str
    exact: bool | None = None

    def __str__(self) -> str:
        what = "return" if self.measure == "return" else "normalised score"
        if self.every is None:
            return f"{self.updates:,} updates, not evaluated"
        which = {"last10": "mean of the last ten evaluations", "final": "final evaluation"}[self.headline]
        simulator = described(self.physics, self.mujoco, self.exact)
        evaluation = f"{which} of {self.episodes} episodes every {self.every:,} updates, after {self.updates:,}"
        return f"{what}, {evaluation}; {simulator}"


@dataclass(frozen=True)
class RunRecord:
    """One run, read.

    env, configuration, seed  the parts of its id
    score        the headline, None before the end and without an evaluation
    reason       why it failed
    evaluations  of each evaluation its update and mean score, [T, 2]
    train        sampled train records, as written
    custom       whether it trained on data of the user's own
    """

    directory: Path
    sweep: str
    env: str
    configuration: str
    seed: int
    state: str
    settings: dict[str, Any]
    protocol: Protocol
    custom: bool
    score: float | None
    reason: str
    update: int
    evaluations: np.ndarray
    train: list[Record] = field(repr=False)
    summary: dict[str, Any] | None = field(repr=False)
    host: str = ""
    device: str = ""
    speed: float | None = None
    wandb: str | None = None
    commit: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells runs apart: task, configuration with its hash, seed."""
        return self.env, self.configuration, self.seed


class NoRuns(UserError):
    """Nothing to report of; the message says which folders are empty."""


class Reader:
    """Reads the runs below some folders, and again only those that have changed. notes: what was wrong, a line each."""

    def __init__(self, folders: Iterable[Path]):
        self.folders = list(folders)
        self.notes: list[str] = []
        self._read: dict[Path, tuple[tuple, RunRecord, list[str]]] = {}

    def runs(self) -> list[RunRecord]:
        """Every run, ordered by task, configuration and seed; of the same run in two folders the first.

        Raises UserError for a folder that does not exist, NoRuns where there are no runs at all.
        """
        self.notes = []
        now = time.time()
        found: dict[tuple[str, str, int], RunRecord] = {}
        for folder in self.folders:
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder; a sweep's is runs/NAME")
            directories = list(_directories(folder))
            if not directories:
                self.notes.append(f"{folder}: there are no runs in it")
            for directory in directories:
                run = self._one(directory, now)
                if run is None:
                    continue
                first = found.setdefault(run.key, run)
                if first.directory.resolve() != run.directory.resolve():
                    self.notes.append(f"{run.directory}: the same run as {first.directory}, which is shown")
        if not found:
            raise NoRuns("; ".join(self.notes))
        return [found[key] for key in sorted(found)]

    def _one(self, directory: Path, now: float) -> RunRecord | None:
        stamp = _stamp(directory, now)
        known = self._read.get(directory)
        if known is None or known[0] != stamp:
            with _Warnings() as lines:
                try:
                    run = read(directory, now)
                except (UserError, OSError, KeyError, TypeError, ValueError) as error:
                    what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                    self.notes.append(f"{directory}: cannot be read, left out ({what})")
                    return None
            known = self._read[directory] = stamp, run, lines
        self.notes += known[2]
        return known[1]


def read(directory: Path, now: float) -> RunRecord:
    """The run of a directory; now: the time, for the age of its heartbeat.

    Raises UserError, KeyError, TypeError or ValueError where manifest or summary is damaged.
    """
    manifest = read_json(directory / "manifest.json")
    settings, life, facts = manifest["settings"], manifest["lives"][-1], manifest["facts"]
    env, configuration, _ = manifest["run"].rsplit("/", 2)
    summary = read_json(directory / "summary.json")
    failure = read_json(directory / "failed.json") if summary is None else None
    if summary is not None:
        state = DONE
    elif live_owner(directory, now) is not None:
        state = RUNNING
    else:
        state = FAILED if failure is not None else UNFINISHED
    records = settings["updates"] // settings["log_every"]
    train, evaluations = read_sample(directory / "metrics.jsonl", max(1, round(records / SAMPLES)))
    points = [(each["update"], each["score"]) for each in evaluations if each.get("score") is not None]
    last = max((each["update"] for each in (*train[-1:], *evaluations[-1:])), default=0)
    outcome = {**facts, "data": facts, "headline": settings["evaluation"]["headline"]} if summary is None else summary
    return RunRecord(
        directory=directory,
        sweep=settings["sweep"]["name"],
        env=env,
        configuration=configuration,
        seed=settings["seed"],
        state=state,
        settings=settings,
        protocol=Protocol(
            measure="return" if outcome["data"].get("scored") == "return" else "normalised",
            updates=settings["updates"],
            headline=outcome["headline"],
            every=settings["evaluation"]["every"],
            episodes=settings["evaluation"]["episodes"],
            physics=outcome.get("physics") or "no",
            mujoco=outcome.get("mujoco") or "",
            exact=_exact(outcome, settings),
        ),
        custom=bool(outcome["data"].get("custom")),
        score=None if summary is None else summary["score"],
        reason=failure["reason"] if failure else "",
        update=last if summary is None else summary["updates"],
        evaluations=np.array(points, float).reshape(-1, 2),
        train=train,
        summary=summary,
        host=life["host"],
        device=life["device"],
        speed=(summary or (train[-1] if train else {})).get("updates_per_second"),
        wandb=_first_line(directory / "wandb" / "url"),
        commit=((manifest.get("git") or {}).get("commit") or "")[:12],
    )


def _exact(outcome: dict[str, Any], settings: dict[str, Any]) -> bool | None:
    """Whether the simulator was exact; summaries of earlier versions do not say it."""
    if "exact_physics" in outcome or outcome.get("physics") != "d4rl":
        return outcome.get("exact_physics")
    return is_exact(settings["env"].get("simulator", ""), outcome.get("mujoco") or "")


def _directories(folder: Path, roots: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Run directories at or below a folder, in order of their names.

    A link is followed where it leads out of `roots`, the folders that are being read: what lies in them comes anyway,
    and a link to a folder around itself has no end.
    """
    roots = roots or (folder.resolve(),)
    if (folder / "manifest.json").is_file():
        yield folder
        return
    below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    for path in below:
        if os.path.basename(path) in _LEFT_OUT:
            continue
        if not os.path.islink(path):
            yield from _directories(Path(path), roots)
            continue
        place = Path(path).resolve()
        if not any(place.is_relative_to(root) or root.is_relative_to(place) for root in roots):
            yield from _directories(Path(path), (*roots, place))


def _stamp(directory: Path, now: float) -> tuple:
    """What changes when a run's directory does."""
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
    """Collects what iql.metrics warns of, to be told once and beside the report."""

    def __enter__(self) -> list[str]:
        self.lines: list[str] = []
        self._logger = logging.getLogger("iql.metrics")
        self._logger.addHandler(self)
        self._propagate, self._logger.propagate = self._logger.propagate, False
        return self.lines

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagate

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
