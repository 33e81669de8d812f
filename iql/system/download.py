"""Download of a file over HTTP: resumed where it was cut, checked, then renamed to its final name."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from iql.errors import UserError
from iql.system.atomic_files import move_durably, replace_file
from iql.system.locks import exclusive

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds to wait for a connection
READ_TIMEOUT = 30.0  # seconds without a byte after which a server counts as stalled
LOG_SECONDS = 30.0  # between two lines about a download in a log file
CHUNK = 64 * 1024  # bytes written at a time
FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch(url: str, target: Path, check: Callable[[Path], str | None]) -> None:
    """Download `url` to `target`, unless another process does so first.

    The bytes received so far are kept beside the target as NAME.part: the next call resumes there, as long as the
    server still has the same file. `check` gets the complete .part and returns what is wrong with it ("is empty"), or
    None: then it is renamed, else deleted. Raises UserError for an error of the network or the disk.
    """
    with _locked(target):
        if target.exists():  # another process was faster
            return
        part = target.with_name(target.name + ".part")
        with _disk(target.parent, part):
            _transfer(url, target, part)
            if problem := check(part):
                _discard(part)
                raise UserError(f"what {url} sent {problem}; {_by_hand(target)}")
            move_durably(part, target)
            _note(part).unlink(missing_ok=True)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of this download."""
    lock_file = target.with_name(target.name + ".lock")
    with contextlib.ExitStack() as stack:
        with _disk(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(lock_file, f"another process downloads {target.name}; waiting for it"))
        yield


def _transfer(url: str, target: Path, part: Path) -> None:
    """Receive the file into .part, from the end of what .part has if the server allows that."""
    import requests

    stall = read_timeout()
    log.info("downloading %s to %s", url, target)
    try:
        for attempt in range(2):
            offset, known = _resume_point(url, part)
            if known.get("size") == offset and offset:
                return
            headers = {"Accept-Encoding": "identity"}
            if offset:
                headers |= {"Range": f"bytes={offset}-", "If-Range": str(known["validator"])}
            with requests.get(
                url, headers=headers, stream=True, timeout=(min(CONNECT_TIMEOUT, stall), stall)
            ) as response:
                if response.status_code in (206, 416) and not _continues(response, offset, known):
                    log.warning("the file at %s has changed: starting over", url)
                    _discard(part)
                    if attempt == 0:
                        continue
                if response.status_code not in (200, 206):
                    raise UserError(
                        f"{url} answered {response.status_code} {response.reason}: the server does not hand "
                        f"the file out; {_by_hand(target)}"
                    )
                if "text/html" in response.headers.get("Content-Type", ""):
                    raise UserError(f"{url} sent a web page (HTML) instead of the HDF5 file; {_by_hand(target)}")
                _receive(url, response, part, offset if response.status_code == 206 else 0)
                return
    except requests.RequestException as error:
        have, _ = _resume_point(url, part)
        if isinstance(error, requests.ConnectTimeout):
            what = f"failed: no connection within {min(CONNECT_TIMEOUT, stall):g} s"
        elif "timed out" in str(error).lower():  # requests wraps a stall in more than one class
            what = f"stalled: no byte for {stall:g} s"
        else:
            what = f"failed: {_cause(error)}"
        kept = f"{have:,} bytes are kept and the same command resumes" if have else "nothing to resume from is kept"
        raise UserError(f"download of {url} {what} ({kept}); {_by_hand(target)}") from error


def _receive(url: str, response: Any, part: Path, offset: int) -> None:
    """Append the body of a requests.Response to .part (from offset 0: replace it) and check its length."""
    length = response.headers.get("Content-Length")
    size = offset + int(length) if length else None
    if size is not None and (free := shutil.disk_usage(part.parent).free) < size - offset:
        raise OSError(errno.ENOSPC, f"{size - offset:,} bytes are needed and {free:,} are free")
    if not offset:  # the note that a later call needs to resume is on disk before the first byte of data
        _discard(part)
        _write_note(part, {"url": url, "validator": _validator(response), "size": size})
    have, logged = offset, time.monotonic()
    with (
        part.open("ab", buffering=0) as file,
        tqdm(total=size, initial=offset, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
    ):
        for chunk in response.iter_content(CHUNK):
            view = memoryview(chunk)
            while view:  # a raw write may take less than it is given
                view = view[file.write(view) :]
            have += len(chunk)
            bar.update(len(chunk))
            if bar.disable and time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                log.info("%s: %s of %s bytes", part.stem, f"{have:,}", f"{size:,}" if size else "?")
    if size is not None and have != size:
        raise UserError(
            f"download of {url} ended after {have:,} of {size:,} bytes; they are kept and the same command resumes"
        )


def read_timeout() -> float:
    """Seconds without a byte after which a server counts as stalled: IQL_DOWNLOAD_TIMEOUT, else 30."""
    text = os.environ.get("IQL_DOWNLOAD_TIMEOUT", "")
    try:
        seconds = float(text) if text else READ_TIMEOUT
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"IQL_DOWNLOAD_TIMEOUT={text!r} is not a number of seconds above 0")
    return seconds


def _resume_point(url: str, part: Path) -> tuple[int, dict[str, object]]:
    """The length of .part and the note on its file, if it can be resumed; else (0, {}), and .part is deleted."""
    try:
        known = json.loads(_note(part).read_text())
        if known["url"] == url and known["validator"] and part.stat().st_size:
            return part.stat().st_size, known
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    _discard(part)
    return 0, {}


def _continues(response: Any, offset: int, known: dict[str, object]) -> bool:
    """Whether a partial response is the rest of the same file that .part is the beginning of."""
    start, _, rest = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")
    return (
        response.status_code == 206
        and start == str(offset)
        and rest.rpartition("/")[2] == str(known.get("size"))
        and _validator(response) in (known.get("validator"), None)
    )


def _validator(response: Any) -> str | None:
    """The header that identifies this version of the file; without one a download cannot be resumed."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_note(part: Path, known: dict[str, object]) -> None:
    replace_file(_note(part), json.dumps(known).encode())


def _discard(part: Path) -> None:
    """Delete .part, then its note: data with the note of other data would be resumed wrongly."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


@contextmanager
def _disk(directory: Path, part: Path | None = None) -> Iterator[None]:
    """Turns an OSError within into a UserError of one line; on a full disk .part is deleted to make room."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise UserError(
                f"cannot write to {directory}: {error.strerror or error}; set IQL_DATA_DIR to a directory "
                "that can be written, or give env.path=FILE"
            ) from error
        if part is not None:
            _discard(part)
        raise UserError(
            f"no space left in {directory} ({error.strerror}); make room, or set IQL_DATA_DIR to another disk"
        ) from error


def _by_hand(target: Path) -> str:
    return f"try again later, or download it by hand to {target}, or to anywhere and give env.path=FILE"


def _cause(error: BaseException) -> str:
    """The innermost reason, without the object addresses of the layers around it."""
    while isinstance(inner := (error.__cause__ or error.__context__), BaseException):
        error = inner
    return str(error) or type(error).__name__
