"""Checkpoint files: what was written is read back, damage is detected, nothing is unpickled."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iql.errors import UserError
from iql.runs import checkpoints
from iql.system.atomic_files import replace_file

STATE = {"update": 7, "weights": {"a": torch.arange(6.0).view(2, 3)}, "rate": 0.5}


def of(update: int) -> dict[str, Any]:
    return {"learner": {"update": update}}


def signed(path: Path, body: bytes) -> Path:
    """Foreign bytes behind a checkpoint's header with their correct hash."""
    replace_file(path, f"iql-checkpoint 1 sha256={hashlib.sha256(body).hexdigest()}\n".encode(), body)
    return path


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def packed(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file like torch's with these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def entries_of(body: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def test_what_is_written_is_read_back(tmp_path):
    path = checkpoints.path_of(tmp_path / "checkpoints", 7)
    checkpoints.write(path, STATE)
    state = checkpoints.read(path)
    assert (state["update"], state["rate"]) == (7, 0.5)
    torch.testing.assert_close(state["weights"]["a"], STATE["weights"]["a"])
    assert [entry.name for entry in path.parent.iterdir()] == ["update=000000007.ckpt"]


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "update=000000007.ckpt"
    checkpoints.write(path, STATE)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(checkpoints.Damaged):
            checkpoints.read(path)
        path.write_bytes(whole[:position])
        with pytest.raises(checkpoints.Damaged):
            checkpoints.read(path)


class Evil:
    def __reduce__(self):
        return open, ("ran", "w")


CLAIMING = saved({"a": torch.zeros(1).expand(10**6, 10**6)})
FOREIGN = {
    "a pickle": pickle.dumps(Evil(), protocol=2),
    "a pickle within torch's file": packed({**entries_of(saved(STATE)), "data.pkl": pickle.dumps(Evil(), protocol=2)}),
    "a newer pickle within": packed({**entries_of(saved(STATE)), "data.pkl": pickle.dumps(Evil(), protocol=4)}),
    "torch's file of an object": saved({"a": Evil()}),
    "a module": saved(torch.nn.Linear(2, 2)),
    "a list": saved([1, 2]),
    "a number": saved(3),
    "an array": saved({"a": np.zeros(3)}),
    "no zip": b"text",
    "nothing": b"",
    "a tensor larger than its stored data": CLAIMING,
    "a storage larger than its stored data": packed({**entries_of(saved({"a": torch.zeros(999)})), "data/0": b"1234"}),
    "a zip bomb": packed({**entries_of(saved(STATE)), "data/9": b"0" * 10**6}, zipfile.ZIP_DEFLATED),
    "a request for much memory": packed(
        {**entries_of(saved(STATE)), "data.pkl": b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."}
    ),
    "another byte order": packed({**entries_of(saved(STATE)), "byteorder": b"big"}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_content_is_refused_in_one_line_even_with_a_correct_hash(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(checkpoints.Damaged) as caught:
        checkpoints.read(signed(tmp_path / "evil.ckpt", content))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder_are_refused(tmp_path):
    path = checkpoints.path_of(tmp_path / "checkpoints", 5)
    path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"every checkpoint is damaged: .*it is no file"):
        checkpoints.read_undamaged(tmp_path / "checkpoints")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file stands where the folder of checkpoints should"):
        checkpoints.read_undamaged(tmp_path / "file")


def test_a_checkpoint_must_match_the_update_in_its_name_and_not_exceed_the_run(tmp_path):
    for name, update in ((5, 5), (6, 7), (30, 30)):
        checkpoints.write(checkpoints.path_of(tmp_path, name), of(update))
    checkpoints.write(checkpoints.path_of(tmp_path, 8), STATE)
    checkpoints.write(tmp_path / "update=9.ckpt", of(9))
    states, lines = checkpoints.read_undamaged(tmp_path, last=20)
    assert list(states) == [5]
    reasons = {line.partition("damaged, ")[2] for line in lines}
    assert reasons == {
        "it holds 7 where its name says update 6",
        "it holds no learner where its name says update 8",
        "it is of update 30, and the run ends with 20",
    }


def test_undamaged_checkpoints_are_found_newest_first_and_damaged_ones_reported(tmp_path):
    for update in (5, 20, 10):
        checkpoints.write(checkpoints.path_of(tmp_path, update), of(update))
    checkpoints.path_of(tmp_path, 20).write_bytes(b"")
    states, lines = checkpoints.read_undamaged(tmp_path)
    assert list(states) == [10, 5]
    assert len(lines) == 1
    assert "update=000000020.ckpt: damaged, it is empty" in lines[0]
    for update in (5, 10):
        checkpoints.path_of(tmp_path, update).write_bytes(b"x")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        checkpoints.read_undamaged(tmp_path)


def test_pruning_removes_older_checkpoints_and_temporary_files(tmp_path):
    for update in (1, 2, 3):
        checkpoints.write(checkpoints.path_of(tmp_path, update), STATE)
    (tmp_path / ".update=000000004.ckpt.99.tmp").write_bytes(b"half")
    checkpoints.prune(tmp_path, keep=[3, 2])
    assert checkpoints.updates_in(tmp_path) == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2
