"""The folders that configurations are read from: this project's conf/, and those that a user adds with --config-dir."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from iql.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package iql."""

INSTALLED = (PACKAGE / "conf").is_dir()
"""Whether iql comes from a wheel, which brings conf/ within the package. In a checkout conf/ lies beside it."""

CONF = (PACKAGE if INSTALLED else PACKAGE.parent) / "conf"
"""The folder of this project's config.yaml."""

_added: list[Path] = []


class AddedFolders(SearchPathPlugin):
    """Lets Hydra search the added folders too, whichever way a configuration is composed."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in _added:
            search_path.append("command-line", f"file://{folder}")


def add(folder: Path) -> None:
    """Search a user's folder too from now on, after conf/, as Hydra's --config-dir does. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder")
    _added.append(folder.resolve())
    Plugins.instance().register(AddedFolders)


def searched() -> list[Path]:
    """All the folders, in the order of Hydra's search."""
    return [CONF, *_added]
