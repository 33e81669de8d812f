"""Checkpoint files: a SHA-256 and what it covers, written whole or not at all, loaded without unpickling code."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iql.errors import UserError
from iql.storage import replace_file

# One text line, then what torch.save wrote. torch.load itself takes a flipped bit without a word.
_HEADER = re.compile(rb"iql-checkpoint 1 sha256=([0-9a-f]{64})\n")
_NAME = re.compile(r"update=(\d+)\.ckpt")


class Damaged(Exception):
    """A checkpoint whose content is not what was written; the message says what is wrong."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and texts under `path`: temporary name, fsync, rename."""
    import torch  # here, so that those who only look which there are do without

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, f"iql-checkpoint 1 sha256={digest}\n".encode(), content)


def read(path: Path) -> dict[str, Any]:
    """What `write` saved. Raises Damaged."""
    import torch

    content = path.read_bytes()
    header = _HEADER.match(content)
    if header is None:
        newer = content.startswith(b"iql-checkpoint ") and not content.startswith(b"iql-checkpoint 1 ")
        what = "it is from a newer iql: update iql" if newer else "it does not begin like a checkpoint"
        raise Damaged(what if content else "it is empty")
    body = memoryview(content)[header.end() :]
    if hashlib.sha256(body).hexdigest().encode() != header[1]:
        raise Damaged("its content does not match its SHA-256")
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def path_of(directory: Path, update: int) -> Path:
    return directory / f"update={update:09d}.ckpt"


def updates_in(directory: Path) -> list[int]:
    """The updates that `directory` holds checkpoints of, newest first."""
    if not directory.is_dir():
        return []
    found = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted((int(match[1]) for match in found if match), reverse=True)


def sound(directory: Path) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """The undamaged checkpoints by update, newest first, and a line about each damaged one.

    Raises UserError that names the files if there are checkpoints and all of them are damaged.
    """
    states, lines = {}, []
    for update in updates_in(directory):
        path = path_of(directory, update)
        try:
            states[update] = read(path)
        except Damaged as error:
            lines.append(f"{path}: damaged, {error}")
    if lines and not states:
        raise UserError(
            f"every checkpoint is damaged: {'; '.join(lines)}. Put a sound one back, or delete the run's directory "
            f"{directory.parent} to train it anew"
        )
    return states, lines


def prune(directory: Path, keep: Iterable[int]) -> None:
    """Delete all checkpoints but those of the updates in `keep`, and what a killed write left behind."""
    kept = {path_of(directory, update).name for update in keep}
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name not in kept:
            path.unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Delete the folder of checkpoints."""
    prune(directory, keep=())
    if directory.is_dir():
        os.rmdir(directory)
