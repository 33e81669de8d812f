"""Checks of a Minari dataset of unknown origin: its metadata may name only environments that Gymnasium knows."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py

from iql.dataset_files.hdf5_safety import check_links
from iql.errors import UserError
from iql.system.size_limits import check_memory

_FARAMA = re.compile(r"gymnasium(_robotics)?\.envs\.[\w.]+:[A-Z]\w*")
"""Environment classes of Gymnasium and Gymnasium-Robotics."""

SPECS = ("env_spec", "eval_env_spec")
HOW = "if you trust whoever made it, give env.trust=true (evaluate.py and export.py: --trust)"


def check_folder(folder: Path, trust: bool) -> None:
    """Raise UserError for a dataset whose files refer to others, or that names code which opening it would run.

    Minari makes the recorded environment where the metadata does not give the spaces.
    """
    if not (folder / "metadata.json").exists():
        return  # no dataset: Minari raises an error with the details
    metadata = metadata_of(folder)
    if not trust and not {"observation_space", "action_space"} <= metadata.keys():
        check_environment(metadata, folder)
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UserError(f"{path} is a link; put the file itself there")
        if path.suffix == ".hdf5":
            with contextlib.suppress(OSError), h5py.File(path, "r", locking=False) as file:  # Minari reports damage
                for name, size in check_links(file, path).items():  # Minari reads them one by one
                    check_memory(size, f"{path}: {name}")


def check_environment(metadata: dict[str, Any], folder: Path) -> None:
    """Raise UserError for an environment of a class that is neither Gymnasium's nor registered here, or is wrapped."""
    known = {spec.entry_point for spec in gymnasium.registry.values() if isinstance(spec.entry_point, str)}
    for name in SPECS:
        spec = metadata.get(name)
        for target in _named(spec, folder) if spec is not None else ():
            if target not in known and not _FARAMA.fullmatch(target):
                raise UserError(f"{folder}/metadata.json: its {name} would run {target}, not known here; {HOW}")


def metadata_of(folder: Path) -> dict[str, Any]:
    """The content of metadata.json. Raises UserError."""
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); get the dataset again") from error
    if not isinstance(metadata, dict):
        raise UserError(f"{path} is not the metadata of a dataset; get it again")
    return metadata


def _named(spec: Any, folder: Path) -> Iterator[str]:
    """Every class that gymnasium.make would import for a recorded environment."""
    try:
        content = json.loads(spec)
        yield str(content["entry_point"])
        if content.get("vector_entry_point"):
            yield str(content["vector_entry_point"])
        for wrapper in content.get("additional_wrappers") or ():
            yield str(wrapper["entry_point"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}/metadata.json: its environment cannot be read ({error}); get it again") from error
