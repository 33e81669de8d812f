"""The wheel works by itself: installed without the checkout, its commands run from any folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT, SMALL

pytestmark = pytest.mark.slow

BUILT_FROM = ("iql", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE")
OWN_TASK = "defaults:\n  - maze2d-umaze-made\n  - _self_\n\nname: my-maze\nmade_rows: 3000\n"


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def copied(folder: Path) -> Path:
    """A copy of what the package is built from, so that no build leaves anything in the checkout."""
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def installed(folder: Path, *package: str) -> Path:
    """The folder of the commands of a new environment, which has this one's libraries and `package`."""
    venv.create(folder, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    # In a folder that a .pth file names no other .pth file is read, so an editable iql of this environment is not seen.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(paths["purelib"]) / "libraries.pth").write_text("".join(f"{path}\n" for path in sorted(libraries)))
    into = ("--python", str(folder / "bin/python"), "install", "--no-deps", "--no-index", "--no-build-isolation")
    subprocess.run([*PIP, *into, *package], check=True, capture_output=True, timeout=200)
    return Path(paths["scripts"])


def configuration_folder(programs: Path, folder: Path) -> Path:
    """The folder of configurations that an environment's iql reads, asked from another folder."""
    code = "import iql.config.folders as folders; print(folders.CONF)"
    command = [str(programs / "python"), "-c", code]
    return Path(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip())


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment with iql from a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copied(folder)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=200)
    (wheel,) = folder.glob("iql-*.whl")
    return installed(folder / "venv", str(wheel))


@pytest.fixture
def run(programs, environment, tmp_path, monkeypatch):
    """Runs an installed command in an empty folder; returns what it prints."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    own = {key: value for key, value in environment.items() if key != "PYTHONPATH"}

    def result(name: str, *arguments: str, code: int = 0) -> str:
        command = [str(programs / f"iql-{name}"), *arguments]
        done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        assert str(ROOT) not in done.stdout + done.stderr
        return done.stdout + done.stderr

    return result


def test_a_wheel_brings_its_configuration(programs, tmp_path):
    folder = configuration_folder(programs, tmp_path)
    assert folder.is_relative_to(programs.parent) and folder.parts[-2:] == ("iql", "conf")
    configured, ours = ({path.relative_to(top) for path in top.rglob("*.yaml")} for top in (folder, ROOT / "conf"))
    assert configured == ours


def test_an_editable_install_reads_the_configuration_of_its_checkout(tmp_path):
    (tmp_path / "checkout").mkdir()
    source = copied(tmp_path / "checkout")
    programs = installed(tmp_path / "venv", "--editable", str(source))
    assert configuration_folder(programs, tmp_path) == source / "conf"


def test_a_run_is_trained_reported_and_refused_in_an_empty_folder(run):
    run("train", *SMALL)
    (summary,) = Path("runs").rglob("summary.json")
    assert json.loads(summary.read_text())["updates"] == 60
    manifest = json.loads(summary.with_name("manifest.json").read_text())
    assert manifest["git"] is None
    assert "1 done" in run("status", "runs/single")
    assert "maze2d-umaze-made" in run("report", "runs", "--out", "report.html", "report.md")
    assert Path("report.html").stat().st_size > 100_000
    assert run("train", "env=hoper-medium-v2", code=1).startswith("iql-train: env=hoper-medium-v2: no such option")
    assert "iql-fetch --list" in run("fetch", "nothing-like-it", code=1)
    for name in ("export", "evaluate", "report"):
        assert f"iql-{name} " in run(name, "--help") and "python" not in run(name, "--help")
    assert "not in the cache: hopper-medium-v2" in run("sweep", "env=hopper-medium-v2", "--dry-run")


def test_the_jobs_of_a_sweep_run_a_copy_of_the_installed_package(run):
    Path("my_conf/env").mkdir(parents=True)
    Path("my_conf/env/my-maze.yaml").write_text(OWN_TASK)
    own = [word for word in SMALL if not word.startswith("env")]
    assert "my-maze" in run("train", "--config-dir", "my_conf", "env=my-maze", *own)
    run("sweep", "--config-dir", "my_conf", "env=my-maze", *own, "seed=0,1", "sweep.name=it")
    assert "2 done" in run("status", "runs/it", "--watch", "--every", "0.5")
    (code,) = Path("runs/it/.sweep/code").iterdir()
    assert {path.name for path in code.iterdir()} == {"git.json", "iql"}
    for manifest in Path("runs/it").rglob("manifest.json"):
        (attempt,) = json.loads(manifest.read_text())["lives"]
        assert Path(attempt["command"][0]).is_relative_to(code.resolve())
