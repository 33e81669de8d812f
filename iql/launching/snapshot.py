"""The code as it was at submission: what jobs run, whatever is edited meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

from iql.provenance import SNAPSHOT_STATE, git_state

_LEFT_OUT = {"tests", "docs", "__pycache__"}


def take(root: Path, folder: Path) -> Path:
    """A copy of the code of `root` within `folder`, named by its content; one that is there already is used again.

    Copied are conf/, every package and every module beside them, so a class of the user's own comes along.
    """
    state = json.dumps(git_state()).encode()
    digest = hashlib.sha256(state)
    files = sorted(_files(root))
    for path in files:
        digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    copy = folder / digest.hexdigest()[:16]
    if copy.is_dir():
        return copy
    unfinished = folder / f".{uuid.uuid4().hex}.tmp"
    for path in files:
        place = unfinished / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (unfinished / SNAPSHOT_STATE).write_bytes(state)
    os.rename(unfinished, copy)
    return copy


def _files(root: Path) -> list[Path]:
    packages = [init.parent for init in root.glob("*/__init__.py") if init.parent.name not in _LEFT_OUT]
    found = list(root.glob("*.py"))
    for package in [*packages, root / "conf"]:
        found += [path for path in package.rglob("*") if path.is_file() and not _LEFT_OUT & set(path.parts)]
    return found
