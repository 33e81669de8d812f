"""A run: its identity, directory, manifest, metrics file and summary."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iql import checkpoints
from iql.config import Settings, flatten
from iql.errors import UserError
from iql.storage import read_json, write_json

FORMAT = 1
FLUSH_SECONDS = 5.0
NAME_BYTES = 120

# Settings that cannot change a number, by dotted key or section.
_UNDECIDING = re.compile(
    r"(seed|device|threads|runs|sweep|log_every|checkpoint\..*|tracker.*"
    r"|env\.(_target_|path|url|rows|recipe\..*|corl.*)|evaluation\.(num_envs|headline)"
    r"|algorithm\.(initialization|policy_mean)|network\.hidden_dims)$"
)
_PACKAGES = (
    "torch",
    "numpy",
    "mujoco",
    "gymnasium",
    "gymnasium-robotics",
    "h5py",
    "hydra-core",
    "omegaconf",
    "wandb",
)


def deciding(settings: Settings) -> dict[str, Any]:
    """The settings, by dotted key, that decide a run's numbers (its seed and data apart)."""
    return {key: value for key, value in flatten(settings).items() if not _UNDECIDING.match(key)}


def configuration_name(settings: Settings, defaults: Settings, digest: str) -> str:
    """`<what differs from the defaults>-<hash>`: the same settings and data always give the same name."""
    own, usual = deciding(settings), deciding(defaults)
    differing = {key: value for key, value in own.items() if key not in usual or usual[key] != value}
    ends = [key.rpartition(".")[2] for key in differing]
    parts = [
        f"{end if ends.count(end) == 1 else key}={_short(value)}"
        for end, (key, value) in zip(ends, differing.items(), strict=True)
    ]
    readable = re.sub(r"[^\w.,=+-]+", "_", ",".join(parts)) or "default"
    content = json.dumps([FORMAT, digest, own], sort_keys=True)
    return f"{readable[:NAME_BYTES]}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


class Run:
    """One seed of one configuration, and the directory that holds all that is known of it.

    Files: manifest.json, metrics.jsonl, summary.json (the run is done once it exists), failed.json,
    networks.ckpt (the final networks), checkpoints/.
    """

    def __init__(self, settings: Settings, defaults: Settings, digest: str):
        self.settings = settings
        self.seed: int = settings["seed"]
        self.configuration = configuration_name(settings, defaults, digest)
        self.id = f"{settings['env']['name']}/{self.configuration}/seed={self.seed}"
        self.directory = Path(settings["runs"]) / settings["sweep"] / self.id
        self.checkpoints = self.directory / "checkpoints"
        self.metrics = MetricsFile(self.directory / "metrics.jsonl")

    @property
    def tracking_id(self) -> str:
        """The run's id with a tracker: every life of this directory has the same."""
        return hashlib.sha256(str(self.directory.resolve()).encode()).hexdigest()[:16]

    @property
    def summary(self) -> dict[str, Any] | None:
        """What the finished run came to, or None."""
        return read_json(self.directory / "summary.json")

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why the run stopped for good, or None."""
        return read_json(self.directory / "failed.json")

    @property
    def lives(self) -> list[dict[str, Any]]:
        """Every process that has worked on this run, oldest first."""
        manifest = read_json(self.directory / "manifest.json")
        return manifest["lives"] if manifest else []

    def begin_life(self, life: dict[str, Any], overrides: Sequence[str], facts: dict[str, Any]) -> None:
        """Write the manifest, this process added to its lives."""
        write_json(
            self.directory / "manifest.json",
            {
                "format": FORMAT,
                "run": self.id,
                "settings": self.settings,
                "overrides": list(overrides),
                "facts": facts,
                "git": _git(),
                "packages": _versions(),
                "lives": [*self.lives, life],
            },
        )

    def fail(self, update: int, reason: str) -> None:
        """Record why this run cannot go on."""
        write_json(self.directory / "failed.json", {"update": update, "reason": reason})

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which makes the run done, and drop what only a resume needs."""
        write_json(self.directory / "summary.json", summary)
        self.drop_leftovers()

    def drop_leftovers(self) -> None:
        """Delete what a finished run no longer needs."""
        (self.directory / "failed.json").unlink(missing_ok=True)
        checkpoints.remove(self.checkpoints)


class MetricsFile:
    """metrics.jsonl: one record a line, appended in blocks, cut back to the checkpoint on resume."""

    def __init__(self, path: Path):
        self.path = path
        self._lines: list[str] = []
        self._written = time.monotonic()

    def append(self, record: dict[str, Any]) -> None:
        """Keep a record for the next flush."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._lines.append(json.dumps(finite))

    @property
    def due(self) -> bool:
        """Whether a flush is due: at most so often, for the sake of network file systems."""
        return bool(self._lines) and time.monotonic() - self._written > FLUSH_SECONDS

    def flush(self, sync: bool = False) -> int:
        """Append what was kept, fsynced if asked. Returns the file's length in bytes."""
        with open(self.path, "ab") as file:
            file.write("".join(line + "\n" for line in self._lines).encode())
            file.flush()
            if sync:
                os.fsync(file.fileno())
            length = file.tell()
        self._lines.clear()
        self._written = time.monotonic()
        return length

    def cut(self, length: int) -> None:
        """Drop every record after the first `length` bytes. Raises UserError if the file is shorter."""
        self._lines.clear()
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < length:
            raise UserError(
                f"{self.path}: {size} bytes, but its checkpoint covers {length}: records are lost. "
                f"Put the file back, or delete {self.path.parent} to train the run anew"
            )
        if size > length:
            os.truncate(self.path, length)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind, in order."""
        if not self.path.exists():
            return []
        found = (json.loads(line) for line in self.path.read_text().splitlines())
        return [record for record in found if record["kind"] == kind]


def this_life(pack: Sequence[Run], from_update: int, device: str, threads: int, capability: str) -> dict[str, Any]:
    """What a manifest keeps of a process that works on a run."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "from_update": from_update,
        "pack": [run.id for run in pack],
        "device": device,
        "threads": threads,
        "instruction_set": capability,
        "code_path": "plain",
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "command": sys.argv,
        "slurm": {
            key: value
            for key, value in os.environ.items()
            if re.match(r"SLURM_(ARRAY_)?(JOB|TASK)_ID$|SLURM_RESTART", key)
        },
    }


def differences_between_lives(run: Run, life: dict[str, Any]) -> list[str]:
    """What has changed since the run's last life that may change the last bits of its numbers."""
    if not run.lives:
        return []
    before = run.lives[-1]
    same = ("device", "threads", "instruction_set", "code_path", "torch", "pack")
    return [f"{key} was {before.get(key)}, is {life[key]}" for key in same if before.get(key) != life[key]]


def packs(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that are to be trained, as the packs that must be trained together.

    Runs that began as one pack go on as it, so that their numbers stay those of an undisturbed pack (the
    finished ones of it idle); runs that began alone go on alone; the fresh ones make one pack.
    """
    by_id = {run.id: run for run in runs}
    groups: dict[tuple[str, ...], list[Run]] = {}
    fresh = []
    for run in runs:
        if run.summary is not None:
            continue
        began = tuple(run.lives[-1]["pack"]) if run.lives else ()
        if began and all(member in by_id for member in began):
            groups.setdefault(began, [by_id[member] for member in began])
        elif checkpoints.updates_in(run.checkpoints):
            groups[(run.id,)] = [run]
        else:
            fresh.append(run)
    return [*groups.values(), *([fresh] if fresh else [])]


def _git() -> dict[str, Any] | None:
    def ask(*arguments: str) -> str:
        here = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", *arguments], cwd=here, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
