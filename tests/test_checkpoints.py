"""Checkpoint files: what was written comes back, what was damaged never does, nothing is unpickled."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch

from iql import checkpoints
from iql.errors import UserError
from iql.storage import replace_file

STATE = {"update": 7, "weights": {"a": torch.arange(6.0).view(2, 3)}, "rate": 0.5}


def test_what_is_written_comes_back(tmp_path):
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
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(checkpoints.Damaged):
            checkpoints.read(path)
        path.write_bytes(whole[:place])
        with pytest.raises(checkpoints.Damaged):
            checkpoints.read(path)


def test_a_checkpoint_that_carries_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    body = pickle.dumps(Evil(), protocol=2)
    path = tmp_path / "evil.ckpt"
    replace_file(path, f"iql-checkpoint 1 sha256={hashlib.sha256(body).hexdigest()}\n".encode(), body)
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.read(path)


def test_the_sound_ones_are_found_newest_first_and_the_damaged_named(tmp_path):
    for update in (5, 20, 10):
        checkpoints.write(checkpoints.path_of(tmp_path, update), {**STATE, "update": update})
    checkpoints.path_of(tmp_path, 20).write_bytes(b"")
    states, lines = checkpoints.sound(tmp_path)
    assert list(states) == [10, 5]
    assert len(lines) == 1
    assert "update=000000020.ckpt: damaged, it is empty" in lines[0]
    for update in (5, 10):
        checkpoints.path_of(tmp_path, update).write_bytes(b"x")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        checkpoints.sound(tmp_path)


def test_pruning_removes_older_ones_and_what_a_killed_write_left(tmp_path):
    for update in (1, 2, 3):
        checkpoints.write(checkpoints.path_of(tmp_path, update), STATE)
    (tmp_path / ".update=000000004.ckpt.99.tmp").write_bytes(b"half")
    checkpoints.prune(tmp_path, keep=[3, 2])
    assert checkpoints.updates_in(tmp_path) == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2
