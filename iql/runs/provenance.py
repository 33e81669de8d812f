"""The provenance of a run: the code, the packages and the processes that produced its numbers."""

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
from typing import Any

from iql.config.folders import INSTALLED, PACKAGE

_PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "h5py", "hydra-core", "omegaconf", "wandb")


SNAPSHOT_STATE = "git.json"
"""The file in a job's copy of the code with the state of the repository that was copied."""


def this_attempt(
    pack: Sequence[str], from_update: int, device: str, threads: int, code_path: str, capability: str
) -> dict[str, Any]:
    """What a manifest records of a process that trains a run, under its key "lives"."""
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


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two processes that train a run and may change the last bits of its numbers."""
    same = ("device", "threads", "instruction_set", "code_path", "torch", "pack")
    return [f"{key} was {before.get(key)}, is {now[key]}" for key in same if before.get(key) != now[key]]


def git_state() -> dict[str, Any] | None:
    """The commit of this code and whether it was edited since; of a snapshot, what it was taken from; else None."""
    recorded = PACKAGE.parent / SNAPSHOT_STATE
    if recorded.exists():
        return json.loads(recorded.read_text())
    if INSTALLED:  # the folder may lie within a repository of the user's
        return None

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=PACKAGE, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def package_versions() -> dict[str, str]:
    """The versions of the installed packages that numbers may depend on, by name."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
