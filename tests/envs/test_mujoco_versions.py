"""The table of iql.envs.d4rl.mujoco_versions against the recorded steps, on each version of mujoco that it names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mujoco
import pytest

from iql.envs.d4rl.mujoco_versions import MEASURED

ROOT = Path(__file__).parents[2]
TESTS = ("tests/envs/test_physics.py", "tests/envs/test_kitchen.py", "tests/envs/test_antmaze.py")

pytestmark = pytest.mark.versions


@pytest.fixture(scope="session", params=[version for version in MEASURED if version != mujoco.__version__])
def elsewhere(request, tmp_path_factory) -> tuple[str, Path]:
    """Another version of mujoco in a folder of its own, to be found before the installed one."""
    folder = tmp_path_factory.mktemp("mujoco")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:"]
    parts = ["mujoco", *(["mujoco-core"] if request.param.startswith("4.") else [])]  # 4.0 was cut in two
    wheels = [f"{part}=={request.param}" for part in parts]
    done = subprocess.run([*install, "--target", folder, *wheels], capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"mujoco {request.param} has no wheel for this Python")
    assert done.returncode == 0, done.stderr
    return request.param, folder


def test_what_the_table_says_of_a_version_is_what_the_recorded_steps_say(elsewhere):
    version, folder = elsewhere
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    program = "import mujoco, pytest, sys; print(mujoco.__version__); sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-n", "0", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.stdout.startswith(f"{version}\n")
    assert done.returncode == 0, done.stdout
