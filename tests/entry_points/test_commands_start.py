"""Every command can be started by its script and by its installed name; Ctrl-C during its imports ends it silently."""

from __future__ import annotations

import os
import pkgutil
import re
import signal
import sys
from pathlib import Path

import commands
import pytest
from conftest import ROOT

from iql.commands import train, usage
from iql.config import trust
from iql.launching import plan

SCRIPTS = {path.stem: path for path in (ROOT / "train.py", ROOT / "sweep.py", *sorted((ROOT / "scripts").glob("*.py")))}
INSTALLED = dict(re.findall(r'^iql-(\w+) = "iql\.commands\.entry:(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.M))
DEVELOPERS = ("benchmark", "benchmark_reports", "benchmark_sweeps", "legacy")
EACH = pytest.mark.parametrize("name", INSTALLED)
# What a console script of pip's does.
CONSOLE_SCRIPT = """
import sys
sys.argv[0] = "/bin/iql-{name}"
from iql.commands.entry import {name}
sys.exit({name}())
"""
INTERRUPTING = """
import importlib.abc, os, signal
class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == 'iql.config.folders':
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
"""


def output(command: list[str], folder: Path) -> commands.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return commands.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def test_every_command_has_a_script_and_an_installed_name():
    modules = {path.stem for path in (ROOT / "iql" / "commands").glob("*.py")}
    assert set(INSTALLED) == modules - {"__init__", "entry", "exit_codes", "usage"}
    assert all(name == function for name, function in INSTALLED.items())
    assert set(INSTALLED) <= set(SCRIPTS)
    for name in INSTALLED:
        assert f"entry.{name}()" in SCRIPTS[name].read_text()


@pytest.mark.parametrize("name", [*INSTALLED, *DEVELOPERS])
def test_a_script_answers_help(name, tmp_path):
    done = output([sys.executable, str(SCRIPTS[name]), "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Implicit Q-Learning" if name == "train" else f"usage: {name}.py ")
    assert list(tmp_path.iterdir()) == []


@EACH
def test_an_installed_command_answers_help(name, tmp_path):
    done = output([sys.executable, "-c", CONSOLE_SCRIPT.format(name=name), "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Implicit Q-Learning" if name == "train" else f"usage: iql-{name} ")


def test_an_error_begins_with_the_name_that_was_typed(tmp_path):
    for command, script in (
        ([sys.executable, str(ROOT / "train.py")], "train.py"),
        ([sys.executable, "-c", CONSOLE_SCRIPT.format(name="train")], "iql-train"),
        ([sys.executable, str(ROOT / "sweep.py")], "sweep.py"),
        ([sys.executable, "-c", CONSOLE_SCRIPT.format(name="sweep")], "iql-sweep"),
    ):
        done = output([*command, "env=hoper-medium-v2"], tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{script}: env=hoper-medium-v2: no such option")
        assert len(done.stderr.splitlines()) == 1


@EACH
def test_ctrl_c_while_a_command_is_imported_ends_it_without_a_traceback(name, tmp_path):
    code = f"import runpy, sys\n{INTERRUPTING}\nsys.path.insert(0, {str(ROOT)!r})\n"
    code += f"runpy.run_path({str(SCRIPTS[name])!r}, run_name='__main__')"
    interrupted = output([sys.executable, "-c", code], tmp_path)
    assert interrupted.returncode == -signal.SIGINT
    assert interrupted.stderr == ""


@pytest.mark.parametrize("script", ["train.py", "sweep.py"])
def test_a_folder_of_the_users_own_adds_a_task(script, tmp_path):
    (tmp_path / "mine" / "env").mkdir(parents=True)
    own = "defaults:\n  - maze2d-umaze-made\n  - _self_\n\nname: my-maze\nmade_rows: 3000\n"
    (tmp_path / "mine" / "env" / "my-maze.yaml").write_text(own)
    asked = ["--cfg", "job", "--resolve"] if script == "train.py" else ["--dry-run"]
    command = [sys.executable, str(ROOT / script), "--config-dir", "mine", "env=my-maze", *asked]
    done = output(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "my-maze" in done.stdout
    refused = output([sys.executable, str(ROOT / script), "--config-dir", "missing", "env=my-maze"], tmp_path)
    assert refused.returncode == 1
    assert re.match(rf"{script}: --config-dir.*missing", refused.stderr)
    assert len(refused.stderr.splitlines()) == 1


def test_jobs_of_earlier_versions_call_the_same_function():
    assert trust.entry_point("train:job", "jobs.jsonl") == trust.entry_point(plan.ENTRY, "jobs.jsonl") == plan.ENTRY
    assert pkgutil.resolve_name(plan.ENTRY) is train.job


def test_where_there_is_no_checkout_the_installed_commands_are_named(monkeypatch):
    text = "python scripts/fetch.py --list, python train.py, python scripts/legacy.py setup, pip install -e '.[video]'"
    assert usage.usage(text) == text
    monkeypatch.setattr(usage, "INSTALLED", True)
    assert usage.usage(text) == "iql-fetch --list, iql-train, python scripts/legacy.py setup, pip install 'iql[video]'"
