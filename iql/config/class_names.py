"""Classes that have moved: run directories and policies of earlier versions name them by their old places."""

from __future__ import annotations

from typing import Any

MOVED = {
    "iql.learner.IQL": "iql.algorithms.iql.IQL",
    "iql.networks.Value": "iql.networks.critics.Value",
    "iql.networks.TwinQ": "iql.networks.critics.TwinQ",
    "iql.networks.Policy": "iql.networks.actors.Policy",
    "iql.tasks.made.MadeMaze2d": "iql.tasks.generated.MadeMaze2d",
    "iql.tasks.custom.FileTask": "iql.tasks.file.FileTask",
}
"""Place in version 0.1 → place today. A class that moves again keeps its key here: runs are named by it."""

_ORIGINAL = {today: old for old, today in MOVED.items()}


def current(value: Any) -> Any:
    """A value of a configuration with each `_target_` in it, at any depth, as the class is named today."""
    if isinstance(value, dict):
        return {
            key: MOVED.get(part, part) if key == "_target_" and isinstance(part, str) else current(part)
            for key, part in value.items()
        }
    return [current(part) for part in value] if isinstance(value, list) else value


def original(name: Any) -> Any:
    """The name by which a class enters the hash of a run's configuration: that of its first place."""
    return _ORIGINAL.get(name, name) if isinstance(name, str) else name
