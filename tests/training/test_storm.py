"""A small storm of kills and failing calls (storm.py); the whole one is a command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).parents[1] / "storm.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a minute or two, and much more where others keep the cores busy
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, for sessions in /proc and LD_PRELOAD")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, for calls that fail")
def test_runs_equal_their_undisturbed_twins(tmp_path):
    command = [sys.executable, str(STORM), "--kills", "12", "--failures", "6", "--folder", str(tmp_path)]
    storm = subprocess.run(command, capture_output=True, text=True, timeout=1150)
    assert storm.returncode == 0, storm.stdout + storm.stderr
    assert storm.stdout.splitlines()[-1].endswith("every run equals its undisturbed twin")
