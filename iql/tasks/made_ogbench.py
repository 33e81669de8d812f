"""Files of data for OGBench's tasks, recorded here with its package's controllers in the layout of its own files."""

from __future__ import annotations

import io
import logging
import math
import shutil
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from iql.envs import ogbench
from iql.envs.ogbench_controllers import EPISODE_ROWS, Recorder, controllers
from iql.errors import UserError
from iql.system.atomic_files import expanded, remove_temporaries, replace_file
from iql.system.data_cache import archive_problem, made_ogbench_path
from iql.system.locks import exclusive
from iql.tasks.generated import writing

log = logging.getLogger(__name__)

RECIPE = 1
"""Version of the data. Raised whenever the same versions of the packages would give other numbers."""

LINE_SECONDS = 10.0
"""In a log file there is a line on the progress at most this often."""

FACTS = "made.txt"  # in the folder of episodes: what they are


def make_file(
    dataset: str, rows: int, seed: int = 0, out: str | Path | None = None, episode_rows: int = EPISODE_ROWS
) -> Path:
    """The file of a dataset, cube-single-play or pointmaze-medium-navigate, made now if there is none.

    rows          states that it has at least: there are as many whole episodes as that takes
    out           the file; None: data_cache.made_ogbench_path, with the number of rows that it has
    episode_rows  states of an episode

    Every episode is kept in the folder NAME.parts beside the file until the file is complete, so that the same call
    goes on after a kill. The same arguments and versions of the packages give the same bytes. Raises UserError.
    """
    controllers(dataset)  # the name is wrong rather than the package missing
    packages = f"ogbench {ogbench.package_version()}, mujoco {version('mujoco')}"
    if rows < episode_rows:
        raise UserError(f"{rows} rows are less than an episode of {dataset}; make at least {episode_rows}")
    if seed < 0:
        raise UserError(f"the seed {seed} is negative; use 0 or more")
    episodes = math.ceil(rows / episode_rows)
    total = episodes * episode_rows
    path = made_ogbench_path(dataset, total, seed) if out is None else expanded(out)
    if path.name == f"{dataset}-v0.npz":
        raise UserError(f"{path} has the name of OGBench's own file, for which it would be taken; choose another name")
    facts = f"iql made data, recipe {RECIPE}: {dataset}, {episodes} episodes, {total} rows, seed {seed}, {packages}"
    parts = path.with_name(f"{path.name}.parts")
    with writing(path):
        if _is_there(path, facts):
            shutil.rmtree(parts, ignore_errors=True)  # of a process that was killed just before it did this
            return path
        parts.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name(f".{path.name}.lock"), f"another process is making {path}; waiting for it"):
            if _is_there(path, facts):
                return path
            remove_temporaries(path.parent, path.name)  # of killed processes: others would hold the lock
            _record(dataset, episodes, seed, episode_rows, parts, facts)
            replace_file(path, _content([_part(parts, number) for number in range(episodes)], facts))
            shutil.rmtree(parts)
    return path


def _is_there(path: Path, facts: str) -> bool:
    """Whether the file is there. Raises UserError for another file in its place: none is ever overwritten."""
    if not path.exists():
        return False
    problem = None if path.is_dir() else archive_problem(path)
    if path.is_dir() or problem:
        raise UserError(f"{path} {problem or 'is a folder'}; move it away, or give another --out FILE")
    with zipfile.ZipFile(path) as archive:
        found = archive.comment.decode(errors="replace")
    if found != facts:
        raise UserError(
            f"{path} is there but is not what would be made now ({found or 'it does not say how it was made'}); move "
            "it away, or give another --out FILE"
        )
    log.info("%s is already there", path)
    return True


def _record(dataset: str, episodes: int, seed: int, episode_rows: int, parts: Path, facts: str) -> None:
    """Records the episodes that the folder `parts` does not have. Episodes of other facts are deleted first."""
    description = parts / FACTS
    if parts.exists() and (not description.is_file() or description.read_text() != facts):
        log.warning("%s holds episodes that were made otherwise; making them anew", parts)
        shutil.rmtree(parts)
    parts.mkdir(exist_ok=True)
    replace_file(description, facts.encode())
    remove_temporaries(parts)
    missing = [number for number in range(episodes) if not _part(parts, number).exists()]
    if len(missing) < episodes:
        log.info("going on after %d of %d episodes, in %s", episodes - len(missing), episodes, parts)
    recorder = Recorder(dataset, episode_rows)
    progress = _Progress(dataset, episodes, len(missing), episode_rows)
    for number in missing:
        content = io.BytesIO()
        columns: dict[str, Any] = recorder.episode(seed, number)
        np.savez(content, **columns)
        replace_file(_part(parts, number), content.getbuffer())
        progress.episode_is_done()


def _part(parts: Path, number: int) -> Path:
    return parts / f"episode-{number:05d}.npz"


def _content(paths: list[Path], facts: str) -> bytes:
    """The archive of all episodes, with the facts as its comment: another array would be no part of OGBench's layout.

    It is built in memory, so that a full disk is found by one plain write.
    """
    episodes = []
    for path in paths:
        if problem := archive_problem(path):
            raise UserError(f"{path} {problem}; delete it and run the same command again")
        with np.load(path, allow_pickle=False) as file:
            episodes.append(dict(file))
    columns: dict[str, Any] = {name: np.concatenate([of[name] for of in episodes]) for name in episodes[0]}
    content = io.BytesIO()
    np.savez_compressed(content, **columns)
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = facts.encode()
    return content.getvalue()


class _Progress:
    """One line on stderr: on a terminal drawn again after every episode, elsewhere logged every LINE_SECONDS."""

    def __init__(self, name: str, episodes: int, missing: int, episode_rows: int) -> None:
        self._name, self._episodes, self._missing, self._rows = name, episodes, missing, episode_rows
        self._recorded = 0
        self._began = self._shown = time.monotonic()

    def episode_is_done(self) -> None:
        """Shows that one more of the missing episodes is recorded."""
        self._recorded += 1
        now, last = time.monotonic(), self._recorded == self._missing
        done = self._episodes - self._missing + self._recorded
        rate = self._recorded * self._rows / max(now - self._began, 1e-9)
        left = tqdm.format_interval((self._missing - self._recorded) * self._rows / rate)
        line = (
            f"{self._name}: {done:,} of {self._episodes:,} episodes, {done * self._rows:,} rows, {rate:,.0f} rows/s, "
            f"{left} left"
        )
        if sys.stderr.isatty():
            print(f"\r{line}\033[K", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or now - self._shown >= LINE_SECONDS:
            self._shown = now
            log.info(line)
