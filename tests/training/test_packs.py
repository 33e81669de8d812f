"""What a pack does with what its members' directories hold: lost and stale checkpoints, deleted directories."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from conftest import Trainer, refusal_of
from kills import stop_at

from iql.runs import checkpoints

PLAIN = ("seed=[0,1]", "evaluation.every=null")


def starts(directory: Path) -> list[int]:
    """The update at which each life of a run began."""
    return [life["from_update"] for life in json.loads((directory / "manifest.json").read_text())["lives"]]


@pytest.fixture
def killed(train: Trainer) -> tuple[Path, Path]:
    """A pack of two that was killed at update 50; its checkpoints are of 40 and 20."""
    assert train(*PLAIN, patch=stop_at(50)).returncode == -signal.SIGKILL
    first, second = train.directories()
    return first, second


def test_a_deleted_directory_costs_the_other_member_nothing(train, killed):
    deleted, healthy = killed
    kept = (healthy / "metrics.jsonl").read_bytes()
    shutil.rmtree(deleted)
    result = train(*PLAIN)
    assert result.returncode == 0, result.stderr
    assert (starts(deleted), starts(healthy)) == ([0], [0, 40])
    assert kept.startswith((healthy / "metrics.jsonl").read_bytes()[:1000])
    assert all((directory / "summary.json").exists() for directory in killed)


@pytest.mark.parametrize("members", [1, 2])
def test_lost_checkpoints_are_said_and_nothing_is_begun_anew(train, killed, members):
    shutil.rmtree(killed[0] / "checkpoints")
    kept = [(directory / "metrics.jsonl").read_bytes() for directory in killed]
    result = train(f"seed={list(range(members))}", PLAIN[1])
    assert result.returncode == 1
    line = refusal_of(result)
    if members == 1:
        assert f"{killed[0] / 'checkpoints'}: no checkpoint is left, though there were some" in line
    else:
        assert "seed=0: none; " in line and "seed=1: 20, 40. Put a sound one back" in line
    assert [(directory / "metrics.jsonl").read_bytes() for directory in killed] == kept


@pytest.mark.slow
def test_stale_checkpoints_do_not_evict_the_one_just_written(train, killed):
    """A run that goes on from an older one than it has leaves those of its earlier life behind."""
    for directory in killed:
        newest = checkpoints.path_of(directory / "checkpoints", 40)
        damaged = newest.read_bytes()[:-1]
        newest.unlink()
        for update in (5000, 4500):
            checkpoints.path_of(directory / "checkpoints", update).write_bytes(damaged)
    result = train(*PLAIN, patch=stop_at(30).replace("SIGKILL", "SIGTERM"))
    assert "going on from update 20" in result.stderr
    for directory in killed:
        newest, older = checkpoints.updates_in(directory / "checkpoints")
        assert 20 < newest < 40 and older == 20
    assert train(*PLAIN).returncode == 0
