"""Names and folders of any kind in reports and job scripts: LaTeX, Markdown, spreadsheets, shells, links."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from iql.commands import status
from iql.errors import UserError
from iql.launching.slurm import SlurmLauncher
from iql.reporting.run_records import _directories
from iql.reporting.tables.comma_separated import no_formula
from iql.reporting.tables.latex import escaped
from iql.reporting.tables.markdown import piped
from iql.training.signals import Stopped, hand_over


def test_latex_escapes_every_character_of_a_caption():
    assert escaped("50 % of a_b & {c} ~^<>$#") == (r"50 \% of a\_b \& \{c\} \~{}\^{}\textless{}\textgreater{}\$\#")


def test_a_bar_in_a_name_adds_no_column_to_markdown():
    table = piped(["task", "mean"], [["a|b", "1.0"]], left=["task"])
    assert table.splitlines()[-1].replace("\\|", "").count("|") == 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a"])
def test_a_name_does_not_become_a_formula_in_a_spreadsheet(text):
    assert no_formula(text) == f"'{text}"
    assert no_formula(-1.5) == -1.5


def test_links_neither_duplicate_runs_nor_cause_endless_recursion(tmp_path: Path):
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    for folder in (runs / "a", elsewhere / "b"):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    for link, place in ((runs / "latest", "."), (runs / "same", "a"), (runs / "up", ".."), (runs / "other", elsewhere)):
        link.symlink_to(place)
    (elsewhere / "around").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(runs)
    assert list(_directories(runs)) == [runs / "a", runs / "other" / "b"]
    (tmp_path / "link").symlink_to(runs)
    assert len(list(_directories(tmp_path / "link"))) == 2


def test_a_job_starts_in_a_folder_with_quotes_and_spaces(tmp_path: Path):
    code = tmp_path / "it's $HOME here"
    code.mkdir()
    launcher = SimpleNamespace(asked={"memory_gb": 1}, parallel=1, warning_seconds=1, setup=[], sbatch={})
    (line,) = SlurmLauncher._parameters(cast(Any, launcher), "name", str(code))["setup"]
    shown = subprocess.run(["bash", "-c", f'{line} && pwd && echo "$PYTHONPATH"'], capture_output=True, text=True)
    assert [line.split(os.pathsep)[0] for line in shown.stdout.splitlines()] == [str(code)] * 2


def test_a_stop_without_a_signal_has_a_message_too():
    assert str(Stopped(0, 7)) == "stopped after update 7, all saved"
    assert str(Stopped(signal.SIGTERM, 7)) == "stopped by SIGTERM after update 7, all saved"
    assert hand_over(0) == 1


@pytest.mark.parametrize("every", [0.0, -1.0])
def test_watching_every_zero_seconds_is_refused(tmp_path: Path, every: float):
    with pytest.raises(UserError, match="must be above 0"):
        status.follow(argparse.Namespace(every=every, sweep=tmp_path))
