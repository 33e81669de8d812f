"""Reports of finetuned runs: offline beside online with regret, published pairs, never averaged with offline runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from benchmark_reports import make_run

from iql.reporting.charts.chart import Chart, Style
from iql.reporting.page import charts, html
from iql.reporting.report import Report, compile_report
from iql.reporting.run_figures import learning_curve
from iql.reporting.run_records import Reader
from iql.reporting.tables.comma_separated import comma_separated
from iql.reporting.tables.markdown import markdown
from iql.reporting.tables.rows import results
from iql.system.atomic_files import write_json

SHORT = ("updates=2000", "log_every=1000", "evaluation.every=1000", "evaluation.episodes=10")
ONLINE = ("finetune=online", "finetune.steps=3000", "finetune.evaluate_every=1000")
MAZE = "antmaze-umaze-v0"


def finetuned(folder: Path, env: str, seed: int, before: float, after: float, regret: float) -> Path:
    """A finished run of 2,000 updates and 3,000 steps, whose policy ends an episode of exploration every 500 steps."""
    run = make_run(folder, env, (*SHORT, *ONLINE), seed, [0.0, before, after])
    summary = json.loads((run / "summary.json").read_text())
    outcome = {"steps": 3000, "taken_back_rows": 0, "offline_score": before, "episodes": 6, "regret": regret,
               "regret_of": "success"}  # fmt: skip
    write_json(run / "summary.json", {**summary, "score": after, "final_score": after, "finetune": outcome})
    episodes = [
        {"kind": "episode", "update": 2000 + step, "phase": "online", "step": step, "return": 1.0, "score": step / 100,
         "length": 500, "success": True}
        for step in range(500, 3001, 500)
    ]  # fmt: skip
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in episodes)
    return run


@pytest.fixture
def report(tmp_path) -> Report:
    """Three finetuned runs, of whose offline scores 60 is the mean, and two of the same task that were not."""
    for seed, (before, after, regret) in enumerate([(50.0, 80.0, 0.2), (60.0, 90.0, 0.1), (70.0, 100.0, 0.3)]):
        finetuned(tmp_path, MAZE, seed, before, after, regret)
    for seed in range(2):
        make_run(tmp_path, MAZE, SHORT, seed, [0.0, 20.0])
    return compile_report(Reader([tmp_path]))


def test_offline_and_online_stand_side_by_side_with_the_published_pair(report):
    (online,) = (table for table in report.tables if table.protocol.steps)
    header, (row,) = results(online)
    cells = dict(zip(header, row, strict=False))
    assert header[:9] == ["task", "configuration", "seeds", "offline", "95 %", "online", "95 %", "regret", "95 %"]
    assert row[3:9] == ["60.0", "[50.0, 70.0]", "90.0 ± 10.0", "[80.0, 100.0]", "0.20", "[0.10, 0.30]"]
    assert cells["paper"] == "86.7 → 96.0" and cells["seeds"] == "3"
    text = "final evaluation of 10 episodes every 1,000 steps, after 5,000 updates, 3,000 steps online among them"
    assert text in online.heading and text in markdown(report)


def test_finetuned_runs_are_never_averaged_with_offline_runs(report):
    assert sorted(table.protocol.steps for table in report.tables) == [0, 3000]
    (offline,) = (table for table in report.tables if not table.protocol.steps)
    (result,) = offline.results
    assert result.scores.tolist() == [20.0, 20.0]
    header, (row,) = results(offline)
    assert "regret" not in header and row[header.index("paper")] == "87.5"
    lines = list(csv.DictReader(io.StringIO(comma_separated(report))))
    values = {line["online_steps"]: line for line in lines}
    assert values["3000"]["offline_mean"] == "60.0" and float(values["3000"]["regret_mean"]) == pytest.approx(0.2)
    assert values["3000"]["regret_of"] == "success" and values["3000"]["paper_mean"] == "96.0"
    assert values["0"]["offline_mean"] == "" == values["0"]["regret_of"]


def test_the_curve_has_the_border_of_the_phases_and_the_episodes_of_exploration(report, tmp_path):
    style = Style(report)
    drawn = [each for each in charts(report, style) if isinstance(each, Chart) and each.section == "curves"]
    curves = {chart.title: chart for chart in drawn}
    shapes = [chart.layout["shapes"] for chart in drawn if "shapes" in chart.layout]
    assert len(shapes) == 1 and [each["x0"] for each in shapes[0]] == [2000]
    (explored,) = (chart for title, chart in curves.items() if title.startswith("episodes of exploration"))
    (trace,) = explored.data
    assert trace["y"] == [5, 10, 15, 20, 25, 30]
    assert trace["x"][0] >= 2500 and trace["x"][-1] <= 5000
    assert "online \\u2192" in html(report, tmp_path / "report.html") or "online →" in html(report, tmp_path / "r.html")


def test_a_runs_own_figure_is_drawn(tmp_path):
    run = finetuned(tmp_path, MAZE, 0, 10.0, 20.0, 0.5)
    assert learning_curve(run).stat().st_size > 10_000
