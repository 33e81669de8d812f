"""Checkpoint files: a SHA-256 and the content it covers, written atomically, loaded without unpickling any code."""

from __future__ import annotations

import hashlib
import io
import os
import pickletools
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iql.errors import UserError
from iql.system.atomic_files import replace_file

# One line of text, then what torch.save wrote. torch.load itself does not notice a flipped bit.
_HEADER = re.compile(rb"iql-checkpoint 1 sha256=([0-9a-f]{64})\n")
# The names that the pickle may use: torch's storages and types, and what builds tensors and dictionaries from them.
_ALLOWED_NAMES = re.compile(
    r"torch(\.storage)? \w+|torch\._utils _rebuild_(tensor_v2|tensor_v3|parameter)|collections OrderedDict"
)
_REFUSED_OPERATIONS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
_FILE_NAME = re.compile(r"update=(\d{9}|[1-9]\d{9,})\.ckpt")


class Damaged(Exception):
    """The content of a checkpoint is not what was written; the message says what is wrong."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and texts to `path`: temporary name, fsync, rename."""
    import torch  # not at the top: who only lists checkpoints does not need torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, f"iql-checkpoint 1 sha256={digest}\n".encode(), content)


def written_hash(path: Path) -> str:
    """The SHA-256 of a checkpoint's content as its first line states it; "" for a file without that line."""
    with open(path, "rb") as file:
        header = _HEADER.match(file.read(128))
    return "" if header is None else header[1].decode()


def read(path: Path) -> dict[str, Any]:
    """What `write` saved. Raises Damaged."""
    if path.exists() and not path.is_file():
        raise Damaged("it is no file")
    content = path.read_bytes()
    header = _HEADER.match(content)
    if header is None:
        newer = content.startswith(b"iql-checkpoint ") and not content.startswith(b"iql-checkpoint 1 ")
        what = "it is from a newer iql: update iql" if newer else "it does not begin like a checkpoint"
        raise Damaged(what if content else "it is empty")
    body = memoryview(content)[header.end() :]
    if hashlib.sha256(body).hexdigest().encode() != header[1]:
        raise Damaged("its content does not match its SHA-256")
    try:
        return _loaded(io.BytesIO(body), len(body))
    except Damaged:
        raise
    except Exception as error:  # torch, zipfile and pickletools raise anything for foreign bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(f"it is no checkpoint of iql's ({reason})") from error


def _loaded(body: io.BytesIO, size: int) -> dict[str, Any]:
    """The state in `body`, `size` bytes that torch.save wrote. Raises Damaged, or anything for other content.

    A matching hash does not say who wrote the bytes. So nothing is unpickled: torch builds tensors and plain values
    alone. Claimed sizes are compared with the file's size before memory is taken: entries must not be compressed, and
    no tensor may be larger than its stored data.
    """
    import torch

    with zipfile.ZipFile(body) as archive:
        entries = archive.infolist()
        stored = sum(entry.file_size for entry in entries)
        if stored > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Damaged("it claims more than it holds")
        (pickled,) = (entry for entry in entries if re.fullmatch(r"[^/]+/data\.pkl", entry.filename))
        for operation, argument, _ in pickletools.genops(archive.read(pickled)):
            foreign = operation.name == "GLOBAL" and not _ALLOWED_NAMES.fullmatch(str(argument))
            if foreign or operation.name in _REFUSED_OPERATIONS:
                raise Damaged(f"it names {argument or operation.name}, which no checkpoint of iql's does")
        orders = [archive.read(entry) for entry in entries if entry.filename.endswith("/byteorder")]
        if orders not in ([], [sys.byteorder.encode()]):
            raise Damaged("it is from a machine of another byte order")
        records = Counter(entry.file_size for entry in entries if "/data/" in entry.filename)
    body.seek(0)
    state = torch.load(body, map_location="cpu", weights_only=True)
    tensors = list(_tensors(state))
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    if Counter(filter(None, storages.values())) - records or sum(each.nbytes for each in tensors) > stored:
        raise Damaged("its tensors claim more than it holds")
    if not isinstance(state, dict):
        raise Damaged(f"it holds {type(state).__name__}, no state of a run")
    return state


def _tensors(state: Any) -> Iterator[Any]:
    """Every tensor in a state; one that occurs several times is yielded once."""
    import torch

    seen: set[int] = set()
    remaining = [state]
    while remaining:
        part = remaining.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, torch.Tensor):
            yield part
        elif isinstance(part, dict):
            remaining.extend(part.values())
        elif isinstance(part, list | tuple):
            remaining.extend(part)


def path_of(directory: Path, update: int) -> Path:
    """The file of the checkpoint after so many updates."""
    return directory / f"update={update:09d}.ckpt"


def updates_in(directory: Path) -> list[int]:
    """The updates of the checkpoints in `directory`, newest first. Raises UserError if it is a file."""
    if not directory.is_dir():
        if directory.exists():
            raise UserError(f"{directory}: a file stands where the folder of checkpoints should; move it away")
        return []
    found = (int(match[1]) for path in directory.iterdir() if (match := _FILE_NAME.fullmatch(path.name)))
    return sorted(found, reverse=True)


def read_undamaged(directory: Path, last: int | None = None) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """The undamaged checkpoints by update, newest first, and a line about each damaged one.

    last: the run's last update; a checkpoint beyond it does not belong to the run. Raises UserError if all checkpoints
    are damaged; it names the files.
    """
    states, lines = {}, []
    for update in updates_in(directory):
        path = path_of(directory, update)
        try:
            state = read(path)
            learner = state.get("learner")
            if not isinstance(learner, dict) or learner.get("update") != update:
                what = learner.get("update") if isinstance(learner, dict) else "no learner"
                raise Damaged(f"it holds {what} where its name says update {update}")
            if last is not None and update > last:
                raise Damaged(f"it is of update {update}, and the run ends with {last}")
            states[update] = state
        except Damaged as error:
            lines.append(f"{path}: damaged, {error}")
    if lines and not states:
        raise UserError(
            f"every checkpoint is damaged: {'; '.join(lines)}. Put a sound one back, or delete the run's directory "
            f"{directory.parent} to train it anew"
        )
    return states, lines


def prune(directory: Path, keep: Iterable[int]) -> None:
    """Delete all checkpoints except those of the updates in `keep`, and temporary files of interrupted writes."""
    kept = {path_of(directory, update).name for update in keep}
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name not in kept:
            path.unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Delete the folder of checkpoints."""
    prune(directory, keep=())
    if directory.is_dir():
        os.rmdir(directory)
