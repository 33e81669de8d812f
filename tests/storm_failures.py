"""Commands in which a single system call fails, by a library that is preloaded into them (failing_calls.c)."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from storm_rounds import Storm
from storm_runs import KINDS, Ended, Kind, Place

SOURCE = Path(__file__).with_name("failing_calls.c")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_DENIED = (errno.EACCES, errno.EROFS, errno.EIO)
ERRNOS = {
    **dict.fromkeys(("write", "pwrite", "pwrite64", "fsync", "fdatasync", "ftruncate", "ftruncate64"), _FULL),
    **dict.fromkeys(("truncate", "truncate64", "unlink", "unlinkat", "rmdir", "utimensat"), _DENIED),
    **dict.fromkeys(("open", "mkdir", "mkdirat", "rename", "renameat"), (*_DENIED, errno.ENOSPC, errno.EDQUOT)),
}
"""What the calls can fail with."""


@dataclass(frozen=True)
class Beginning:
    """A kind of run; resumed: its command is not the first, for that was killed after its first checkpoint."""

    kind: Kind
    resumed: bool

    @property
    def name(self) -> str:
        return f"{self.kind.name}{' taken up again' * self.resumed}"


BEGINNINGS = (
    *(Beginning(KINDS[number], resumed=False) for number in (0, 1, 2, 6)),
    *(Beginning(KINDS[number], resumed=True) for number in (0, 2, 6)),
)


@dataclass(frozen=True)
class Call:
    """A system call of an undisturbed command, counted from 1, and what it is to fail with."""

    number: int
    name: str
    path: str
    errno: int

    def __str__(self) -> str:
        return f"{self.name} of {self.path} (call {self.number}) fails with {errno.errorcode[self.errno]}"


def build(folder: Path) -> Path:
    """Compile the library that makes calls fail."""
    library = folder / "failing_calls.so"
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


@dataclass
class Failures(Storm):
    """Commands in each of which one call fails, and which are then given again without that."""

    stopped: int = 0
    _calls: dict[Beginning, list[list[str]]] = field(default_factory=dict)
    _preparing: threading.RLock = field(default_factory=threading.RLock)

    def round(self, number: int, name: str) -> tuple[Place, list[str]]:
        draws = random.Random(f"failures {self.seed} {number}")
        beginning = draws.choice(BEGINNINGS)
        twin = self.twins.of(beginning.kind)
        counted, called, path = draws.choice(self._calls_of(beginning))
        call = Call(int(counted), called, Path(path).name, draws.choice(ERRNOS[called]))
        place = self._place(beginning, name)
        ended, reached = self._train(place, FAILING_NUMBER=counted, FAILING_ERRNO=str(call.errno))
        faults = _faults(ended, place) if reached else []
        faults += [f"then {fault}" for fault in place.finish(twin.content)]
        if reached:  # the heartbeat's calls come when they come: a later number may not be
            with self.lock:
                self.counted[called] += 1
                self.stopped += ended.code != 0
        return place, [f"{beginning.name}, {call}: {fault}" for fault in faults]

    def _train(self, place: Place, **failing: str) -> tuple[Ended, list[str]]:
        """Train with these settings of failing_calls.c; returns the lines of its log too."""
        under = f"{place.runs}:{place.data}" if place.kind.own_data else str(place.runs)
        log = place.folder / "calls"
        ended = place.end_of(place.start(FAILING_UNDER=under, FAILING_LOG=str(log), **failing))
        return ended, log.read_text().splitlines() if log.exists() else []

    def _calls_of(self, beginning: Beginning) -> list[list[str]]:
        """Number, name and path of each call of an undisturbed command."""
        with self._preparing:
            if beginning not in self._calls:
                _, lines = self._train(self._place(beginning, f"calls of {beginning.name}"))
                self._calls[beginning] = [line.split(" ", 2) for line in lines]
            return self._calls[beginning]

    def _place(self, beginning: Beginning, name: str) -> Place:
        """A place in which the command is to begin so."""
        place = self.twins.place(beginning.kind, name)
        if beginning.resumed:
            killed = self.twins.place(beginning.kind, f"killed {beginning.kind.name}")
            with self._preparing:
                if not killed.folder.exists():
                    _kill_after_a_checkpoint(killed)
            shutil.copytree(killed.folder, place.folder)
        return place

    def summary(self) -> str:
        calls = ", ".join(f"{name} {count}" for name, count in sorted(self.counted.items()))
        return f"{self.counted.total()} failing calls ({calls}), of which {self.stopped} ended their command"


def _faults(ended: Ended, place: Place) -> list[str]:
    """What is wrong with how a command ended in which a call failed."""
    if ended.code == 0:
        return ended.faults
    if ended.code != 1 or len(ended.said) != 1:
        return [*ended.faults, f"exit code {ended.code}, {len(ended.said)} lines of train.py's: {ended.tail}"]
    named = any(str(folder) in ended.said[0] for folder in (place.runs, place.data))
    return [*ended.faults, *([] if named else [f"it names no file: {ended.said[0]}"])]


def _kill_after_a_checkpoint(place: Place) -> None:
    process = place.start()
    while process.poll() is None and not list(place.runs.rglob("update=*.ckpt")):
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    place.end_of(process)
