"""manifest.json, which describes a run: read and checked, as it may be edited, damaged or from somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iql.config.class_names import current
from iql.errors import UserError
from iql.system.atomic_files import read_json

_REQUIRED = {"run": str, "settings": dict, "facts": dict, "lives": list}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a run's directory; None if there is none. Raises UserError for an invalid one."""
    path = directory / "manifest.json"
    manifest = read_json(path)
    if manifest is None and not path.exists():
        return None
    content = manifest if isinstance(manifest, dict) else {}
    wrong = [key for key, kind in _REQUIRED.items() if not isinstance(content.get(key), kind)]
    if not wrong and not all(isinstance(life, dict) for life in content["lives"]):
        wrong = ["lives"]
    if wrong:
        raise UserError(
            f"{path}: is no manifest of a run (wrong or missing: {', '.join(wrong)}); put the right one back, or "
            "delete the run's directory to train it anew"
        )
    return {**content, "settings": current(content["settings"])}
