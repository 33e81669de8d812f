"""Submission of jobs: the code is copied, the jobs are written to the ledger and handed to a launcher's queue."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import itertools
import json
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from iql.config.folders import INSTALLED, PACKAGE
from iql.errors import UserError
from iql.launching.launcher import Launcher, QueueUnavailable
from iql.launching.ledger import Ledger, Submission
from iql.runs.provenance import SNAPSHOT_STATE, git_state

log = logging.getLogger(__name__)

_NOT_COPIED = {"tests", "docs", "__pycache__"}


def submit(ledger: Ledger, node: dict[str, Any], jobs: Iterable[tuple[list[str], Mapping[str, Any]]]) -> Submission:
    """Submit jobs through the launcher of a settings section. The caller must hold the ledger's lock.

    Raises UserError for what the queue refuses; if it accepted none of the jobs, the submission is removed again.
    """
    launcher: Launcher = instantiate(node, _convert_="all")
    launcher.check()
    package = PACKAGE.name if INSTALLED else None
    code = snapshot(PACKAGE.parent, ledger.folder / "code", package)
    submission = ledger.add(node, launcher.chunk, code, jobs)
    try:
        launcher.submit(submission)
    except UserError:
        # A queue that does not answer may have accepted some jobs: they are found by name once it answers.
        with contextlib.suppress(QueueUnavailable):
            if not launcher.queue([submission]):
                ledger.discard(submission)
        raise
    return submission


def snapshot(root: Path, folder: Path, package: str | None = None) -> Path:
    """Copy the code of `root` into `folder`, so that later edits reach no job; returns the copy, named by its content.

    The copy has conf/, every package and every module beside them, and so the user's own classes too; with `package`
    that package alone, for a root that holds other projects too (site-packages). An equal copy that exists is used
    again. A folder of that name with other content (damaged, or somebody else's) is left to the jobs that may use it,
    and the copy gets another name.
    """
    state = json.dumps(git_state()).encode()
    digest = hashlib.sha256(state)
    sources = {str(path.relative_to(root)): path for path in sorted(_files(root, package))}
    for name, path in sources.items():
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    copy = first = folder / digest.hexdigest()[:16]
    for number in itertools.count(2):
        if not os.path.lexists(copy):
            break
        difference = _first_difference(copy, sources, state)
        if difference is None:
            return copy
        log.warning("%s differs from the code that is submitted (%s); jobs use another copy", copy, difference)
        copy = first.with_name(f"{first.name}-{number}")
    unfinished = folder / f".{uuid.uuid4().hex}.tmp"
    for name, path in sources.items():
        target = unfinished / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (unfinished / SNAPSHOT_STATE).write_bytes(state)
    os.rename(unfinished, copy)
    return copy


def _first_difference(copy: Path, sources: Mapping[str, Path], state: bytes) -> str | None:
    """The first difference between a snapshot and what would be copied now, or None.

    Bytecode in the snapshot is deleted, as Python would run it without checking the source; jobs compile it again.
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
    except OSError as error:  # such as a link that replaced a folder, or a job that is writing bytecode
        return f"{error.strerror}: {error.filename!r}" if error.strerror else repr(str(error))
    return f"{min(missing)!r} is missing" if missing else None


def _files(root: Path, package: str | None) -> list[Path]:
    if package is not None:
        found, folders = [], [root / package]
    else:
        packages = [init.parent for init in root.glob("*/__init__.py") if init.parent.name not in _NOT_COPIED]
        found, folders = list(root.glob("*.py")), [*packages, root / "conf"]
    for folder in folders:
        found += [
            path for path in folder.rglob("*") if path.is_file() and not _NOT_COPIED & set(path.relative_to(root).parts)
        ]
    return found
