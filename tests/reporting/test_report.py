"""scripts/report.py: what it reports of runs, and of what is missing, damaged or must not be compared."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import commands
import numpy as np
import plotly.graph_objects
import pytest
from benchmark_reports import make_run
from conftest import ROOT, SMALL
from markupsafe import escape
from matplotlib import image
from rich.console import Console

from iql.reporting import page, run_records
from iql.reporting.charts import curves
from iql.reporting.charts.chart import Chart, Omission, Style
from iql.reporting.charts.sensitivity import heat_maps, sensitivities
from iql.reporting.labels import canonical, texts_of
from iql.reporting.page import charts, html
from iql.reporting.protocols import Protocol
from iql.reporting.report import Report, compile_report
from iql.reporting.run_records import Reader
from iql.reporting.tables.rows import aggregates, results
from iql.reporting.tables.terminal import terminal
from iql.runs.leases import Owner
from iql.system.atomic_files import write_json

HOPPER, WALKER = "hopper-medium-v2", "walker2d-medium-v2"
CONTINUOUS = {key: name for key, name in curves.DIAGNOSTICS.items() if key != "entropy"}  # that of discrete actions
SHORT = ("updates=20000", "log_every=1000")  # four evaluations, twenty records


def report(*arguments: str | Path, expected: int = 0) -> commands.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), *map(str, arguments)]
    result = commands.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == expected, result.stdout + result.stderr
    return result


def compiled(*folders: Path) -> Report:
    return compile_report(Reader(folders))


def row(report: Report, env: str, label: str = "default") -> dict[str, str]:
    """A row of the first table that has it, by column; of two columns with the same name, the first."""
    for table in report.tables:
        header, rows = results(table)
        for cells in rows:
            if cells[:2] == [env, label]:
                return dict(zip(reversed(header), reversed(cells), strict=True))
    raise AssertionError(f"no row of {env}, {label}")


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """tau × beta on two tasks with three seeds; the score is 10 tau + beta + seed, and 100 more on walker2d."""
    for env, more in ((HOPPER, 0), (WALKER, 100)):
        for tau in (0.7, 0.9):
            for beta in (1.0, 3.0):
                for seed in range(3):
                    score = 10 * tau + beta + seed + more
                    overrides = (*SHORT, f"algorithm.tau={tau}", f"algorithm.beta={beta}")
                    make_run(tmp_path, env, overrides, seed, [0.0, score, score, score])
    return tmp_path / "made"


# The content of tables


def test_a_task_by_hand(tmp_path):
    for seed, last in enumerate([40.0, 50.0, 90.0]):
        make_run(tmp_path, HOPPER, SHORT, seed, [0.0, last, last, last])  # last10 is the mean of all four
    line = row(compiled(tmp_path), HOPPER)
    assert (line["seeds"], line["mean"], line["median"]) == ("3", "45.0 ± 19.8", "37.5")
    assert line["IQM"] == "45.0"  # a quarter of three is none
    assert line["paper"] == "66.3"
    assert line["gwthomas"] == "61.2 ± 6.4"
    assert line["CORL"] == "67.53 ± 3.78"
    shown = report(tmp_path).stdout
    assert (
        "Normalised score, mean of the last ten evaluations of 10 episodes every 5,000 updates, after 20,000" in shown
    )
    assert "d4rl physics on mujoco 3.1.6" in shown
    assert "settings tuned per task" in shown  # the protocol behind CORL's number


def test_swept_settings_name_the_configurations(grid):
    found = {result.label for table in compiled(grid).tables for result in table.results}
    assert found == {"tau=0.7 beta=1", "tau=0.7 beta=3", "tau=0.9 beta=1", "tau=0.9 beta=3"}


def test_over_tasks(grid):
    table = compiled(grid).tables[0]
    header, rows = aggregates(table)
    best = dict(zip(reversed(header), reversed(rows[0]), strict=True))
    assert best["configuration"] == "tau=0.9 beta=3"
    # 12 + 1 on hopper, 112 + 1 on walker2d; the first evaluation is 0, and all four count.
    assert best["sum"] == f"{0.75 * (13 + 113):.1f}"
    assert best["paper, sum"] == f"{66.3 + 78.3:.1f}"
    assert table.comparisons[0].tasks == [HOPPER, WALKER]
    won = {(each.better, each.worse): each.probability for each in table.comparisons}
    assert won["tau=0.9 beta=3", "tau=0.7 beta=1"] == 1.0  # 12, 13, 14 against 8, 9, 10
    assert won["tau=0.9 beta=1", "tau=0.7 beta=3"] == 0.5  # 10, 11, 12 against 10, 11, 12


def test_settings_of_any_kind_are_swept(tmp_path):
    for dims in ("[64,64]", "[256,256]"):
        make_run(tmp_path, HOPPER, (*SHORT, f"network.hidden_dims={dims}", "batch_size=64"), 0, [50.0] * 4)
    made = compiled(tmp_path)
    assert {made.labels.of(run) for run in made.runs} == {
        "hidden_dims=64x64 batch_size=64",
        "hidden_dims=256x256 batch_size=64",
    }
    (chart,) = sensitivities(made, made.tables[0])  # the three networks that follow the one setting are one
    assert chart.data[0]["x"] == ["64x64", "256x256"]
    assert chart.layout["xaxis"]["type"] == "category"


def test_settings_that_another_algorithm_lacks_are_not_swept(tmp_path):
    for overrides in (("algorithm.tau=0.7",), ("algorithm.tau=0.9",), ("algorithm=bc",)):
        make_run(tmp_path, HOPPER, (*SHORT, *overrides, "algorithm.policy_schedule=cosine"), 0, [50.0] * 4)
    made = compiled(tmp_path)
    labels = {made.labels.of(run) for run in made.runs}
    assert labels == {"IQL tau=0.7", "IQL tau=0.9", "BC policy_schedule=cosine"}
    assert list(made.labels.swept[HOPPER]) == ["algorithm.tau", "algorithm._target_"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([3, 3.0, 10], ["3", "10"]),
        ([1e-05, 0.0003, 1000000.0, 1e22, -0.0, 2**70], ["1e-05", "0.0003", "1000000", "1e+22", "0", str(2**70)]),
        ([0.1234567, 0.1234568], ["0.1234567", "0.1234568"]),
        ([0.1 + 0.2, 0.7], ["0.3", "0.7"]),
        ([0.1 + 0.2, 0.3], ["0.30000000000000004", "0.3"]),
        ([None, True, "x", 0.5], ["none", "True", "x", "0.5"]),
        (["own.Policy", "iql.networks.actors.Policy"], ['"own.Policy"', '"iql.networks.actors.Policy"']),
        (["0.5", 0.5, "none", None], ['"0.5"', "0.5", '"none"', "null"]),
        ([1, True, 1.0], ["1", "True"]),
        ([[64, 64], [64.0, 64], [256]], ["64x64", "256"]),
        ([math.inf, 100.0], ["inf", "100"]),
    ],
)
def test_equal_values_have_the_same_text_and_other_values_another(values, texts):
    assert list(texts_of(values).values()) == texts
    assert all(
        (canonical(a) == canonical(b)) == (a == b and (a is True) == (b is True)) for a in values for b in values
    )


def retyped(run: Path, key: str, value: object) -> None:
    """Set a value in a run's manifest, as earlier versions or other programs may have written it."""
    manifest = json.loads((run / "manifest.json").read_text())
    *sections, last = key.split(".")
    node = manifest["settings"]
    for section in sections:
        node = node[section]
    node[last] = value
    write_json(run / "manifest.json", manifest)


def test_values_of_any_type_are_sorted(tmp_path):
    """Shown as JSON, since the short texts of two of them, 10 and [10], are the same."""
    values = ["v10", "v9", None, 10, True, 2.5, [10], [9], 2]
    for index, value in enumerate(values):
        run = make_run(tmp_path, HOPPER, (*SHORT, f"algorithm.tau={0.6 + index / 100}"), 0, [float(index)] * 4)
        retyped(run, "algorithm.tau", 0.6)
        retyped(run, "algorithm.own", value)
    made = compiled(tmp_path)
    (chart,) = (each for table in made.tables for each in sensitivities(made, table))
    assert chart.data[0]["x"] == ["null", "true", "2", "2.5", "10", "[9]", "[10]", '"v9"', '"v10"']


def test_two_configurations_with_the_same_name_stay_apart_under_every_protocol(tmp_path):
    for tau, mujoco in ((0.6, "3.1.6"), (0.6, "3.2.0"), (0.7, "3.1.6")):
        facts, seed = {"mujoco": mujoco}, 0 if mujoco == "3.1.6" else 1
        run = make_run(tmp_path, HOPPER, (*SHORT, f"algorithm.tau={tau}"), seed, [100 * tau] * 4, facts=facts)
        retyped(run, "algorithm.tau", 0.6)  # as if the data were what sets them apart
    made = compiled(tmp_path)
    means = sorted(result.mean for table in made.tables for result in table.results)
    assert means == [60.0, 60.0, 70.0]


def test_a_random_search_has_no_mean_over_other_settings(tmp_path):
    for tau, beta in ((0.6, 2.0), (0.7, 5.0), (0.8, 1.5)):
        make_run(tmp_path, HOPPER, (*SHORT, f"algorithm.tau={tau}", f"algorithm.beta={beta}"), 0, [beta] * 4)
    made = compiled(tmp_path)
    for chart in sensitivities(made, made.tables[0]):
        assert [trace["name"] for trace in chart.data] == ["configurations"]


def test_heat_map_and_sensitivity(grid):
    made = compiled(grid)
    table = made.tables[0]
    hopper = next(chart for chart in heat_maps(made, table) if chart.task == HOPPER)
    assert (hopper.data[0]["x"], hopper.data[0]["y"]) == (["0.7", "0.9"], ["1", "3"])
    expected = [[0.75 * (10 * tau + beta + 1) for tau in (0.7, 0.9)] for beta in (1.0, 3.0)]
    np.testing.assert_allclose(hopper.data[0]["z"], expected, atol=1e-3)
    tau = next(chart for chart in sensitivities(made, table) if chart.task == HOPPER and "tau" in chart.title)
    dots, line = tau.data
    assert sorted(dots["x"]) == [0.7, 0.7, 0.9, 0.9]
    np.testing.assert_allclose(line["y"], [0.75 * (10 * tau + 2 + 1) for tau in (0.7, 0.9)], atol=1e-3)
    assert min(line["error_y"]["array"]) > 0


def test_a_value_without_a_score_does_not_remove_the_mean_of_the_others(tmp_path):
    for tau, state in ((0.6, "done"), (0.7, "done"), (0.8, "unfinished")):
        make_run(tmp_path, HOPPER, (*SHORT, f"algorithm.tau={tau}"), 0, [10.0] * 3, state=state)
    made = compiled(tmp_path)
    (chart,) = sensitivities(made, made.tables[0])
    assert chart.data[1]["x"] == [0.6, 0.7]


def test_many_configurations_are_compared_by_the_best(tmp_path):
    for index in range(18):
        for seed in range(3):
            make_run(tmp_path, HOPPER, (*SHORT, f"algorithm.tau={0.5 + index / 100}"), seed, [float(index + seed)] * 4)
    made = compiled(tmp_path)
    profile, improvement = (chart for chart in charts(made, Style(made)) if chart.section == "compare")
    for chart in (profile, improvement):
        assert f"{HOPPER}, the best 16 configurations; 2 left out" in chart.title
    assert improvement.title.endswith("3 seeds a side")
    assert "tau=0.67" in improvement.data[0]["x"]
    assert "tau=0.5" not in improvement.data[0]["x"]


def test_a_curve_is_the_mean_over_seeds_with_its_band(grid):
    made = compiled(grid)
    chart = next(curves.learning_curves(made, made.tables[0], Style(made)))
    band, line = (next(t for t in chart.data if t["name"] == f"tau=0.7 beta=1{end}") for end in (", 95 %", ""))
    assert line["x"] == [5000, 10000, 15000, 20000]
    np.testing.assert_allclose(line["y"], [0, 9, 9, 9])
    assert line["customdata"] == [3, 3, 3, 3]
    assert band["y"] == [0, 8, 8, 8, 10, 10, 10, 0]  # there and back


def test_plotly_takes_every_chart(grid):
    made = compiled(grid)
    drawn = [each for each in charts(made, Style(made)) if isinstance(each, Chart)]
    assert {chart.section for chart in drawn} == {"curves", "sweep", "compare", "diagnostics"}
    for chart in drawn:
        plotly.graph_objects.Figure(chart.data, chart.layout)  # raises for a key or value that it does not know
        assert chart.alternative and chart.title


def test_a_real_run(train, tmp_path):
    result = train("seed=[0,1]")
    assert result.returncode == 0, result.stderr
    made = compiled(train.runs)
    line = row(made, "maze2d-umaze-made", "batch_size=32 made_rows=2000 hidden_dims=16x16")
    scores = [json.loads((each / "summary.json").read_text())["score"] for each in train.directories()]
    assert line["mean"].startswith(f"{np.mean(scores):.1f} ± ")
    page = html(made, tmp_path / "report.html")
    assert page.count("data:image/webp;base64,") == 1  # the map of V of its first seed
    titles = {chart.title for chart in charts(made, Style(made)) if chart.section == "diagnostics"}
    assert titles == {f"{name}, maze2d-umaze-made" for name in CONTINUOUS.values()}


@pytest.mark.parametrize("width", [80, 110, 200])
def test_a_narrow_terminal_omits_columns_and_names_them(grid, width):
    screen = Console(width=width, file=io.StringIO())
    screen.print(terminal(compiled(grid), width))
    shown = screen.file.getvalue()
    lines = [line for line in shown.splitlines() if line.startswith(HOPPER)]
    assert len(lines) == 4
    assert all("[" in line and "]" in line for line in lines)  # no number is cut or wrapped
    assert ("no room for" in shown) == (width < 200)
    assert ("66.3" in shown) == (width >= 110)


# What must not be compared


def test_own_data_and_other_physics_are_not_compared_with_published_scores(tmp_path):
    make_run(tmp_path, HOPPER, SHORT, 0, [50.0], facts={"custom": True})
    make_run(tmp_path, WALKER, (*SHORT, "env.physics=gymnasium"), 0, [50.0], facts={"physics": "gymnasium"})
    made = compiled(tmp_path)
    assert not any(table.sources for table in made.tables)
    assert any("data of your own" in note for note in made.notes)


def test_other_protocols_are_shown_apart_and_never_averaged(tmp_path):
    make_run(tmp_path, HOPPER, SHORT, 0, [10.0])
    make_run(tmp_path, HOPPER, SHORT, 1, [20.0], facts={"mujoco": "3.2.0"})
    make_run(tmp_path, HOPPER, (*SHORT, "evaluation.episodes=7"), 0, [30.0])
    make_run(tmp_path, HOPPER, ("log_every=1000",), 0, [40.0])
    make_run(tmp_path, HOPPER, (*SHORT, "env.physics=gymnasium"), 0, [50.0], facts={"physics": "gymnasium"})
    made = compiled(tmp_path)
    assert len(made.tables) == 5
    assert all(len(result.scores) == 1 for table in made.tables for result in table.results)
    assert f"{HOPPER}, default: protocols A, B, C, D, E, shown apart" in made.notes
    assert [table.heading.partition(":")[0] for table in made.tables] == [f"Protocol {letter}" for letter in "ABCDE"]
    text = html(made, tmp_path / "report.html").partition('id="charts">')[0]
    for table in made.tables:
        assert text.count(f"<h3>{escape(table.heading)}</h3>") == 1
    subjects = "; ".join(f"{HOPPER}, protocol {letter}" for letter in "ABCDE")
    assert f"Evaluated once, so there is no curve: {subjects}." in text
    differing = re.search(r"Protocols \((.*)\) are shown apart", text)[1].split("; ")
    assert [each[:3] for each in differing] == ["A: ", "B: ", "C: ", "D: ", "E: "]
    assert not any(re.search(r"exact \d", each) for each in differing)
    assert (
        sum("physics gymnasium" in each for each in differing) == sum("mujoco 3.2.0" in each for each in differing) == 1
    )


def test_each_protocol_has_charts_of_its_own_settings(tmp_path):
    for episodes, taus in ((10, (0.7, 0.9)), (7, (0.8,))):
        for tau in taus:
            overrides = (*SHORT, f"evaluation.episodes={episodes}", f"algorithm.tau={tau}")
            make_run(tmp_path, HOPPER, overrides, 0, [10 * tau] * 4)
    made = compiled(tmp_path)
    swept = [chart for table in made.tables for chart in sensitivities(made, table)]
    assert [(chart.title, chart.data[0]["x"]) for chart in swept] == [(f"tau, {HOPPER}, protocol A", [0.7, 0.9])]
    assert [chart.title for chart in learning(made)] == [f"{HOPPER}, protocol A", f"{HOPPER}, protocol B"]


def learning(made: Report) -> list[Chart]:
    return [each for each in charts(made, Style(made)) if isinstance(each, Chart) and each.section == "curves"]


def test_a_probability_of_improvement_needs_three_seeds_on_either_side(tmp_path):
    for tau, seeds in ((0.6, 3), (0.7, 1), (0.9, 4)):
        for seed in range(seeds):
            make_run(tmp_path, HOPPER, (*SHORT, f"algorithm.tau={tau}"), seed, [100 * tau + seed] * 4)
    made = compiled(tmp_path)
    (chart,) = (each for each in charts(made, Style(made)) if isinstance(each, Chart) and "improvement" in each.title)
    (omission,) = (each for each in charts(made, Style(made)) if isinstance(each, Omission) and "improve" in each.why)
    assert chart.title == f"Probability of improvement: {HOPPER}, 3 to 4 seeds a side"
    assert chart.data[0]["x"] == chart.data[0]["y"] == ["tau=0.9", "tau=0.6"]
    assert chart.data[0]["text"] == [["", "1.00"], ["0.00", ""]]
    assert "4 against 3 seeds" in chart.data[0]["customdata"][0][1]
    assert "needs 3 seeds" in omission.why
    assert omission.subject == f"2 of 3 pairs, {HOPPER}"


def test_a_task_without_references_shows_returns(tmp_path):
    for env in (HOPPER, WALKER):
        make_run(tmp_path, env, SHORT, 0, [1234.0], facts={"scored": "return"})
    (table,) = compiled(tmp_path).tables
    assert str(table.protocol).startswith("return, ")
    assert not table.aggregates  # returns of two tasks have no mean


def test_runs_without_an_evaluation(tmp_path):
    make_run(tmp_path, HOPPER, (*SHORT, "evaluation=none"), 0, [])
    made = compiled(tmp_path)
    assert "not evaluated" in str(made.tables[0].protocol)
    assert row(made, HOPPER)["mean"] == ""
    drawn = list(charts(made, Style(made)))
    assert [each.section for each in drawn] == ["diagnostics"] * len(CONTINUOUS)
    assert all(isinstance(each, Chart) for each in drawn)


# What is missing or damaged


def test_missing_failed_and_unfinished_runs_are_reported(tmp_path):
    for seed in range(4):
        make_run(tmp_path, HOPPER, SHORT, seed, [50.0] * 4)
    make_run(tmp_path, WALKER, SHORT, 0, [50.0] * 4)
    make_run(tmp_path, WALKER, SHORT, 1, [50.0] * 2, state="failed")
    running = make_run(tmp_path, WALKER, SHORT, 2, [50.0] * 3, state="unfinished")
    write_json(running / "lease.json", vars(Owner.this_process()))
    made = compiled(tmp_path)
    assert row(made, WALKER)["seeds"] == "1 of 4"
    assert f"{WALKER}, default: seed 1 failed at update 10,000: a loss is not finite" in made.notes
    assert f"{WALKER}, default: seed 2 is running at update 15,000 of 20,000" in made.notes
    assert f"{WALKER}, default: missing seed 3" in made.notes
    assert f"{WALKER}, default: one seed, so no interval" in made.notes
    shown = report(tmp_path).stdout
    assert "7 runs: 5 done, 1 failed, 1 running" in shown
    os.utime(running / "lease.json", (0, 0))  # the heartbeat is long ago
    make_run(tmp_path, WALKER, SHORT, 3, [50.0], state="unfinished")
    message = f"{WALKER}, default: seeds 2, 3 are unfinished at update 5,000 to 15,000 of 20,000"
    assert message in compiled(tmp_path).notes


def test_one_seed_has_no_interval(tmp_path):
    make_run(tmp_path, HOPPER, SHORT, 0, [50.0] * 4)
    line = row(compiled(tmp_path), HOPPER)
    assert (line["mean"], line["95 %"]) == ("50.0", "")


def test_a_damaged_line_is_noted_and_the_rest_reported(tmp_path):
    metrics = make_run(tmp_path, HOPPER, SHORT, 0, [40.0, 50.0, 60.0, 70.0]) / "metrics.jsonl"
    lines = metrics.read_bytes().split(b"\n")
    lines[6] = lines[6][:30]
    metrics.write_bytes(b"\n".join(lines))
    made = compiled(tmp_path)
    assert f"{metrics}, line 7: not a whole record, left out" in made.notes
    assert row(made, HOPPER)["mean"] == "55.0"
    shown = report(tmp_path)
    assert "line 7" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize("name", ["manifest.json", "summary.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_a_damaged_run_is_noted_and_the_rest_reported(tmp_path, name, content):
    make_run(tmp_path, HOPPER, SHORT, 0, [50.0] * 4)
    damaged = make_run(tmp_path, HOPPER, SHORT, 1, [90.0] * 4)
    (damaged / name).write_bytes(content)
    made = compiled(tmp_path)
    assert row(made, HOPPER)["mean"] == "50.0"
    assert any(note.startswith(f"{damaged}: cannot be read, left out") for note in made.notes)


def test_runs_read_by_several_processes_are_reported_as_by_one(grid, monkeypatch):
    metrics, *damaged = sorted(grid.glob("*/*/*/metrics.jsonl"))[::5]
    metrics.write_bytes(metrics.read_bytes() + b"{\n")
    for each in damaged:
        (each.parent / "summary.json").write_bytes(b"{")
    expected = compile_report(Reader([grid]))
    read_here: list[Path] = []
    monkeypatch.setattr(
        run_records, "read", lambda *each, real=run_records.read: read_here.append(each[0]) or real(*each)
    )
    monkeypatch.setattr(run_records, "RUNS_OF_A_PROCESS", 5)
    made = compile_report(Reader([grid], processes=8))
    assert (len(read_here), len(made.runs)) == (6, 20)  # four processes for 24 runs, four of which cannot be read
    assert made.notes == expected.notes and len(damaged) == 4
    assert sum("left out" in note for note in made.notes) == 5
    assert [run.train for run in made.runs] == [run.train for run in expected.runs]
    assert all(map(np.array_equal, *([run.evaluations for run in each.runs] for each in (made, expected))))


def test_a_damaged_map_is_noted(tmp_path):
    make_run(tmp_path, HOPPER, SHORT, 0, [50.0] * 4)
    picture = make_run(tmp_path, HOPPER, SHORT, 1, [50.0] * 4) / "map.png"
    picture.write_bytes(b"no picture")
    assert f"{picture}: cannot be read, left out" in html(compiled(tmp_path), tmp_path / "report.html")


def test_value_maps_beyond_the_limit_are_omitted_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_MAPS", 2)
    make_run(tmp_path, HOPPER, SHORT, 0, [50.0])  # no maze
    for tau in (0.6, 0.7, 0.8):
        run = make_run(tmp_path, "maze2d-umaze-v1", (*SHORT, f"algorithm.tau={tau}"), 0, [50.0])
        image.imsave(run / "map.png", np.zeros((20, 20, 3)))
    text = html(compiled(tmp_path), tmp_path / "report.html")
    assert text.count("data:image/webp;base64,") == 2
    assert "value maps of 1 more configurations are left out of the page" in text


def test_the_same_run_in_two_folders_counts_once(tmp_path):
    for folder in ("a", "b"):
        make_run(tmp_path / folder, HOPPER, SHORT, 0, [50.0] * 4)
    made = compiled(tmp_path / "a", tmp_path / "b")
    assert len(made.runs) == 1
    assert any("the same run as" in note for note in made.notes)
    again = compiled(tmp_path / "a", tmp_path / "a" / "made")
    assert len(again.runs) == 1
    assert not any("the same run as" in note for note in again.notes)


def test_a_folder_without_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    line = report(tmp_path / "empty", expected=1).stderr
    assert line == f"report.py: {tmp_path}/empty: there are no runs in it\n"
    make_run(tmp_path, HOPPER, SHORT, 0, [50.0])
    assert "empty: there are no runs in it" in report(tmp_path / "made", tmp_path / "empty").stdout
    assert "no such folder" in report(tmp_path / "nowhere", expected=1).stderr


@pytest.mark.parametrize(
    ("out", "message"), [("report.pdf", "must end in"), ("nowhere/report.html", "there is no folder")]
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(grid, out, message):
    result = report(grid, "--out", grid / out, expected=1)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_watching_every_zero_seconds_is_refused(grid):
    assert "--every 0: must be above 0" in report(grid, "--watch", "--every", "0", expected=1).stderr


# Output formats


def test_comma_separated_values_are_unrounded(grid, tmp_path):
    out = tmp_path / "report.csv"
    report(grid, "--out", out)
    lines = list(csv.DictReader(out.open()))
    assert len(lines) == 8
    line = next(each for each in lines if each["task"] == HOPPER and each["configuration"] == "tau=0.7 beta=1")
    scores = dict(part.split(":") for part in line["scores"].split())
    assert float(line["mean"]) == np.mean([float(score) for score in scores.values()])
    assert list(scores) == ["0", "1", "2"]
    assert (line["seeds"], line["paper_mean"], line["CORL_std"], line["updates"]) == ("3", "66.3", "3.78", "20000")


def test_markdown_and_latex(grid, tmp_path):
    md, tex = tmp_path / "report.md", tmp_path / "report.tex"
    assert f"written: {md}" in report(grid, "--out", md, tex).stdout
    lines = md.read_text().splitlines()
    assert any(line.startswith(f"| {HOPPER} ") and "66.3" in line for line in lines)
    assert "- CORL: CORL, " in md.read_text()
    assert tex.read_text().count(r"\begin{tabular}") == 2  # by task, and over tasks
    assert r"95 \%" in tex.read_text()
    assert r"\bottomrule" in tex.read_text()


def test_images_for_a_paper(grid, tmp_path):
    png, svg = tmp_path / "curves.png", tmp_path / "curves.svg"
    report(grid, "--out", png, svg)
    shown = image.imread(png)
    assert shown.shape[1] == 1440  # two tasks side by side
    assert shown[..., :3].std() > 0.05
    assert "<svg" in svg.read_text()
    bare = make_run(tmp_path / "bare", HOPPER, (*SHORT, "evaluation=none"), 0, [])
    assert "no run has been evaluated twice yet" in report(bare, "--out", png, expected=1).stderr


def test_the_page_loads_nothing_from_an_address(grid, tmp_path):
    page = tmp_path / "report.html"
    report(grid, "--out", page)
    text = page.read_text().replace(next(s for s in [page.read_text()]), page.read_text())
    assert '<link rel="stylesheet"' not in text
    assert "<script src" not in text
    assert "</script" not in text.partition('id="charts">')[2].partition("</script>")[0]


def test_a_page_whose_settings_look_like_html(tmp_path):
    make_run(tmp_path, HOPPER, SHORT, 0, [50.0], sweep="</script><b>")
    page = html(compiled(tmp_path), tmp_path / "report.html")
    assert "<b>" not in page.partition("<script>")[0]


# --watch


def test_only_what_changed_is_read_again(grid, monkeypatch):
    from iql.reporting import run_records

    seen: list[Path] = []
    whole: Callable = run_records.read
    monkeypatch.setattr(run_records, "read", lambda directory, now: seen.append(directory) or whole(directory, now))
    reader = Reader([grid])
    first = reader.runs()
    assert len(seen) == len(first) == 24
    changed = first[0].directory / "metrics.jsonl"
    changed.write_bytes(changed.read_bytes() + b'{"kind": "eval", "update": 25000, "score": 1.0}\n')
    assert len(reader.runs()) == 24
    assert seen[24:] == [changed.parent]


@pytest.mark.slow
def test_watch_follows_a_run_to_its_end(train, tmp_path):
    page = tmp_path / "report.html"
    training = train.start("updates=30000", "log_every=100", "checkpoint.every=10000", "evaluation.every=5000")
    try:
        deadline = time.monotonic() + 60
        while not train.directories() and time.monotonic() < deadline:
            time.sleep(0.2)
        result = report(train.runs, "--out", page, "--watch", "--every", "0.5")
        assert train.directories()[0].joinpath("summary.json").exists(), "the command ended before the run did"
    finally:
        training.communicate(timeout=100)
    assert "1 running" in result.stdout
    assert result.stdout.rstrip().endswith(f"written: {page}")
    assert "1 run: 1 done" in result.stdout
    assert 'data-refresh=""' in page.read_text()  # the page of a finished report does not reload itself


@pytest.mark.slow
def test_watch_follows_a_sweep_from_before_its_first_run_to_its_last(tmp_path, environment):
    overrides = ["seed=0,1", "launcher.workers=1", f"runs={tmp_path}", "sweep.name=it"]
    command = [sys.executable, str(ROOT / "sweep.py"), *SMALL, *overrides]
    submitted = commands.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert "2 runs in 2 jobs" in submitted.stdout, submitted.stdout + submitted.stderr
    result = report(tmp_path / "it", "--watch", "--every", "0.3", "--out", tmp_path / "report.md")
    assert "2 runs: 2 done" in (tmp_path / "report.md").read_text()
    assert result.stderr == ""


def test_the_text_of_a_protocol():
    protocol = Protocol("normalised", 1000000, "final", 100000, 100, "d4rl", "3.1.6")
    assert str(protocol) == (
        "normalised score, final evaluation of 100 episodes every 100,000 updates, after 1,000,000; "
        "d4rl physics on mujoco 3.1.6"
    )
