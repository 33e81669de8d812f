"""D4RL's original stack (gym, mujoco-py, d4rl on MuJoCo 2.1.0): set it up, and hold our simulators against it.

    python scripts/legacy.py setup                    # makes .venv-legacy, which env.physics=legacy then uses
    python scripts/legacy.py compare [NAME...]        # one step, and 100 episodes, in both
    python scripts/legacy.py clone NAME --data FILE   # the policy that compare plays, from recorded actions
    python scripts/legacy.py search NAME              # the same by random search, where nothing is recorded

docs/legacy.md has what they printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from legacy_comparison import IDS, SLOTS, compare  # noqa: E402
from legacy_policies import SEARCHED, clone, search  # noqa: E402

from iql.commands.exit_codes import exit_code_of  # noqa: E402
from iql.envs.legacy import client  # noqa: E402
from iql.errors import UserError  # noqa: E402

MUJOCO_WHEEL = "free-mujoco-py==2.1.6"
"""Brings MuJoCo 2.1.0; its Python code is not used, since it declares itself for Python < 3.11 only."""

NOT_IMPORTED = "dm-control"
"""In the extra so that pip finds versions that go together; d4rl declares it, with pybullet, and does without."""


def requirements() -> list[str]:
    """The extra `legacy` of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r"^legacy = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return re.findall(r'^\s*"(.+)",', found[1], re.MULTILINE)


def setup(options: argparse.Namespace) -> None:
    """Make the virtual environment, or complete one; every step may be repeated."""
    _check_tools()
    venv: Path = options.venv.resolve()
    python = venv / "bin/python"
    if not python.exists():
        _run([options.python, "-m", "venv", str(venv)])
    wanted = [one for one in requirements() if not one.startswith(NOT_IMPORTED)]
    d4rl = next(one for one in wanted if one.startswith("d4rl"))
    _pip(python, "install", *(one for one in wanted if one != d4rl))
    _pip(python, "install", "--no-deps", d4rl)
    if not (venv / "mujoco210").exists():
        _fetch_mujoco(python, venv)
    os.environ["IQL_LEGACY_PYTHON"] = str(python)
    client.LegacyEnvs("hopper-medium-v2", 1, 1000, 11, 3).close()
    print(", ".join(f"{name} {version}" for name, version in client.facts().items() if name != "physics"))
    if venv == client.VENV:
        print("env.physics=legacy is ready")
    else:
        print(f"env.physics=legacy is ready with IQL_LEGACY_PYTHON={python}")


def _check_tools() -> None:
    if sys.platform != "linux":
        raise UserError(f"the old stack is set up on Linux only, and this is {sys.platform}")
    lacking = "" if shutil.which("gcc") else "gcc"
    if not lacking:
        header = subprocess.run(
            ["gcc", "-E", "-"], input="#include <GL/osmesa.h>", text=True, capture_output=True, check=False
        )
        lacking = "" if header.returncode == 0 else "OSMesa's headers"
    if lacking:
        raise UserError(
            f"mujoco-py cannot be compiled without {lacking}: `apt-get install gcc libosmesa6-dev libgl1-mesa-dev` "
            "or what your system has for it"
        )


def _fetch_mujoco(python: Path, venv: Path) -> None:
    with tempfile.TemporaryDirectory(dir=venv) as folder:
        _pip(python, "download", "--no-deps", "--ignore-requires-python", "--dest", folder, MUJOCO_WHEEL)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            inside = "mujoco_py/binaries/linux/mujoco210/"
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith(inside)])
        (Path(folder) / inside).rename(venv / "mujoco210")


def _pip(python: Path, *arguments: str) -> None:
    _run([str(python), "-m", "pip", "--disable-pip-version-check", *arguments])


def _run(command: list[str]) -> None:
    print("+", " ".join(command), flush=True)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UserError(f"`{' '.join(command)}` failed: {(lines or ['it said nothing'])[-1]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="setup|compare|clone|search")
    making = commands.add_parser("setup", help="make the old stack's virtual environment")
    making.add_argument("--venv", type=Path, default=client.VENV, help="where (default: %(default)s)")
    making.add_argument("--python", default=sys.executable, help="Python 3.10 to 3.12 to make it with (default: this)")
    making.set_defaults(command=setup)
    comparing = commands.add_parser("compare", help="hold our simulators against the old stack")
    comparing.add_argument("names", nargs="*", default=list(IDS), metavar="NAME", help=f"of {', '.join(IDS)}")
    comparing.add_argument("--policy", type=Path, help="play this instead of docs/legacy/NAME.npz")
    comparing.add_argument("--episodes", type=int, default=100, help=f"a multiple of {SLOTS} (default: %(default)s)")
    comparing.add_argument("--steps", type=int, default=2000, help="single steps (default: %(default)s)")
    comparing.set_defaults(command=compare)
    cloning = commands.add_parser("clone", help="make a policy from recorded actions")
    cloning.add_argument("name", choices=IDS)
    cloning.add_argument(
        "--data", type=Path, required=True, help="HDF5 in D4RL's layout, or NPZ with qpos, qvel, action"
    )
    cloning.add_argument("--updates", type=int, default=20_000)
    cloning.set_defaults(command=clone)
    searching = commands.add_parser("search", help="make a policy by random search")
    searching.add_argument("name", choices=[name for name in IDS if name in SEARCHED])
    searching.add_argument("--trials", type=int, default=300)
    searching.set_defaults(command=search)
    options = parser.parse_args()
    return exit_code_of(lambda: options.command(options))


if __name__ == "__main__":
    sys.exit(main())
