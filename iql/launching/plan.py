"""What a sweep's command comes to: its runs, how they stand, and the packs of those that are to be trained."""

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

from iql import catalogue
from iql.config import Settings
from iql.errors import UserError
from iql.launching.grid import Cell
from iql.launching.launcher import Launcher
from iql.launching.standing import CANCELLED, DONE, FAILED, LOST, NEW, RUNNING, Standing
from iql.membership import continued
from iql.runs import Run
from iql.schema import MEMBER_KEYS
from iql.sizes import FLOAT, disk_bytes, member_bytes, widths
from iql.tasks import Task

log = logging.getLogger(__name__)

ENTRY = "train:job"
ROWS = 1_000_000  # of data whose file does not say


@dataclass(frozen=True)
class Planned:
    """A run with its task and the defaults of its env."""

    run: Run
    defaults: Settings
    task: Task


class Datasets:
    """The task of every env section that a sweep names, and the digest of its data, each made once."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[Task, str]] = {}
        self.missing: dict[str, str] = {}

    def of(self, node: dict[str, Any]) -> tuple[Task, str]:
        """Task and digest; "" for data that would have to be downloaded, which `missing` then names."""
        key = json.dumps(node, sort_keys=True)
        if key not in self._tasks:
            task = catalogue.task(node)
            if node.get("url") and not node.get("path") and catalogue.place(node) is None:
                self.missing[node["name"]] = str(catalogue.own_place(node))
                digest = ""
            else:
                digest = task.digest
            if not hasattr(task, "observation_dim"):
                task.transitions()
            self._tasks[key] = task, digest
        return self._tasks[key]

    def check(self) -> None:
        """Raises UserError with what to type if data is missing: a compute node may have no network."""
        if self.missing:
            names = " ".join(self.missing)
            folder = Path(next(iter(self.missing.values()))).parent
            advice = f"bring it here first: python scripts/fetch.py {names}"
            raise UserError(f"data that is not in {folder}: {names}; {advice}")


def planned(cells: Sequence[Cell], datasets: Datasets) -> list[Planned]:
    """Every run of the cells. Raises UserError if they belong to several sweeps, or two are one run."""
    runs: dict[str, Planned] = {}
    for cell in cells:
        for settings in cell.members:
            task, digest = datasets.of(settings["env"])
            run = Run(settings, cell.defaults, digest, cell.overrides)
            place = str(run.directory)
            if place in runs:
                raise UserError(f"two of the runs train the same numbers, {run.id}: {' '.join(cell.overrides)}")
            runs[place] = Planned(run, cell.defaults, task)
    folders = {sweep_folder(each.run) for each in runs.values()}
    if len(folders) > 1:
        raise UserError(f"runs and sweep.name have one value for the whole sweep, not {len(folders)}")
    return list(runs.values())


def sweep_folder(run: Run) -> Path:
    """The folder of the sweep that a run belongs to."""
    return Path(run.settings["runs"]) / run.settings["sweep"]["name"]


def to_train(standings: Mapping[str, Standing], runs: Sequence[Planned], retry: bool) -> list[Planned]:
    """The runs that nobody trains or has trained; failed ones only with `retry`."""
    wanted = {NEW, LOST, CANCELLED} | ({FAILED} if retry else set())
    return [each for each in runs if standings[each.run.id].state in wanted]


def packs(
    runs: Sequence[Planned], chosen: Sequence[Planned], standings: Mapping[str, Standing], launcher: Launcher
) -> list[list[Planned]]:
    """The chosen runs in packs of the launcher's size, as even as can be.

    Runs that began as one pack go on as it (see `continued`). While others of that pack run as one, they are left
    for later.
    """
    by_id = {each.run.id: each for each in runs}
    known = {run: each.run for run, each in by_id.items()}
    begun = continued([each.run for each in chosen], known, lambda run: standings[run].state in (DONE, FAILED))
    together = [[by_id[run.id] for run in pack] for pack in begun]
    taken = {each.run.id for pack in together for each in pack}
    fresh: dict[str, list[Planned]] = {}
    for each in chosen:
        if each.run.id not in taken:
            fresh.setdefault(_shared(each.run.settings), []).append(each)
    free = [pack for pack in together if not _at_work(pack, known, standings)]
    return [*free, *itertools.chain.from_iterable(_split(group, launcher) for group in fresh.values())]


def jobs(packs: Sequence[Sequence[Planned]]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """For every pack its runs' ids, and the line from which its job trains them."""
    for pack in packs:
        arguments = {
            "members": [each.run.settings for each in pack],
            "defaults": pack[0].defaults,
            "overrides": [each.run.overrides for each in pack],
        }
        line = {"entry": ENTRY, "folder": os.getcwd(), "arguments": arguments}
        yield [each.run.id for each in pack], line


def disk(runs: Sequence[Planned]) -> tuple[int, int]:
    """About what runs keep on disk in the end, and what they take besides while all of them train."""
    kept = passing = 0
    sizes: dict[str, tuple[int, int]] = {}
    for each in runs:
        key = _shared(each.run.settings)
        if key not in sizes:
            settings = each.run.settings
            sizes[key] = disk_bytes(settings, widths(settings["network"], each.task))
        kept, passing = kept + sizes[key][0], passing + sizes[key][1]
    return kept, passing


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _shared(settings: Settings) -> str:
    """What runs must have in common to share a pack."""
    shared = copy.deepcopy(settings)
    for key in MEMBER_KEYS:
        *sections, last = key.split(".")
        node = shared
        for section in sections:
            node = node[section]
        node.pop(last, None)
    return json.dumps(shared, sort_keys=True)


def _at_work(pack: Sequence[Planned], known: Mapping[str, Run], standings: Mapping[str, Standing]) -> bool:
    """Whether others of the pack that these runs began in train as it."""
    began = next(each.run.lives[-1]["pack"] for each in pack if each.run.lives)
    others = [run for run in began if run in known and standings[run].state == RUNNING]
    return any(known[run].lives and known[run].lives[-1]["pack"] == began for run in others)


def _split(group: list[Planned], launcher: Launcher) -> list[list[Planned]]:
    settings, task = group[0].run.settings, group[0].task
    member = member_bytes(**widths(settings["network"], task), batch_size=settings["batch_size"])
    node = settings["env"]
    rows = node.get("rows") or node.get("made_rows") or ROWS
    data = FLOAT * rows * (2 * task.observation_dim + task.action_dim + 2)
    count = -(-len(group) // launcher.pack_size(member, data, settings["device"]))
    bounds = [round(k * len(group) / count) for k in range(count + 1)]
    return [group[first:last] for first, last in itertools.pairwise(bounds)]
