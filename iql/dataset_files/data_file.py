"""Reads a data file of any known format, with any known names for its columns, into rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iql.dataset_files import formats, hdf5, npz, row_order, rows
from iql.dataset_files.columns import OTHERS, Column, chosen, unused_marks
from iql.dataset_files.rows import Rows
from iql.errors import UserError

log = logging.getLogger(__name__)

SUCCESSORS = ("row", "file")


def read(
    path: Path, horizon: int | None, keys: Mapping[str, Any] | None = None, next_observations: str | None = None
) -> Rows:
    """The rows of an HDF5 file or a NumPy archive in D4RL's layout, or of an archive in OGBench's.

    horizon  where the file has no timeouts: steps after which an episode is cut, None if it never is
    keys     iql.dataset_files.columns.chosen
    next_observations  "row": the next row is the successor, as D4RL takes it, and Rows.contradicted says where the
             file's own is another; "file": the file's own, by which its rows are rearranged; None: the next row,
             and the file's own are ignored

    Raises UserError naming the file and what is wrong in it.
    """
    if next_observations not in (None, *SUCCESSORS):
        raise UserError(f"env.next_observations={next_observations} is not known; use {' or '.join(SUCCESSORS)}")
    archive = formats.of(path) == "npz"
    with npz.opened(path) if archive else hdf5.opened(path) as file:
        if archive and "masks" in file:
            return _ogbench(file, path, keys)
        if archive and _is_raw_ogbench(file, keys):
            raise UserError(
                f"{path} has no rewards, as OGBench's files come: env=ogbench env.dataset=ENV-DATA-singletask-taskN-v0 "
                f"env.path={path.name} gives them a task's; or save observations, actions, terminals, rewards and "
                "masks with numpy.savez"
            )
        columns = chosen(file, path, keys)
        for mark in unused_marks(file, columns) if next_observations == "row" and horizon is None else ():
            log.warning(
                "%s: its %s is ignored; where it says what episode a row is of or where one ends, write timeouts "
                "(1 in the last row of an episode), or give env.horizon=STEPS",
                path,
                mark,
            )
        if next_observations == "file":
            if "next_observations" not in columns:
                raise UserError(f"{path} has no next_observations, which env.next_observations=file asks for")
            return row_order.arranged(rows.take(columns, path, None), columns, path)
        taken = rows.take(columns, path, horizon)
        if next_observations is None or "next_observations" not in columns:
            return taken
        return row_order.compared(taken, columns)


def _ogbench(file: Mapping[str, Column], path: Path, keys: Mapping[str, Any] | None) -> Rows:
    """Rows of OGBench's layout: a row's mask is 0 where the task ends, its terminals mark where a trajectory does.

    Three forms are known. The original file's: terminals mark the last state of a trajectory, whose action has no
    successor. ogbench.load_dataset's: with `next_observations`, terminals mark the last step. Its compact one:
    `valids` is 0 at the last state.
    """
    extra = {key: file[key] for key in ("masks", "valids") if key in file}
    columns = chosen(file, path, keys) | extra
    rows.require(columns, columns, path)
    ends = rows.flags(columns["terminals"], "terminals", path)
    terminals = ~rows.flags(columns["masks"], "masks", path)
    if "next_observations" in columns:
        timeouts = ends & ~terminals
    else:
        timeouts = ~rows.flags(columns["valids"], "valids", path) if "valids" in columns else ends
    taken = Rows(
        rows.table(columns["observations"], "observations", path),
        rows.actions(columns["actions"], path),
        rows.column(columns["rewards"], "rewards", path),
        terminals,
        timeouts,
    )
    return row_order.arranged(taken, columns, path) if "next_observations" in columns else taken


def _is_raw_ogbench(file: Mapping[str, Column], keys: Mapping[str, Any] | None) -> bool:
    """Whether an archive has the columns of OGBench's published files, which have no rewards."""
    return all(key in file for key in ("observations", "actions", "terminals")) and not any(
        name in file or name in (keys or {}) for name in ("rewards", *OTHERS["rewards"])
    )
