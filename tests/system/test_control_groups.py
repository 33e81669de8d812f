"""The limits of containers and jobs, on trees of files like those that the kernel shows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from iql.system import control_groups, cpu_cores

GIB = 2**30


def tree(folder: Path, own: str, mounts: str, files: dict[str, str]) -> Path:
    """A process's /proc/self whose groups lie in `folder`, which {} stands for in `mounts`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    process = folder / "process"
    process.mkdir()
    (process / "cgroup").write_text(own)
    (process / "mountinfo").write_text(mounts.format(folder))
    return process


TWO = "41 31 0:38 / {}/two rw,relatime - cgroup2 cgroup2 rw\n"
ONE = (
    "32 31 0:29 / {0}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n35 31 0:32 /box {0}/memory rw - cgroup cgroup rw,memory\n"
)


def test_version_2_takes_the_narrowest_of_the_groups_around_a_process(tmp_path):
    files = {
        "two/job/step/memory.max": "max\n",
        "two/job/step/cpu.max": "max 100000\n",
        "two/job/memory.max": f"{4 * GIB}\n",
        "two/job/memory.current": f"{3 * GIB}\n",
        "two/job/memory.stat": f"anon {GIB}\nfile {2 * GIB}\nactive_file {GIB}\ninactive_file {GIB}\n",
        "two/job/cpu.max": "250000 100000\n",
        "two/cpu.max": "800000 100000\n",
    }
    process = tree(tmp_path, "0::/job/step\n", TWO, files)
    assert control_groups.free_memory(process) == 3 * GIB  # what was read makes room
    assert control_groups.cores(process) == 2.5


def test_version_1_within_a_container_that_sees_the_hosts_paths(tmp_path):
    files = {
        "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/memory.usage_in_bytes": f"{2 * GIB}\n",
        "memory/memory.stat": f"cache 7\ntotal_active_file 0\ntotal_inactive_file {GIB}\n",
        "cpu/box/cpu.cfs_quota_us": "50000\n",
        "cpu/box/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    process = tree(tmp_path, "4:memory:/box\n2:cpu,cpuacct:/box\n", ONE, files)
    assert control_groups.free_memory(process) == GIB
    assert control_groups.cores(process) == 0.5


@pytest.mark.parametrize("own", ["", "0::/gone\n", "0::/../other\n"])
def test_where_nothing_is_limited_or_nothing_can_be_seen(tmp_path, own):
    process = tree(tmp_path, own, TWO, {"two/cgroup.controllers": ""})
    assert control_groups.free_memory(process) == control_groups.cores(process) == math.inf
    assert control_groups.cores(tmp_path / "not Linux") == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (2.9, 2), (math.inf, 64)])
def test_a_container_has_the_cores_of_its_quota(monkeypatch, quota, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv("IQL_CORES", raising=False)
    monkeypatch.setattr(control_groups, "cores", lambda: quota)
    assert cpu_cores.usable() == expected
    monkeypatch.setenv("IQL_CORES", "1")
    assert cpu_cores.usable() == 1


def test_a_system_that_pins_nobody_has_all_its_cores(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert cpu_cores.pinned() == [0, 1, 2]
