"""Leases: which process may write to a run directory."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import commands
import pytest
from conftest import ROOT

from iql.errors import UserError
from iql.runs import leases
from iql.runs.leases import Lease, LeaseLost, Leases, Owner
from iql.system.atomic_files import write_json

ELSEWHERE = Owner(token="other", host="another-host", pid=1, job="", life=0)


def hold_in_a_process(directory: Path, **environment: str) -> commands.Process:
    """A process that holds the lease until it is killed or loses it."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from iql.runs.leases import LeaseLost, Leases
directory = Path({str(directory)!r})
try:
    with Leases([directory]) as own:
        print("acquired", flush=True)
        while True:
            own.check(directory)
            time.sleep(0.05)
except LeaseLost as error:
    print("lost", error, flush=True)
"""
    process = commands.start(
        [sys.executable, "-c", code], env={**os.environ, **environment}, stdout=commands.PIPE, text=True
    )
    assert process.stdout.readline() == "acquired\n"
    return process


def test_a_second_process_is_refused_with_the_owners_name_until_the_owner_dies(tmp_path):
    owner = hold_in_a_process(tmp_path)
    with pytest.raises(UserError, match=f"process {owner.pid} on "):
        Lease(tmp_path, Owner.this_process()).acquire()
    owner.kill()
    owner.wait()
    with Leases([tmp_path]) as own:
        own.check(tmp_path)
    assert not (tmp_path / "lease.json").exists()


def test_another_hosts_lease_is_respected_until_its_heartbeat_is_stale(tmp_path):
    write_json(tmp_path / "lease.json", asdict(ELSEWHERE))
    with pytest.raises(UserError, match="process 1 on another-host"):
        Lease(tmp_path, Owner.this_process()).acquire()
    old = time.time() - leases.STALE_SECONDS - 1
    os.utime(tmp_path / "lease.json", (old, old))
    with Leases([tmp_path]) as own:
        own.check(tmp_path)


def test_the_heartbeat_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    with Leases([tmp_path]):
        os.utime(tmp_path / "lease.json", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "lease.json").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_later_attempt_of_the_same_job_takes_over_and_the_earlier_one_ends(tmp_path):
    older = hold_in_a_process(tmp_path, SLURM_JOB_ID="17", SLURM_RESTART_COUNT="0")
    newer = hold_in_a_process(tmp_path, SLURM_JOB_ID="17", SLURM_RESTART_COUNT="1")
    assert older.stdout.readline().startswith("lost")
    assert older.wait(timeout=10) == 0
    assert newer.poll() is None
    newer.kill()
    newer.wait()


def test_an_earlier_attempt_or_another_job_does_not_take_over(tmp_path):
    owner = hold_in_a_process(tmp_path, SLURM_JOB_ID="17", SLURM_RESTART_COUNT="1")
    for job, life in (("17", 0), ("17", 1), ("18", 5)):
        with pytest.raises(UserError, match="SLURM job 17"):
            Lease(tmp_path, replace(Owner.this_process(), job=job, life=life)).acquire()
    owner.kill()
    owner.wait()


def test_a_lost_lease_is_noticed_before_the_next_write(tmp_path):
    with Leases([tmp_path]) as own:
        write_json(tmp_path / "lease.json", asdict(ELSEWHERE))
        with pytest.raises(LeaseLost, match="another-host"):
            own.check(tmp_path)


def test_all_leases_of_a_pack_are_taken_or_none(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    owner = hold_in_a_process(second)
    with pytest.raises(UserError), Leases([first, second]):
        pass
    assert not (first / "lease.json").exists()
    owner.kill()
    owner.wait()
    with Leases([first, second]):
        assert (first / "lease.json").exists()
