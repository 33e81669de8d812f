"""The benchmark script: its figures hang together, its options are checked. No figure is held to a clock."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path

import commands
import pytest
import torch
from conftest import ROOT

from iql.execution import native_library
from iql.execution.devices import has_bf16

SMALL = ("--sizes", "5,2", "--hidden", "16,16", "--batch", "32", "--rows", "2000", "--seconds", "0.05")


def benchmark(folder: Path, *arguments: str) -> commands.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *arguments]
    return commands.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def path_of(precision: str) -> str:
    """The fastest that this machine has."""
    try:
        library = native_library.load()
    except native_library.Unavailable:
        return "fused"
    return "native" if precision == "float32" or library.has_bf16() else "fused"


def test_it_prints_a_table_and_writes_its_figures(tmp_path):
    options = ("--packs", "1,3", "--threads", "1,2", "--only", "speed,costs", "--out", "figures.json")
    result = benchmark(tmp_path, *SMALL, *options)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    asked = [(row["precision"], row["threads"], row["pack"]) for row in figures["speed"] if row["build"] == "native"]
    kinds = ["float32"] + ["bf16"] * has_bf16(torch.device("cpu"))
    assert asked == [(kind, t, pack) for kind in kinds for t in (1, 2) for pack in (1, 3)]
    for row in (row for row in figures["speed"] if row["build"] == "native"):
        assert row["fraction"] == pytest.approx(row["updates_per_second"] / row["limit"], abs=1e-3)
        assert (row["path"], row["device"]) == (path_of(row["precision"]), "cpu")
        assert f"| {row['updates_per_second']} |" in result.stdout
    assert {"checkpoint, ms", "sampling, µs an update", "loading 2,000 rows (gzip), s"} <= figures["costs"].keys()
    assert figures["machine"]["cores"] >= 1


SHORT_SCALING = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "scripts")!r}]
from benchmark import command_line, scaling
for name, (label, values) in scaling.SCALING.items():
    scaling.SCALING[name] = label, (1000, 2000) if name == "rows" else values[:2]
sys.exit(command_line.main())
"""


def test_the_scaling_is_drawn(tmp_path):
    options = ("--threads", "1", "--only", "scaling", "--plot", "scaling.png")
    command = [sys.executable, "-c", SHORT_SCALING, *SMALL, *options]
    result = commands.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "benchmark.json").read_text())["scaling"]
    assert [row["what"] for row in rows] == ["pack", "pack", "hidden", "hidden", "batch", "batch", "rows", "rows"]
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(shutil.which("cc") is None or platform.machine() != "x86_64", reason="needs cc for x86-64")
def test_it_measures_builds_for_less_than_the_cpu_has(tmp_path):
    options = ("--packs", "1", "--threads", "1", "--precisions", "float32", "--only", "speed")
    result = benchmark(tmp_path, *SMALL, *options, "--builds", "native,x86-64")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "benchmark.json").read_text())["speed"]
    assert [(row["build"], row["path"]) for row in rows] == [("native", "native"), ("x86-64", "native")]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--only", "sped"), "--only knows speed"),
        (("--builds", "avx3"), "--builds knows native"),
        (("--sizes", "11"), "--sizes takes two"),
        (("--packs", "0"), ">= 1"),
        (("--packs", "x"), "invalid comma-separated list"),
    ],
)
def test_wrong_options_are_refused(tmp_path, arguments, complaint):
    result = benchmark(tmp_path, *arguments)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    result = benchmark(tmp_path, *SMALL, "--device", "cuda:9", "--only", "speed")
    assert result.returncode == 1
    assert result.stderr.startswith("benchmark.py: device=cuda:9: this machine has")
    assert len(result.stderr.splitlines()) == 1
