"""Where numbers come from: the code, the packages and the processes behind a run."""

from __future__ import annotations

import importlib.metadata
import json
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

_PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "h5py", "hydra-core", "omegaconf", "wandb")


SNAPSHOT_STATE = "git.json"
"""In the snapshot of the code that a job runs, the state of the repository that it was taken from."""


def this_life(
    pack: Sequence[str], from_update: int, device: str, threads: int, code_path: str, capability: str
) -> dict[str, Any]:
    """What a manifest keeps of a process that works on a run."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "from_update": from_update,
        "pack": list(pack),
        "device": device,
        "threads": threads,
        "instruction_set": capability,
        "code_path": code_path,
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "command": sys.argv,
        "slurm": {
            key: value
            for key, value in os.environ.items()
            if re.match(r"SLURM_(ARRAY_)?(JOB|TASK)_ID$|SLURM_RESTART", key)
        },
    }


def differences(before: dict[str, Any], life: dict[str, Any]) -> list[str]:
    """What has changed between two lives of a run that may change the last bits of its numbers."""
    same = ("device", "threads", "instruction_set", "code_path", "torch", "pack")
    return [f"{key} was {before.get(key)}, is {life[key]}" for key in same if before.get(key) != life[key]]


def git_state() -> dict[str, Any] | None:
    """The commit of this code and whether it was edited since; of a snapshot, what it was taken from."""
    recorded = Path(__file__).resolve().parents[1] / SNAPSHOT_STATE
    if recorded.exists():
        return json.loads(recorded.read_text())

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


def package_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
