"""The code as it was at submission: what jobs run, whatever is edited meanwhile."""

from __future__ import annotations

import filecmp
import hashlib
import itertools
import json
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path

from iql.provenance import SNAPSHOT_STATE, git_state

log = logging.getLogger(__name__)

_LEFT_OUT = {"tests", "docs", "__pycache__"}


def take(root: Path, folder: Path) -> Path:
    """A copy of the code of `root` within `folder`, named by its content; one that is there already is used again.

    Copied are conf/, every package and every module beside them, so a class of the user's own comes along. A folder
    that has the name but other content (a stranger's, or damaged) is left to the jobs that may use it: the copy takes
    another name.
    """
    state = json.dumps(git_state()).encode()
    digest = hashlib.sha256(state)
    sources = {str(path.relative_to(root)): path for path in sorted(_files(root))}
    for name, path in sources.items():
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    copy = first = folder / digest.hexdigest()[:16]
    for number in itertools.count(2):
        if not os.path.lexists(copy):
            break
        difference = _difference(copy, sources, state)
        if difference is None:
            return copy
        log.warning("%s differs from the code that is submitted (%s); jobs use another copy", copy, difference)
        copy = first.with_name(f"{first.name}-{number}")
    unfinished = folder / f".{uuid.uuid4().hex}.tmp"
    for name, path in sources.items():
        place = unfinished / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (unfinished / SNAPSHOT_STATE).write_bytes(state)
    os.rename(unfinished, copy)
    return copy


def _difference(copy: Path, sources: Mapping[str, Path], state: bytes) -> str | None:
    """The first thing in a snapshot that is not as it would be copied now, or None.

    Bytecode is deleted, as Python would run it without a look at the source; jobs that use the snapshot compile anew.
    """
    if copy.is_symlink():
        return "it is a symbolic link"
    missing = {**sources, SNAPSHOT_STATE: None}
    try:
        for cache in list(copy.rglob("__pycache__")):
            shutil.rmtree(cache)
        for path in copy.rglob("*"):
            status, name = path.lstat(), str(path.relative_to(copy))
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode) or name not in missing:
                return repr(name)
            source = missing.pop(name)
            if source is None:
                same = status.st_size == len(state) and path.read_bytes() == state
            else:
                same = filecmp.cmp(source, path, shallow=False)
            if not same:
                return repr(name)
    except OSError as error:  # such as a link in the place of a folder, or a job that writes bytecode just now
        return f"{error.strerror}: {error.filename!r}" if error.strerror else repr(str(error))
    return f"{min(missing)!r} is missing" if missing else None


def _files(root: Path) -> list[Path]:
    packages = [init.parent for init in root.glob("*/__init__.py") if init.parent.name not in _LEFT_OUT]
    found = list(root.glob("*.py"))
    for package in [*packages, root / "conf"]:
        found += [
            path for path in package.rglob("*") if path.is_file() and not _LEFT_OUT & set(path.relative_to(root).parts)
        ]
    return found
