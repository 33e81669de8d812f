"""The memory and cores that Linux's control groups (versions 1 and 2) allow this process, in a container or a job."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_PROCESS = Path("/proc/self")


def free_memory(process: Path = _PROCESS) -> float:
    """Bytes that this process may still allocate within the limits of all its groups, infinite without a limit.

    A group counts the page cache as used memory; it is free here, since the system drops it for an allocation.
    """
    return min((_free(group) for group in _groups("memory", process)), default=math.inf)


def cores(process: Path = _PROCESS) -> float:
    """CPU time per time within the quotas of all of this process's groups, infinite without a quota."""
    return min((_quota(group) for group in _groups("cpu", process)), default=math.inf)


def _free(group: Path) -> float:
    for most, taken, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        limit = _fields(group / most)
        if limit and limit[0] != "max":
            stat = _fields(group / "memory.stat")
            kept = dict(zip(stat[::2], map(int, stat[1::2]), strict=False))
            files = sum(kept.get(f"{prefix}{name}_file", 0) for name in ("active", "inactive"))
            return int(limit[0]) - max(0, int(_fields(group / taken)[0]) - files)
    return math.inf


def _quota(group: Path) -> float:
    fields = _fields(group / "cpu.max") or [
        *_fields(group / "cpu.cfs_quota_us"),
        *_fields(group / "cpu.cfs_period_us"),
    ]
    return int(fields[0]) / int(fields[1]) if len(fields) == 2 and fields[0] not in ("max", "-1") else math.inf


def _groups(controller: str, process: Path) -> Iterator[Path]:
    """The folders of the process's groups under a controller, from the innermost to the outermost."""
    own: dict[str, str] = {}
    for line in _lines(process / "cgroup"):
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    for line in _lines(process / "mountinfo"):
        before, _, after = line.partition(" - ")
        root, mounted = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        name = {"cgroup2": "", "cgroup": controller}.get(kind)
        if name is None or name not in own or (name and name not in options.split(",")):
            continue
        # Within a container the path may be the host's, and the mount then shows this group as its top.
        inside = own[name].removeprefix(root).strip("/") if own[name].startswith(root) else ""
        folder = top = Path(mounted)
        if ".." not in inside and (top / inside).is_dir():
            folder = top / inside
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _fields(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # there is no such limit
        return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not Linux
        return []
