"""Where data files come from: a given path, this project's cache, D4RL's, or the server."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import h5py

from iql.errors import UserError
from iql.storage import expanded, replace_file
from iql.tasks import download

log = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes hashed at a time


def cache_dir() -> Path:
    """Our own cache of data files: IQL_DATA_DIR, else ~/.cache/iql. It need not exist. Raises UserError."""
    return expanded(os.environ.get("IQL_DATA_DIR") or "~/.cache/iql", "set IQL_DATA_DIR to a folder")


def find(url: str | None, path: str | Path | None = None) -> Path:
    """The data file: `path` where given, else the URL's file name in our cache, in D4RL's
    (D4RL_DATASET_DIR, ~/.d4rl/datasets), else downloaded into ours.

    A file in our own cache has its SHA-256 recorded beside it on first use (NAME.sha256, as sha256sum
    reads it) and is held to it. A damaged file in D4RL's folder is passed over with a warning: D4RL
    leaves one when its download is cut. Raises UserError.
    """
    if path is not None:
        given = expanded(path)
        if not given.is_file():
            what = "is not a file" if given.exists() else "does not exist"
            raise UserError(f"env.path={given} {what} (looked from {Path.cwd()}); correct the path")
        return given
    if not url:
        raise UserError("this task has no file of its own to download: give env.path=FILE")
    own = place(url)
    if own.is_file():
        if problem := hdf5_complaint(own):
            raise UserError(f"{own} {problem}; delete it and run the same command to download it again")
        return _held(own)
    for folder in d4rl_dirs():
        theirs = folder / own.name
        if theirs.is_file():
            if not (problem := hdf5_complaint(theirs)):
                return theirs
            log.warning("passing over %s, which %s", theirs, problem)
    download.fetch(url, own, hdf5_complaint)
    return _held(own)


def place(url: str) -> Path:
    """Where in our own cache the file of a URL lies, or would lie. Raises UserError for one that names no file."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]  # unquoted first: ..%2F must not lead out of the cache
    if name in ("", ".", "..") or not name.isprintable():
        raise UserError(f"env.url={url} names no file; correct it, or give env.path=FILE")
    return cache_dir() / name


def place_of_made(name: str, rows: int, seed: int, walk_steps: int | None = None) -> Path:
    """Where in our own cache a file of made data lies, or would lie."""
    walks = f"-walks{walk_steps}" if walk_steps else ""
    return cache_dir() / "made" / f"{name}{walks}-rows{rows}-seed{seed}.hdf5"


def d4rl_dirs() -> list[Path]:
    """Where D4RL keeps its downloads, under the URL's file name."""
    folders = [os.path.expanduser(os.environ.get("D4RL_DATASET_DIR") or ""), os.path.expanduser("~/.d4rl/datasets")]
    return [Path(folder) for folder in folders if folder and not folder.startswith("~")]  # ~ stays: no home


def hdf5_complaint(path: Path) -> str | None:
    """What keeps a file from opening as HDF5, to be read after its name; None if nothing does."""
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
    """SHA-256 (hex) of the file's bytes; computed once per process while the file stays as it is."""
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, *identity: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _held(path: Path) -> Path:
    """The file itself, once its SHA-256 is what was recorded; recorded now if never before."""
    sidecar = path.with_name(path.name + ".sha256")
    digest = sha256(path)
    try:
        recorded = sidecar.read_text().split()[:1]
    except FileNotFoundError:
        _record(sidecar, digest, path.name)
        log.info(
            "%s: SHA-256 %s, to which it is held from now on; D4RL publishes none to compare it with", path, digest
        )
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
    except OSError as error:  # a cache that others fill and that is read-only here is a good one
        log.info("the SHA-256 of %s could not be recorded beside it: %s", name, error.strerror)
