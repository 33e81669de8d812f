"""A file over HTTP, whole or not at all: resumed, checked, put in place in one step."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from tqdm import tqdm

from iql.errors import UserError
from iql.storage import replace_file, sync_folder

if TYPE_CHECKING:
    from requests import Response

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds to wait for a connection
READ_TIMEOUT = 30.0  # seconds without a byte after which a server counts as stalled
LINE_SECONDS = 30.0  # in a log file a line on a download at most this often
CHUNK = 64 * 1024  # bytes written at a time
FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch(url: str, target: Path, complaint: Callable[[Path], str | None]) -> None:
    """Download `url` to `target`, unless another process does so first.

    What has come lies beside the target as NAME.part and is never taken for the file: the next call
    goes on where this one was cut, as long as the server still has the same file. `complaint` is given
    the complete .part and says what is wrong with it ("is empty"), if anything: then it is deleted, else
    renamed. Raises UserError for whatever the network or the disk does.
    """
    with _one_at_a_time(target):
        if target.exists():  # another process was faster
            return
        part = target.with_name(target.name + ".part")
        with _disk(target.parent, part):
            _transfer(url, target, part)
            if problem := complaint(part):
                _discard(part)
                raise UserError(f"what {url} sent {problem}; {_by_hand(target)}")
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
            _note(part).unlink(missing_ok=True)
            sync_folder(target.parent)


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Hold the lock of this download; a killed holder's goes with it."""
    with _disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(target.name + ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process downloads %s; waiting for it", target.name)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _transfer(url: str, target: Path, part: Path) -> None:
    """Bring .part to the file's full length, from where it stands if the server allows that."""
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


def _receive(url: str, response: Response, part: Path, offset: int) -> None:
    """Append the response's body to .part (from the start: replace it) and check its length."""
    length = response.headers.get("Content-Length")
    size = offset + int(length) if length else None
    if size is not None and (free := shutil.disk_usage(part.parent).free) < size - offset:
        raise OSError(errno.ENOSPC, f"{size - offset:,} bytes are needed and {free:,} are free")
    if not offset:  # what the next life needs to go on is on disk before the first byte of data
        _discard(part)
        _write_note(part, {"url": url, "validator": _validator(response), "size": size})
    have, told = offset, time.monotonic()
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
            if bar.disable and time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
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
    """Bytes that may be built on, and what is known of the file they are from; (0, {}) if nothing may."""
    try:
        known = json.loads(_note(part).read_text())
        if known["url"] == url and known["validator"] and part.stat().st_size:
            return part.stat().st_size, known
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    _discard(part)
    return 0, {}


def _continues(response: Response, offset: int, known: dict[str, object]) -> bool:
    """Whether a partial response is the rest of the very file that .part is the beginning of."""
    start, _, rest = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")
    return (
        response.status_code == 206
        and start == str(offset)
        and rest.rpartition("/")[2] == str(known.get("size"))
        and _validator(response) in (known.get("validator"), None)
    )


def _validator(response: Response) -> str | None:
    """What tells this version of the file from another; without it nothing may be resumed."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_note(part: Path, known: dict[str, object]) -> None:
    replace_file(_note(part), json.dumps(known).encode())


def _discard(part: Path) -> None:
    """Data first: a note alone is harmless, data with the note of other data is not."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


@contextmanager
def _disk(directory: Path, part: Path | None = None) -> Iterator[None]:
    """Turn what a disk refuses into one line; on a full one .part makes room again."""
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
