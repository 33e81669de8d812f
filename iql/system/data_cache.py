"""Locates data files: a given path, this package's cache, D4RL's or OGBench's, or a download."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import h5py

from iql.errors import UserError
from iql.system import download
from iql.system.atomic_files import expanded, replace_file

log = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes hashed at a time
OGBENCH = "https://rail.eecs.berkeley.edu/datasets/ogbench"


def cache_dir() -> Path:
    """Our own cache of data files: IQL_DATA_DIR, else ~/.cache/iql. It need not exist. Raises UserError."""
    return expanded(os.environ.get("IQL_DATA_DIR") or "~/.cache/iql", "set IQL_DATA_DIR to a folder")


def find(url: str | None, path: str | Path | None = None) -> Path:
    """The data file: `path` where given, else the URL's file name in our cache, in the benchmark's own (`their_dirs`),
    else downloaded into ours.

    The SHA-256 of a file in our own cache is recorded beside it on first use (NAME.sha256, as sha256sum reads it) and
    compared on every later use. A damaged file in a benchmark's folder is skipped with a warning: D4RL leaves one when
    its download is cut. Raises UserError.
    """
    if path is not None:
        given = expanded(path)
        if not given.is_file():
            what = "is not a file" if given.exists() else "does not exist"
            raise UserError(f"env.path={given} {what} (looked from {Path.cwd()}); correct the path")
        return given
    if not url:
        raise UserError("this task has no file of its own to download: give env.path=FILE")
    own = cached_path(url)
    problem_of = archive_problem if own.suffix == ".npz" else hdf5_problem
    if own.is_file():
        if problem := problem_of(own):
            raise UserError(f"{own} {problem}; delete it and run the same command to download it again")
        return _verified(own)
    for folder in their_dirs(own.name):
        theirs = folder / own.name
        if theirs.is_file():
            if not (problem := problem_of(theirs)):
                return theirs
            log.warning("passing over %s, which %s", theirs, problem)
    download.fetch(url, own, problem_of)
    return _verified(own)


def cached_path(url: str) -> Path:
    """The path in our own cache of a URL's file, whether it exists or not. Raises UserError for a URL without one."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]  # unquoted first: ..%2F must not lead out of the cache
    if name in ("", ".", "..") or not name.isprintable():
        raise UserError(f"env.url={url} names no file; correct it, or give env.path=FILE")
    return cache_dir() / name


def generated_path(
    name: str, rows: int, seed: int, walk_steps: int | None = None, random_share: float | None = None
) -> Path:
    """The path in our own cache of a file of generated data, whether it exists or not."""
    walks = f"-walks{walk_steps}" if walk_steps else ""
    random = "" if random_share is None else f"-random{random_share:g}"
    return cache_dir() / "made" / f"{name}{walks}{random}-rows{rows}-seed{seed}.hdf5"


def made_ogbench_path(dataset: str, rows: int, seed: int) -> Path:
    """The path in our own cache of a file made for a dataset of OGBench's; its name is never that of OGBench's own."""
    return cache_dir() / "made" / f"{dataset}-made-rows{rows}-seed{seed}.npz"


def ogbench_url(task: str) -> str:
    """The URL of the file of one of OGBench's single tasks, which those of the same dataset share."""
    return f"{OGBENCH}/{re.sub(r'-singletask(-task[0-9]+)?', '', task)}.npz"


def their_dirs(name: str) -> list[Path]:
    """The folders where a benchmark keeps a file of this name, under the same name: OGBench an archive, D4RL others."""
    folders = [os.environ.get("D4RL_DATASET_DIR") or "", "~/.d4rl/datasets"]
    if name.endswith(".npz"):
        folders = ["~/.ogbench/data"]
    found = [os.path.expanduser(folder) for folder in folders if folder]
    return [Path(folder) for folder in found if not folder.startswith("~")]  # ~ stays: no home


def archive_problem(path: Path) -> str | None:
    """What is wrong with a file that is no NumPy archive, to follow its name in a message; None for an archive."""
    if not path.stat().st_size:
        return "is empty"
    return None if zipfile.is_zipfile(path) else "is not a NumPy archive (.npz), or is cut short"


def hdf5_problem(path: Path) -> str | None:
    """What is wrong with a file that does not open as HDF5, to follow its name in a message; None if it opens."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
        with h5py.File(path, "r", locking=False):
            return None
    except OSError as error:
        if error.errno:
            return f"cannot be read: {error.strerror}"
        if not path.stat().st_size:
            return "is empty"
        if "truncated" in str(error):
            return f"is cut short: its HDF5 header promises more than {path.stat().st_size:,} bytes"
        if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
            return "is a web page (HTML), not HDF5"
        return "is not an HDF5 file, or is damaged"


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, computed once per process as long as the file does not change."""
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, *identity: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _verified(path: Path) -> Path:
    """The path, once the file's SHA-256 equals the recorded one, which is recorded now if there is none."""
    sidecar = path.with_name(path.name + ".sha256")
    digest = sha256(path)
    try:
        recorded = sidecar.read_text().split()[:1]
    except FileNotFoundError:
        _record(sidecar, digest, path.name)
        log.info("%s: SHA-256 %s, to which it is held from now on; none is published to compare it with", path, digest)
        return path
    if recorded != [digest]:
        raise UserError(
            f"{path} has SHA-256 {digest} but {(recorded or ['nothing'])[0]} was recorded when it was first "
            f"used ({sidecar.name}): it was changed or damaged. Delete the file to download it again, or "
            "delete the .sha256 file to accept it as it is"
        )
    return path


def _record(sidecar: Path, digest: str, name: str) -> None:
    try:
        replace_file(sidecar, f"{digest}  {name}\n".encode())
    except OSError as error:  # a shared cache may be read-only here
        log.info("the SHA-256 of %s could not be recorded beside it: %s", name, error.strerror)
