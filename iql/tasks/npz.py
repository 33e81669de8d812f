"""Rows of a NumPy archive: D4RL's layout, or OGBench's with its rewards and masks."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from iql.errors import UserError
from iql.tasks import rows
from iql.tasks.rows import KEYS, Rows


def complaint(path: Path) -> str | None:
    """What keeps a file from opening as a NumPy archive, to be read after its name; None if nothing does."""
    if not path.stat().st_size:
        return "is empty"
    return None if zipfile.is_zipfile(path) else "is not a NumPy archive (.npz), or is cut short"


def read(path: Path, horizon: int | None) -> Rows:
    """The rows of `path`. Raises UserError naming the file and what is wrong in it.

    With `masks` it is read as OGBench's: a row's mask is 0 where the task ends (its terminals mark where a
    trajectory does). Three forms are known. The file's own: terminals mark the last state of a trajectory,
    whose action leads nowhere. ogbench.load_dataset's: with `next_observations`, terminals mark the last
    step. Its compact one: `valids` is 0 at the last state. Otherwise it is read as D4RL's.
    """
    if problem := complaint(path):
        raise UserError(f"{path} {problem}; get it again, or give another with env.path=FILE")
    try:
        with np.load(path, allow_pickle=False) as file:
            return _rows(file, path, horizon)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or holds more than arrays of numbers ({error}); get it again") from error


def _rows(file: Mapping[str, np.ndarray], path: Path, horizon: int | None) -> Rows:
    if "rewards" not in file and "observations" in file:
        raise UserError(
            f"{path} has no rewards, as OGBench's files come: give them a task's with ogbench's relabel_dataset "
            "and save observations, actions, terminals, rewards and masks with numpy.savez"
        )
    if "masks" not in file:
        return rows.take(file, path, horizon)
    extra = [key for key in ("masks", "valids", "next_observations") if key in file]
    columns = {key: file[key] for key in [*KEYS, *extra] if key in file}  # an archive reads anew at each look
    rows.require(columns, [*KEYS, *extra], path)
    ends = rows.flags(columns["terminals"], "terminals", path)
    terminals = ~rows.flags(columns["masks"], "masks", path)
    observations = rows.table(columns["observations"], "observations", path)
    actions = rows.table(columns["actions"], "actions", path)
    rewards = rows.column(columns["rewards"], "rewards", path)
    if "next_observations" not in columns:
        timeouts = ~rows.flags(columns["valids"], "valids", path) if "valids" in columns else ends
        return Rows(observations, actions, rewards, terminals, timeouts)
    successors = rows.table(columns["next_observations"], "next_observations", path)
    if successors.shape != observations.shape:
        wrong, right = list(successors.shape), list(observations.shape)
        raise UserError(f"{path}: next_observations is {wrong} where {right} is needed, as observations are")
    # A trajectory's last step is followed by a row for what it led to, unless the task ends there; so is the last
    # step of all, since no transition starts from a last row.
    cut = ends & ~terminals
    cut[-1] = True
    needing = np.flatnonzero(cut) + 1
    timeouts = np.zeros(len(ends), bool)
    return Rows(
        np.insert(observations, needing, successors[needing - 1], axis=0),
        np.insert(actions, needing, 0.0, axis=0),
        np.insert(rewards, needing, 0.0),
        np.insert(terminals, needing, False),
        np.insert(timeouts, needing, ~terminals[needing - 1]),
    )
