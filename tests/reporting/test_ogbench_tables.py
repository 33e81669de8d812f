"""Reports of OGBench's tasks: success in per cent, and the five tasks of a dataset beside the published means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_reports import make_run
from rich.console import Console

from iql.reporting.page import html
from iql.reporting.published import numbers, sources
from iql.reporting.report import Report, compile_report
from iql.reporting.run_records import Reader
from iql.reporting.tables.comma_separated import comma_separated
from iql.reporting.tables.grids import Cell, by_suite, by_task, grids
from iql.reporting.tables.markdown import markdown
from iql.reporting.tables.rows import results
from iql.reporting.tables.terminal import terminal

FACTS = {"physics": "ogbench 1.2.2", "scored": "success", "success_timing": "post"}
SHORT = ("updates=20000", "log_every=5000", "evaluation.every=5000")
CUBE, MAZE = "cube-single-play", "antmaze-large-navigate"


def made(folder: Path, data: str, numbers: range, score: float, *overrides: str, **facts: object) -> None:
    """Two seeds of each of these tasks of a dataset; the first evaluation is not among the last three."""
    for number in numbers:
        for seed in range(2):
            scores = [100.0, score - 2, score, score + 2]
            name = f"{data}-singletask-task{number}-v0"
            make_run(folder, name, (*SHORT, *overrides), seed, scores, facts={**FACTS, **facts})


def compiled(folder: Path) -> Report:
    return compile_report(Reader([folder]))


def test_the_headline_is_the_mean_of_the_last_three_and_the_protocol_says_all(tmp_path):
    made(tmp_path, CUBE, range(2, 3), 60.0)
    (table,) = compiled(tmp_path).tables
    assert [result.mean for result in table.results] == [60.0]
    assert table.heading == (
        "Success in %, mean of the last three evaluations of 50 episodes every 5,000 updates, after 20,000; "
        "ogbench 1.2.2 physics on mujoco 3.1.6, success of the state after a step (success_timing post)"
    )
    header, (row,) = results(table)
    assert dict(zip(header, row, strict=True))["FQL paper"] == "85"
    text = comma_separated(compiled(tmp_path))
    assert "success_timing" in text.splitlines()[0] and ",post," in text and ",success," in text


def test_another_timing_and_another_version_of_the_package_are_tables_apart(tmp_path):
    made(tmp_path, CUBE, range(1, 6), 60.0)
    made(tmp_path, CUBE, range(1, 6), 50.0, "env.success_timing=pre", success_timing="pre")
    made(tmp_path, MAZE, range(1, 6), 40.0, physics="ogbench 1.3.0")
    report = compiled(tmp_path)
    found = {(table.protocol.success_timing, table.protocol.physics): bool(table.sources) for table in report.tables}
    assert found == {("post", "ogbench 1.2.2"): True, ("pre", "ogbench 1.2.2"): False, ("post", "ogbench 1.3.0"): True}
    assert not any(by_suite(table).rows for table in report.tables if table.protocol.success_timing == "pre")


def test_data_of_ones_own_has_no_published_number(tmp_path):
    made(tmp_path, CUBE, range(1, 6), 60.0, custom=True, dataset="/data/mine.npz")
    (table,) = compiled(tmp_path).tables
    assert not table.sources and not by_suite(table).rows


def test_five_tasks_stand_beside_the_published_means_also_of_other_algorithms(tmp_path):
    made(tmp_path, CUBE, range(1, 6), 60.0)
    made(tmp_path, CUBE, range(1, 6), 6.0, "algorithm=bc")
    made(tmp_path, MAZE, range(1, 5), 10.0)  # one is missing
    (table,) = compiled(tmp_path).tables
    grid = by_suite(table)
    assert grid.columns == ["FQL-IQL", "BC", *(f"{name}, FQL paper" for name in ("IQL", "BC", "ReBRAC", "FQL"))]
    (row,) = grid.rows
    assert row.heads == [CUBE, "5"]
    assert [cell.text for cell in row.cells] == ["60.0", "6.0", "83 ± 3", "5", "91", "96"]
    assert row.cells[0].best and not row.cells[1].best
    over = {row.heads[0]: dict(zip(["IQL", "BC"], row.cells, strict=True)) for row in by_task(table).rows}
    assert over[f"mean, 5 tasks of {CUBE}"]["IQL"].published == "83 ± 3 FQL paper"
    assert over[f"mean, 5 tasks of {CUBE}"]["BC"].published == "5 FQL paper"
    assert over[f"mean, 4 tasks of {MAZE}"]["IQL"].published == f"{(48 + 42 + 72 + 51) / 4:.1f} FQL paper"
    assert over[f"mean, 4 tasks of {MAZE}"]["BC"] == Cell()


def test_every_format_has_them_with_a_single_algorithm_too(tmp_path):
    made(tmp_path, CUBE, range(1, 6), 60.0)
    report = compiled(tmp_path)
    assert [grid.caption for grid in grids(report.tables[0])] == ["By dataset, beside the published means"]
    assert "| cube-single-play" in markdown(report) and "83 ± 3" in markdown(report)
    console = Console(width=200, record=True)
    console.print(terminal(report, 200))
    assert "FQL, FQL paper" in console.export_text()
    page = html(report, tmp_path / "report.html")
    assert "By dataset, beside the published means" in page and "83 ± 3" in page
    assert 'data-configuration="FQL, FQL paper"' not in page, "the filter would hide it"


def test_the_published_means_are_those_of_the_published_tasks():
    (source,) = (source for source in sources() if source.means)
    for data, mean in source.means["IQL"].items():
        tasks = [numbers(source.scores["IQL"][f"{data}-singletask-task{number}-v0"])[0] for number in range(1, 6)]
        assert np.mean(tasks) == pytest.approx(numbers(mean)[0], abs=0.61), data  # both are rounded
    assert all(means.keys() == source.means["IQL"].keys() for means in source.means.values())
