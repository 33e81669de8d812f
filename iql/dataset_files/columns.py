"""The columns of a data file by this package's names for them, whatever the file calls them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from iql.errors import UserError

Column = Any  # h5py.Dataset or np.ndarray, read on access

KEYS = ("observations", "actions", "rewards", "terminals")
"""The columns that D4RL's layout needs."""

NAMES: dict[str, tuple[str, ...]] = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminals": ("terminals", "terminations", "terminated", "termination", "terminal"),
    "timeouts": ("timeouts", "truncations", "truncated", "truncation", "timeout"),
    "next_observations": ("next_observations",),
}
"""The unambiguous names of each column: D4RL's, then Gymnasium's."""

DONES = ("dones", "done")
"""Columns of ends of both kinds; with one kind on file they give the other, alone they give neither."""

OTHERS: dict[str, tuple[str, ...]] = {
    "observations": ("obs", "observation", "states", "state", "s"),
    "actions": ("act", "acts", "action", "a"),
    "rewards": ("rew", "rews", "reward", "r"),
    "next_observations": ("obs_next", "next_obs", "next_observation", "next_states", "next_state"),
}
"""Other libraries' names, which a message suggests; the user decides whether they mean the same."""

EPISODE_MARK = re.compile(r"(?i)(^|_)(episodes?|traj\w*|paths?|ends?|last|first|starts?|dones?)(_|$)")
"""Names of columns that may mark where episodes begin or end, in a form that is not known here."""

OPTIONAL = ("terminals", "timeouts", "next_observations")
CONCATENATED = ("observations", "actions", "next_observations")


def chosen(file: Mapping[str, Any], source: Path | str, keys: Mapping[str, Any] | None = None) -> dict[str, Column]:
    """The columns of a file by the names of NAMES, those that it has.

    keys: the file's name of a column, a list of parts to concatenate, or None for a column that it does not have;
    columns not in it are found by their usual names. Raises UserError for a column that is needed and
    missing, naming what may stand for it, and for two that contradict each other.
    """
    given = dict(keys or {})
    if unknown := [key for key in given if key not in NAMES]:
        raise UserError(f"env.keys has {', '.join(unknown)}; it may have {', '.join(NAMES)}")
    found: dict[str, Column] = {}
    for key, names in NAMES.items():
        if key in given:
            if given[key] is not None:
                found[key] = _named(file, source, key, given[key])
            elif key not in OPTIONAL:
                raise UserError(f"env.keys: {key} cannot be null, no training goes without it")
        else:
            here = [name for name in names if _is_column(file, name)]
            _agreed(file, source, key, here)
            if here:
                found[key] = file[here[0]]
    _add_from_dones(file, found, given)
    if given.get("terminals", "") is None and "rewards" in found:
        found["terminals"] = np.zeros(len(found["rewards"]), bool)
    if missing := [key for key in KEYS if key not in found]:
        raise UserError(f"{source} {_missing(file, missing, found)}")
    return found


def unused_marks(file: Mapping[str, Any], columns: Mapping[str, Column]) -> list[str]:
    """Columns of a file without timeouts that seem to say where episodes end, and are not looked at."""
    if "timeouts" in columns:
        return []
    rows = columns["rewards"].shape[:1]
    known = {name for names in NAMES.values() for name in names}
    marks = [name for name in file if name not in known and EPISODE_MARK.search(name) and _is_column(file, name)]
    return [name for name in marks if file[name].shape[:1] == rows]


def _named(file: Mapping[str, Any], source: Path | str, key: str, names: Any) -> Column:
    """The column that env.keys names."""
    parts = names if isinstance(names, list | tuple) else [names]
    for name in parts:
        if not _is_column(file, name):
            raise UserError(f"{source} has no {name}, which env.keys names for {key} (this file has {_listed(file)})")
    if not isinstance(names, list | tuple):
        return file[names]
    if key not in CONCATENATED:
        raise UserError(f"env.keys: {key} is one column, not a list")
    arrays = [np.asarray(file[name][...]) for name in parts]
    if odd := [name for name, array in zip(parts, arrays, strict=True) if array.ndim not in (1, 2)]:
        raise UserError(f"{source}: {odd[0]} is {describe(file[odd[0]])} where [rows] or [rows, entries] is needed")
    if len({len(array) for array in arrays}) > 1:
        raise UserError(f"{source}: the parts of {key} disagree in rows: {[len(array) for array in arrays]}")
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _agreed(file: Mapping[str, Any], source: Path | str, key: str, names: list[str]) -> None:
    """Raise UserError where a column is on file under two names and they differ."""
    for name in names[1:]:
        if not np.array_equal(np.ravel(file[names[0]][...]), np.ravel(file[name][...])):
            raise UserError(
                f"{source} has {names[0]} and {name}, which mean the same and differ: say which holds with "
                f"'env.keys={{{key}:{names[0]}}}' or 'env.keys={{{key}:{name}}}'"
            )


def _add_from_dones(file: Mapping[str, Any], found: dict[str, Column], given: Mapping[str, Any]) -> None:
    """Add the kind of end that is not on file, from `dones` and the other kind."""
    done = next((name for name in DONES if _is_column(file, name)), None)
    for known, other in (("terminals", "timeouts"), ("timeouts", "terminals")):
        if done and known in found and other not in found and other not in given and known not in given:
            ends, flags = np.asarray(file[done][...]), np.asarray(found[known][...])
            if ends.size == flags.size:
                found[other] = ends.reshape(-1) * (1 - flags.reshape(-1).astype(np.float32))


def _missing(file: Mapping[str, Any], missing: list[str], found: Mapping[str, Any]) -> str:
    """The message about a file without these columns, to follow its name."""
    groups = _groups_of_columns(file)
    if groups and groups == [next(iter(file))]:
        mapping = ",".join(f"{key}:{groups[0]}/{key}" for key in NAMES if key in file[groups[0]])
        return f"has its columns in the group {groups[0]}: give 'env.keys={{{mapping}}}'"
    if groups:
        return (
            f"holds a group for each episode ({', '.join(groups[:2])}, …), as robomimic's and Minari's files do: "
            "docs/data.md has the few lines that write it as one array a column; a dataset of Minari's is read with "
            "env=minari env.dataset=ID"
        )
    if grouped := {key: parts for key in missing if (parts := _parts(file, key))}:
        key, parts = next(iter(grouped.items()))
        return (
            f"has a group in place of {key}, of {', '.join(parts)}: name those that make up a row, in the order "
            f"that the environment's have, e.g. 'env.keys={{{key}:[{','.join(parts)}]}}'"
        )
    done = next((name for name in DONES if _is_column(file, name)), None)
    if missing == ["terminals"] and done:
        return (
            f"has no terminals, and its {done} do not say whether an episode ended in a terminal state, after which "
            "no reward can come, or was only cut, by a limit of steps; values depend on it: 'env.keys={terminals:"
            f"{done}}}' where all are terminal, 'env.keys={{terminals:null,timeouts:{done}}}' where all are cuts, "
            "else write both columns"
        )
    wanted = [key for key in OTHERS if key not in found]
    guesses = {key: name for key in wanted for name in file if name.lower() in (key, *OTHERS[key])}
    advice = ""
    if guesses.keys() & set(missing):
        mapping = ",".join(f"{key}:{name}" for key, name in guesses.items())
        advice = f"; if its {', '.join(guesses.values())} are meant, give 'env.keys={{{mapping}}}'"
    if len(file) and all(name.startswith("arr_") for name in file):
        advice = "; arrays are saved under their names with numpy.savez(FILE, observations=..., actions=..., ...)"
    return f"has no {', '.join(missing)}: D4RL's layout needs {', '.join(KEYS)} (this file has {_listed(file)}){advice}"


def _is_column(file: Mapping[str, Any], name: str) -> bool:
    return name in file and hasattr(file[name], "dtype")


def _parts(file: Mapping[str, Any], key: str) -> list[str]:
    """The arrays in the group `key`, by their paths: of HDF5, or of names with a slash in an archive."""
    if key in file and not hasattr(file[key], "dtype"):
        return [f"{key}/{name}" for name in _leaves(file[key])]
    return [name for name in file if name.startswith(f"{key}/")]


def _leaves(group: Mapping[str, Any]) -> Iterator[str]:
    for name in group:
        if hasattr(group[name], "dtype"):
            yield name
        else:
            yield from (f"{name}/{leaf}" for leaf in _leaves(group[name]))


def _groups_of_columns(file: Mapping[str, Any]) -> list[str]:
    """The groups of a file that hold columns, usually one group for each episode."""
    found = []
    for name in file:
        if not hasattr(file[name], "dtype"):
            inner = {f"{name}/{each}": file[name][each] for each in file[name]}
            for path, thing in {name: file[name], **inner}.items():
                if not hasattr(thing, "dtype") and _is_column(thing, "actions"):
                    found.append(path)
    return found


def _listed(file: Mapping[str, Any]) -> str:
    return ", ".join(sorted(file)) or "nothing"


def describe(data: Column) -> str:
    """An array's type and shape, for a message."""
    return f"{data.dtype} {list(data.shape)}"
