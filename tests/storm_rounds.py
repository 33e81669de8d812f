"""Rounds of harm to runs and packs, and the undisturbed twins with which they are compared."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storm_runs import KINDS, Kind, Place

SAY_EVERY = 30.0
"""Seconds between two lines of progress."""


@dataclass
class Twin:
    """An undisturbed run's content, and the seconds that its command takes."""

    content: dict[str, Any]
    seconds: float


@dataclass
class Twins:
    """The undisturbed twin of each kind, trained when it is first asked for, below a folder."""

    folder: Path
    _twins: dict[Kind, Twin] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def of(self, kind: Kind) -> Twin:
        with self._lock:
            if kind not in self._twins:
                self._twins[kind] = self._trained(kind)
            return self._twins[kind]

    def place(self, kind: Kind, name: str) -> Place:
        """A place without any runs."""
        return Place(kind, self.folder / name, self.data)

    def _trained(self, kind: Kind) -> Twin:
        if not self._twins:  # makes the shared data and starts the fork server, so that no seconds include them
            self.place(KINDS[0], "first").train()
        place = self.place(kind, f"twin of {kind.name}")
        began = time.monotonic()
        ended = place.train()
        seconds = time.monotonic() - began
        if ended.code != 0 or ended.faults:
            raise SystemExit(f"{kind.name}: an undisturbed command fails: exit code {ended.code}, {ended.stderr}")
        return Twin(place.content(), seconds)


@dataclass
class Storm:
    """Rounds of harm to runs and packs until `wanted` harms have hit; which is counted, and faults are collected.

    What a round does is drawn from the seed and its number.
    """

    twins: Twins
    wanted: int
    seed: int
    counted: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _told: float = field(default_factory=time.monotonic)

    def run(self, jobs: int) -> None:
        """Rounds in so many threads; a line of progress now and then."""
        with ThreadPoolExecutor(jobs) as pool:
            for worker in [pool.submit(self._work) for _ in range(jobs)]:
                worker.result()

    @property
    def enough(self) -> bool:
        return self.counted.total() >= self.wanted

    def round(self, number: int, name: str) -> tuple[Place, list[str]]:
        """One round, in a place of this name; returns the place and a line for each fault."""
        raise NotImplementedError

    def summary(self) -> str:
        """What hit, in words."""
        raise NotImplementedError

    def _work(self) -> None:
        while not self.enough:
            with self.lock:
                number, self.rounds = self.rounds, self.rounds + 1
            place, faults = self.round(number, f"{type(self).__name__.lower()} {number}")
            if not faults:
                shutil.rmtree(place.folder)
            with self.lock:
                for fault in faults:
                    self.faults.append(f"{fault} (kept: {place.folder})")
                    print(self.faults[-1], flush=True)
                if time.monotonic() - self._told > SAY_EVERY:
                    self._told = time.monotonic()
                    print(f"so far {self.summary()}, {len(self.faults)} faults", flush=True)
