"""manifest.json: what a run is, read and checked; it may have been edited, damaged or written by somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iql.errors import UserError
from iql.storage import read_json

_NEEDED = {"run": str, "settings": dict, "facts": dict, "lives": list}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a run's directory; None where there is none. Raises UserError for what is no manifest."""
    path = directory / "manifest.json"
    manifest = read_json(path)
    if manifest is None and not path.exists():
        return None
    content = manifest if isinstance(manifest, dict) else {}
    wrong = [key for key, kind in _NEEDED.items() if not isinstance(content.get(key), kind)]
    if not wrong and not all(isinstance(life, dict) for life in content["lives"]):
        wrong = ["lives"]
    if wrong:
        raise UserError(
            f"{path}: is no manifest of a run (wrong or missing: {', '.join(wrong)}); put the right one back, or "
            "delete the run's directory to train it anew"
        )
    return content
