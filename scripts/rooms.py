"""Print the rooms of iql/ from top to bottom, how many modules each has, and which rooms below it each imports.

python scripts/rooms.py

An import upwards, or between rooms that stand side by side, is printed with its modules, and the exit code is 1.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import grimp
import tomllib

ROOT = Path(__file__).resolve().parent.parent


def levels() -> list[list[str]]:
    """The rooms by level, the highest first, as pyproject.toml gives them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [level.split(" | ") for level in settings["contracts"][0]["layers"]]


def main() -> int:
    graph = grimp.build_graph("iql", cache_dir=None)
    level_of = {room: number for number, level in enumerate(levels()) for room in level}
    imports: dict[str, set[str]] = {room: set() for room in level_of}
    wrong = []
    for module in sorted(graph.modules - {"iql"}):
        for imported in sorted(graph.find_modules_directly_imported_by(module) - {"iql"}):
            room, other = module.split(".")[1], imported.split(".")[1]
            if room == other:
                continue
            imports[room].add(other)
            if level_of[other] <= level_of[room]:
                wrong.append(f"{module} imports {imported}")
    for room, number in level_of.items():
        modules = [module for module in graph.modules if module.startswith(f"iql.{room}.")] or [room]
        sentence = (importlib.import_module(f"iql.{room}").__doc__ or "").partition("\n")[0]
        below = ", ".join(sorted(imports[room], key=lambda other: level_of[other]))
        print(f"{number + 1:2d} {room:14s} {len(modules):3d}  {sentence}")
        print(f"{'':22s}imports {below or 'nothing'}")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
