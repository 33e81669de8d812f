"""The plan of a sweep: its runs, which of them are to be trained, and the packs that train them."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iql.config import task_configs
from iql.config.schema import MEMBER_KEYS
from iql.config.settings import Settings
from iql.errors import UserError
from iql.launching.grids.grid import Cell
from iql.launching.launcher import Launcher
from iql.launching.status import CANCELLED, DONE, FAILED, LOST, NEW, RUNNING, RunStatus
from iql.runs.footprint import FLOAT, disk_bytes, member_bytes, widths
from iql.runs.pack_membership import continued
from iql.runs.run import Run
from iql.runs.saved_networks import identity, start_file
from iql.tasks.task import Task

log = logging.getLogger(__name__)

ENTRY = "iql.commands.train:job"
DEFAULT_ROWS = 1_000_000  # assumed of data whose number of rows is unknown


@dataclass(frozen=True)
class PlannedRun:
    """A run with its task and the defaults of its env."""

    run: Run
    defaults: Settings
    task: Task


class Datasets:
    """The task and the digest of the data for every env section of a sweep, each computed once.

    missing  data that would have to be downloaded: its place by its name
    """

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[Task, str]] = {}
        self.missing: dict[str, str] = {}

    def of(self, node: dict[str, Any]) -> tuple[Task, str]:
        """Task and digest; the digest is "" for data that is `missing`."""
        key = json.dumps(node, sort_keys=True)
        if key not in self._tasks:
            task = task_configs.task(node)
            if task_configs.url_of(node) and not node.get("path") and task_configs.local_path(node) is None:
                self.missing[node["name"]] = str(task_configs.cached_path(node))
                digest = ""
            else:
                digest = task.digest
            if not hasattr(task, "observation_dim"):
                task.transitions()
            self._tasks[key] = task, digest
        return self._tasks[key]

    def check(self) -> None:
        """Raise UserError with the command that fetches missing data: a compute node may have no network."""
        if self.missing:
            names = " ".join(self.missing)
            folder = Path(next(iter(self.missing.values()))).parent
            advice = f"bring it here first: python scripts/fetch.py {names}"
            raise UserError(f"data that is not in {folder}: {names}; {advice}")


def planned(cells: Sequence[Cell], datasets: Datasets) -> list[PlannedRun]:
    """Every run of the cells. Raises UserError if they belong to several sweeps, or if two are the same run."""
    runs: dict[str, PlannedRun] = {}
    for cell in cells:
        for settings in cell.members:
            task, digest = datasets.of(settings["env"])
            run = Run(settings, cell.defaults, identity(digest, start_file(settings)), cell.overrides)
            directory = str(run.directory)
            if directory in runs:
                raise UserError(f"two of the runs train the same numbers, {run.id}: {' '.join(cell.overrides)}")
            runs[directory] = PlannedRun(run, cell.defaults, task)
    folders = {sweep_folder(each.run) for each in runs.values()}
    if len(folders) > 1:
        raise UserError(f"runs and sweep.name have one value for the whole sweep, not {len(folders)}")
    return list(runs.values())


def sweep_folder(run: Run) -> Path:
    """The folder of the sweep that a run belongs to."""
    return Path(run.settings["runs"]) / run.settings["sweep"]["name"]


def to_train(statuses: Mapping[str, RunStatus], runs: Sequence[PlannedRun], retry: bool) -> list[PlannedRun]:
    """The runs that are neither done nor queued nor running; failed ones only with `retry`."""
    wanted = {NEW, LOST, CANCELLED} | ({FAILED} if retry else set())
    return [each for each in runs if statuses[each.run.id].state in wanted]


def packs(
    runs: Sequence[PlannedRun], chosen: Sequence[PlannedRun], statuses: Mapping[str, RunStatus], launcher: Launcher
) -> list[list[PlannedRun]]:
    """The chosen runs in packs of at most the launcher's size, as equal as possible.

    Runs that began as one pack resume as one (see `continued`). While other runs of that pack are being trained as
    that pack, they are left out.
    """
    by_id = {each.run.id: each for each in runs}
    known = {run: each.run for run, each in by_id.items()}
    resumed = continued([each.run for each in chosen], known, lambda run: statuses[run].state in (DONE, FAILED))
    together = [[by_id[run.id] for run in pack] for pack in resumed]
    taken = {each.run.id for pack in together for each in pack}
    fresh: dict[str, list[PlannedRun]] = {}
    for each in chosen:
        if each.run.id not in taken:
            fresh.setdefault(_shared_settings(each.run.settings), []).append(each)
    free = [pack for pack in together if not _pack_is_running(pack, known, statuses)]
    return [*free, *itertools.chain.from_iterable(_split(group, launcher) for group in fresh.values())]


def jobs(packs: Sequence[Sequence[PlannedRun]]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """For every pack the ids of its runs, and the line that its job reads."""
    for pack in packs:
        arguments = {
            "members": [each.run.settings for each in pack],
            "defaults": pack[0].defaults,
            "overrides": [each.run.overrides for each in pack],
        }
        line = {"entry": ENTRY, "folder": os.getcwd(), "arguments": arguments}
        yield [each.run.id for each in pack], line


def disk(runs: Sequence[PlannedRun]) -> tuple[int, int]:
    """Estimates in bytes: what runs keep on disk when done, and what they need besides while all of them train."""
    kept = temporary = 0
    sizes: dict[str, tuple[int, int]] = {}
    for each in runs:
        key = _shared_settings(each.run.settings)
        if key not in sizes:
            settings = each.run.settings
            sizes[key] = disk_bytes(settings, widths(settings, each.task))
        kept, temporary = kept + sizes[key][0], temporary + sizes[key][1]
    return kept, temporary


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _shared_settings(settings: Settings) -> str:
    """The settings that runs must have in common to share a pack, as text."""
    shared = copy.deepcopy(settings)
    for key in MEMBER_KEYS:
        *sections, last = key.split(".")
        node = shared
        for section in sections:
            node = node[section]
        node.pop(last, None)
    return json.dumps(shared, sort_keys=True)


def _pack_is_running(pack: Sequence[PlannedRun], known: Mapping[str, Run], statuses: Mapping[str, RunStatus]) -> bool:
    """Whether other runs of the pack in which these runs began are being trained as that pack."""
    began = next(each.run.attempts[-1]["pack"] for each in pack if each.run.attempts)
    others = [run for run in began if run in known and statuses[run].state == RUNNING]
    return any(known[run].attempts and known[run].attempts[-1]["pack"] == began for run in others)


def _split(group: list[PlannedRun], launcher: Launcher) -> list[list[PlannedRun]]:
    settings, task = group[0].run.settings, group[0].task
    member = member_bytes(settings, widths(settings, task))
    node = settings["env"]
    rows = node.get("rows") or node.get("made_rows") or DEFAULT_ROWS
    data = FLOAT * rows * (2 * task.observation_dim + task.action_dim + 2)
    count = -(-len(group) // launcher.pack_size(member, data, settings["device"]))
    bounds = [round(k * len(group) / count) for k in range(count + 1)]
    return [group[first:last] for first, last in itertools.pairwise(bounds)]
