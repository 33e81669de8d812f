"""Small runs and packs to be disturbed, and all that must then equal what an undisturbed twin left behind."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import psutil
from conftest import Trainer, timeless

PATIENCE = 300.0
"""Seconds after which a command that has not ended counts as hanging."""

ORPHANED = "EOFError: Ran out of input"
"""How the traceback ends that multiprocessing prints for a player whose parent was killed while it was starting it."""

LEAVING = 30.0
"""Seconds that the processes of a session have to end after its command."""


@dataclass(frozen=True)
class Kind:
    """Overrides of conftest's small training; own_data: the data is made in a folder that only this run uses."""

    name: str
    overrides: tuple[str, ...] = ()
    own_data: bool = False


ONLINE = ("finetune=online", "updates=25", "finetune.steps=45", "finetune.evaluate_every=15", "env.horizon=20",
          "checkpoint.every=9")  # fmt: skip

KINDS = (
    Kind("a run", ("evaluation.workers=2",)),
    Kind("a run that makes its data", ("env.made_rows=20000",), own_data=True),
    Kind("a run on the plain path", ("code_path=plain", "checkpoint.every=7", "checkpoint.keep=3")),
    Kind("a run with a checkpoint after each update", ("updates=30", "checkpoint.every=1", "log_every=1")),
    Kind("a run with TensorBoard", ("tracker=tensorboard", "evaluation.workers=2", "evaluation.episodes=10")),
    Kind("a run without evaluations", ("evaluation=none", "updates=2000", "log_every=100", "checkpoint.every=50")),
    Kind("a pack of 2", ("seed=[0,1]", "evaluation.workers=2")),
    Kind("a pack of 2 with one player", ("seed=[3,4]", "checkpoint.every=15")),
    Kind("a pack of 2 that makes its data", ("seed=[0,5]", "checkpoint.keep=3"), own_data=True),
    Kind(
        "a pack of 3 with two players",
        (
            "members=[{seed:0,algorithm:{tau:0.5}},{seed:0,algorithm:{tau:0.9,beta:10}},{seed:1,optimizer:{lr:0.001}}]",
            *("evaluation.workers=2", "checkpoint.every=11", "log_every=7"),
        ),
    ),
    Kind("a finetuned run", ONLINE),
    Kind("a finetuned pack of 2", (*ONLINE, "seed=[0,1]", "finetune.start_after=5", "finetune.offline_share=0.5")),
    Kind("a pack of 3 on the plain path", ("seed=[0,1,2]", "code_path=plain", "checkpoint.keep=3", "log_every=20")),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: None where it hung and was killed; strays: processes that outlived it."""

    code: int | None
    stdout: str
    stderr: str
    strays: tuple[str, ...] = ()

    @property
    def said(self) -> list[str]:
        """train.py's own last words."""
        return [line for line in self.stderr.splitlines() if line.startswith("train.py: ")]

    @property
    def tail(self) -> str:
        return " | ".join(self.stderr.splitlines()[-6:])

    @property
    def faults(self) -> list[str]:
        """What must be so of no command, whatever happens to it."""
        said = self.stdout + self.stderr
        traceback = said.count("Traceback") > said.count(ORPHANED)
        return [
            *([f"it hangs: {self.tail}"] if self.code is None else ()),
            *([f"a traceback: {self.tail}"] if traceback else ()),
            *(f"left running: {stray}" for stray in self.strays),
        ]


@dataclass
class Place:
    """Where a kind of run is trained again and again: a folder with its runs, and maybe its data."""

    kind: Kind
    folder: Path
    shared_data: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def data(self) -> Path:
        return self.folder / "data" if self.kind.own_data else self.shared_data

    def start(self, **environment: str) -> commands.Process:
        """The command, in a session of its own."""
        self.folder.mkdir(exist_ok=True)
        trainer = Trainer(self.runs, {**os.environ, "IQL_DATA_DIR": str(self.data), **environment})
        return commands.start(
            trainer.command(*self.kind.overrides),
            env=trainer.environment,
            stdin=commands.DEVNULL,
            stdout=commands.PIPE,
            stderr=commands.PIPE,
            text=True,
            start_new_session=True,
        )

    def train(self, **environment: str) -> Ended:
        """The command, to its end."""
        return self.end_of(self.start(**environment))

    def end_of(self, process: commands.Process) -> Ended:
        """Wait for a command of this place and the processes of its session; what it said is kept in a file."""
        ended = _end_of(process)
        with open(self.folder / "said", "a") as file:
            file.write(f"{ended.stdout}{ended.stderr}exit code {ended.code}\n\n")
        return ended

    def finish(self, twin: dict[str, Any]) -> list[str]:
        """Train to the end, with nothing in the way; returns what is wrong then, all differences in one line."""
        ended = self.train()
        if ended.faults or ended.code != 0:
            return [*ended.faults, *([f"exit code {ended.code}: {ended.tail}"] if ended.code else ())]
        differences = self._differences(twin)
        return ["; ".join(differences)] if differences else []

    def content(self) -> dict[str, Any]:
        """All that lies in the folders of runs and data, by path, without times and places."""
        found: dict[str, Any] = {}
        for name, folder in (("runs", self.runs), ("data", self.data)):
            for path in sorted(folder.rglob("*")):
                if not (path.is_dir() and any(path.iterdir())):
                    key, value = _without_times(path, str(self.folder))
                    found[f"{name}/{key.relative_to(folder)}"] = value
        return found

    def _differences(self, twin: dict[str, Any]) -> list[str]:
        """What of the content is not the twin's."""
        own = self.content()
        return [
            *(f"missing: {key}" for key in twin.keys() - own.keys()),
            *(f"left behind: {key}" for key in own.keys() - twin.keys()),
            *(f"not the twin's: {key}" for key in twin.keys() & own.keys() if own[key] != twin[key]),
        ]


def _without_times(path: Path, folder: str) -> tuple[Path, Any]:
    """The path below a folder and content of a file (an empty folder: None), without what equal runs differ in."""
    if path.is_dir():
        return path, None
    if path.name == "metrics.jsonl":
        return path, [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "summary.json":
        return path, timeless(json.loads(path.read_text().replace(folder, "")))
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        settings = {key: value for key, value in manifest["settings"].items() if key != "runs"}
        return path, [manifest["run"], settings, manifest["lives"][-1]["pack"]]
    if path.parent.name == "tensorboard":
        return path.with_name("events"), _scalars(path.parent)
    return path, path.read_bytes()


def _scalars(folder: Path) -> list[Any]:
    """What TensorBoard shows of a folder of event files: their number and every scalar of deciding value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "second" not in tag]
    return [
        len(list(folder.iterdir())),
        {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags},
    ]


def _end_of(process: commands.Process) -> Ended:
    patience = time.monotonic() + PATIENCE
    code = None
    with contextlib.suppress(commands.TimeoutExpired):
        code = process.wait(PATIENCE)
    leaving = time.monotonic() + LEAVING
    while code is not None and session_of(process.pid) and time.monotonic() < leaving:
        time.sleep(0.02)
    strays = session_of(process.pid)
    names = tuple(" ".join(stray.info["cmdline"] or [stray.info["name"]])[:200] for stray in strays)
    for stray in strays:
        stray.kill()
    stdout, stderr = process.communicate(timeout=max(LEAVING, patience - time.monotonic()))
    return Ended(code, stdout, stderr, names if code is not None else ())


def session_of(leader: int) -> list[psutil.Process]:
    """The processes of a session that still run."""
    return [each for each in psutil.process_iter(["name", "cmdline", "status"]) if _belongs(each, leader)]


def _belongs(process: psutil.Process, leader: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getsid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE
    return False
