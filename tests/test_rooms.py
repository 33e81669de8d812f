"""The structure of the package: rooms of few modules, imports that go one way, tests that mirror them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = sorted(path.parent for path in (ROOT / "iql").rglob("__init__.py") if path.parent != ROOT / "iql")


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: ".".join(path.relative_to(ROOT).parts))
def test_a_room_has_at_most_twelve_modules_and_says_what_it_is_for(room):
    assert len(list(room.glob("*.py"))) - 1 <= 12
    module = importlib.import_module(".".join(room.relative_to(ROOT).parts))
    assert module.__doc__ and "import" in module.__doc__


def test_imports_go_one_way_and_in_no_circle():
    """The contracts of pyproject.toml; what it prints names the modules that break one."""
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as command; command()"]
    done = subprocess.run([*lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = subprocess.run([sys.executable, "scripts/rooms.py"], cwd=ROOT, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert "learner" in drawn.stdout


def test_tests_lie_in_folders_of_the_rooms_names():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - {"entry_points"} <= {room.name for room in ROOMS}
