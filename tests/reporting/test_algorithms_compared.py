"""Reports of several algorithms: their names, the table by task and algorithm, published numbers, comparisons."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from benchmark_reports import composed, make_run
from rich.console import Console

from iql.config.folders import CONF
from iql.envs.registry import SIMULATORS
from iql.reporting import algorithm_names, results, statistics
from iql.reporting.algorithm_names import algorithm_name
from iql.reporting.charts.chart import Chart, Style
from iql.reporting.page import charts, html
from iql.reporting.published import numbers, sources
from iql.reporting.report import Report, compile_report
from iql.reporting.run_records import Reader
from iql.reporting.tables.comma_separated import comma_separated
from iql.reporting.tables.grids import SUITES, Cell, Grid, by_task, grids, improvements
from iql.reporting.tables.latex import latex
from iql.reporting.tables.markdown import markdown
from iql.reporting.tables.terminal import terminal
from iql.system.atomic_files import write_json

HOPPER, WALKER, MAZE = "hopper-medium-v2", "walker2d-medium-v2", "antmaze-umaze-v0"
SHORT = (
    "updates=20000",
    "log_every=5000",
    "evaluation.every=5000",
    "evaluation.episodes=10",
    "evaluation.headline=final",
)
IQL, BC, TOP = ("algorithm=iql",), ("algorithm=bc",), ("algorithm=bc_10",)


def made(folder: Path, env: str, overrides: tuple[str, ...], scores: list[float], **more) -> list[Path]:
    """A run for each score, the final one; seeds from 0."""
    return [
        make_run(folder, env, (*SHORT, "evaluation.every=5000", *overrides), seed, [0.0, 0.0, 0.0, score], **more)
        for seed, score in enumerate(scores)
    ]


def compiled(folder: Path) -> Report:
    return compile_report(Reader([folder]))


def cells(grid: Grid, name: str) -> dict[str, Cell]:
    (row,) = (each for each in grid.rows if each.heads[0] == name)
    return dict(zip(grid.columns, row.cells, strict=True))


def rename(run: Path, target: str) -> None:
    """As if the run were of another class."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["settings"]["algorithm"]["_target_"] = target
    *place, configuration, seed = manifest["run"].split("/")
    manifest["run"] = "/".join([*place, configuration.replace("default", f"algorithm={target.split('.')[-1]}"), seed])
    write_json(run / "manifest.json", manifest)


@pytest.fixture
def three(tmp_path: Path) -> Report:
    """IQL, BC and 10 % BC on two tasks of locomotion; 10 % BC has no run of walker2d."""
    made(tmp_path, HOPPER, IQL, [60.0, 70.0, 80.0])
    made(tmp_path, HOPPER, BC, [65.0, 66.0, 67.0])
    made(tmp_path, HOPPER, TOP, [50.0, 51.0])
    made(tmp_path, WALKER, IQL, [10.0, 20.0, 30.0])
    made(tmp_path, WALKER, BC, [70.0, 71.0, 72.0])
    return compiled(tmp_path)


# Names


@pytest.mark.parametrize(
    ("target", "settings", "name"),
    [
        ("iql.algorithms.iql.IQL", {}, "IQL"),
        ("iql.algorithms.iql.IQL", {"extraction": "awr"}, "IQL"),
        ("iql.algorithms.iql.IQL", {"extraction": "ddpg_bc"}, "IQL (DDPG+BC)"),
        ("iql.algorithms.iql_fql.FQLIQL", {"extraction": "awr"}, "FQL-IQL"),
        ("iql.algorithms.iql_fql.FQLIQL", {"extraction": "ddpg_bc"}, "FQL-IQL (DDPG+BC)"),
        ("iql.algorithms.bc.BC", {"top_fraction": None}, "BC"),
        ("iql.algorithms.bc.BC", {"top_fraction": 0.1}, "10 % BC"),
        ("iql.algorithms.bc.BC", {"top_fraction": 0.125}, "12.5 % BC"),
        ("iql.algorithms.td3_bc.TD3BC", {}, "TD3+BC"),
        ("iql.algorithms.rebrac.ReBRAC", {}, "ReBRAC"),
        ("mine.Residual", {"top_fraction": 0.1}, "Residual"),
        ("mine.BC", {}, "mine.BC"),
    ],
)
def test_an_algorithm_is_called_what_its_paper_calls_it(target, settings, name, monkeypatch):
    own = {"iql.algorithms.td3_bc.TD3BC", "iql.algorithms.rebrac.ReBRAC"}
    monkeypatch.setattr(algorithm_names, "ALGORITHMS", algorithm_names.ALGORITHMS | own)
    assert algorithm_name({"_target_": target, **settings}) == name


def test_a_name_begins_with_the_algorithm_and_has_what_varies_within_it(tmp_path):
    for tau in (0.7, 0.9):
        made(tmp_path, HOPPER, (*IQL, f"algorithm.tau={tau}"), [1.0])
    for overrides in (BC, TOP, (*BC, "optimizer.lr=0.001"), (*BC, "algorithm.top_fraction=0.25")):
        made(tmp_path, HOPPER, overrides, [1.0])
    report = compiled(tmp_path)
    found = {report.labels.of(run) for run in report.runs}
    assert found == {
        "IQL tau=0.7",
        "IQL tau=0.9",
        "BC lr=0.0003",
        "10 % BC lr=0.0003",
        "BC lr=0.001",
        "25 % BC lr=0.0003",
    }


def test_what_follows_from_the_algorithm_is_not_repeated(three):
    """IQL's policy has a learning rate that falls, BC's a constant one."""
    assert {three.labels.of(run) for run in three.runs} == {"IQL", "BC", "10 % BC"}
    assert "algorithm.policy_schedule" not in three.labels.swept[HOPPER]


def test_what_every_run_has_is_a_note_and_in_no_name(tmp_path):
    for overrides in (IQL, BC):
        made(tmp_path, HOPPER, (*overrides, "batch_size=64", "optimizer.lr=0.001"), [1.0])
    made(tmp_path, HOPPER, (*BC, "batch_size=64"), [1.0])
    report = compiled(tmp_path)
    assert {report.labels.of(run) for run in report.runs} == {"IQL lr=0.001", "BC lr=0.001", "BC lr=0.0003"}
    assert "every run has batch_size=64, which the names leave out" in report.notes


def test_the_same_configuration_by_another_command_has_the_same_name(tmp_path):
    (one,) = made(tmp_path / "a", HOPPER, TOP, [1.0])
    (other,) = made(tmp_path / "b", HOPPER, ("algorithm=bc", "algorithm.top_fraction=0.1"), [1.0])
    assert one.relative_to(tmp_path / "a") == other.relative_to(tmp_path / "b")
    assert [run.algorithm for run in compiled(tmp_path).runs] == ["10 % BC"]


def test_one_algorithm_has_no_table_of_algorithms(tmp_path):
    for tau in (0.7, 0.9):
        made(tmp_path, HOPPER, (*IQL, f"algorithm.tau={tau}"), [1.0, 2.0, 3.0])
    report = compiled(tmp_path)
    assert list(grids(report.tables[0])) == []
    assert {report.labels.of(run) for run in report.runs} == {"tau=0.7", "tau=0.9"}


# The table by task and algorithm


def test_bold_are_the_best_and_all_within_its_interval(three):
    grid = by_task(three.tables[0])
    assert grid.columns == ["BC", "IQL", "10 % BC"]  # the one that lacks a task last
    hopper = cells(grid, HOPPER)
    # Of three runs, the mean is the lowest with probability 1/27, which is more than 2.5 %.
    assert (hopper["IQL"].text, hopper["IQL"].interval, hopper["IQL"].best) == ("70.0", "[60.0, 80.0]", True)
    assert (hopper["BC"].line, hopper["BC"].best) == ("66.0 [65.0, 67.0]", True)
    assert (hopper["10 % BC"].line, hopper["10 % BC"].best) == ("50.5 [50.0, 51.0]", False)
    assert [row.heads[1] for row in grid.rows[:2]] == ["2 to 3", "3"]
    walker = cells(grid, WALKER)
    assert walker["10 % BC"] == Cell()
    assert [label for label, cell in walker.items() if cell.best] == ["BC"]


def test_a_mean_over_tasks_is_of_configurations_that_have_them_all(three):
    grid = by_task(three.tables[0])
    mean, iqm = cells(grid, "mean, 2 tasks of locomotion"), cells(grid, "IQM, 2 tasks of locomotion")
    assert (mean["IQL"].text, mean["BC"].text, mean["10 % BC"]) == ("45.0", "68.5", Cell())
    assert (iqm["IQL"].text, iqm["BC"].text) == ("45.0", "68.5")  # of 20 30 60 70, and of 66 67 70 71
    interval = statistics.interval(statistics.MEAN, [np.array([60.0, 70, 80]), np.array([10.0, 20, 30])])
    assert mean["IQL"].interval == f"[{interval[0]:.1f}, {interval[1]:.1f}]"
    assert mean["BC"].best and not mean["IQL"].best
    assert mean["IQL"].published == f"{(66.3 + 78.3) / 2:.1f} paper"
    assert not any(row.heads[0].endswith("2 tasks") for row in grid.rows)  # all are of one suite


def test_suites_have_means_of_their_own(tmp_path):
    for env, level in ((HOPPER, 10.0), (WALKER, 20.0), (MAZE, 60.0)):
        made(tmp_path, env, IQL, [level, level])
        made(tmp_path, env, BC, [level + 5, level + 5])
    grid = by_task(compiled(tmp_path).tables[0])
    over = {row.heads[0]: row.cells[0].text for row in grid.rows if not row.task}
    assert over == {
        "mean, 2 tasks of locomotion": "20.0",
        "IQM, 2 tasks of locomotion": "20.0",
        "mean, 3 tasks": "35.0",
        "IQM, 3 tasks": f"{(15 + 25 + 25 + 65) / 4:.1f}",  # of 15 15 25 25 65 65
    }


def test_suites_are_those_of_the_simulators():
    for name, simulator in SIMULATORS.items():
        kind = name.partition("-")[0]
        assert SUITES.get(kind, kind) == simulator.module.rpartition(".")[2]


def test_other_protocols_are_other_tables(tmp_path):
    made(tmp_path, HOPPER, IQL, [60.0, 70.0])
    made(tmp_path, HOPPER, (*BC, "evaluation.episodes=7"), [65.0, 66.0])
    made(tmp_path, WALKER, IQL, [60.0, 70.0])
    made(tmp_path, WALKER, BC, [60.0, 70.0], facts={"mujoco": "3.2.6"})
    report = compiled(tmp_path)
    assert len(report.tables) == 3
    assert not any(list(grids(table)) for table in report.tables)


def test_data_of_ones_own_is_another_task(tmp_path):
    made(tmp_path, HOPPER, IQL, [60.0, 70.0])
    made(tmp_path, HOPPER, BC, [65.0, 66.0], facts={"custom": True, "dataset": "/data/mine.hdf5"})
    grid = by_task(compiled(tmp_path).tables[0])
    assert [row.heads[0] for row in grid.rows if row.task] == [HOPPER, f"{HOPPER} (mine.hdf5)"]
    assert cells(grid, HOPPER)["BC"] == Cell()
    own = cells(grid, f"{HOPPER} (mine.hdf5)")
    assert (own["BC"].text, own["BC"].published, own["IQL"]) == ("65.5", "", Cell())


def test_each_algorithms_best_is_compared_among_many_configurations(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MAX_COMPARED", 3)
    for tau in (0.6, 0.7, 0.8, 0.9):
        made(tmp_path, HOPPER, (*IQL, f"algorithm.tau={tau}"), [100 * tau + seed for seed in range(3)])
    for overrides, level in ((BC, 1.0), (TOP, 2.0)):
        made(tmp_path, HOPPER, overrides, [level + seed for seed in range(3)])
    (table,) = compiled(tmp_path).tables
    assert table.compared == ["IQL tau=0.9", "10 % BC", "BC"]
    grid = by_task(table)
    assert grid.columns == table.compared
    assert grid.note.endswith("The best 3 configurations; 3 left out.")
    drawn = [each for each in charts(compiled(tmp_path), Style(compiled(tmp_path))) if isinstance(each, Chart)]
    (profile,) = (chart for chart in drawn if chart.title.startswith("Performance profile"))
    assert "BC" in {trace["name"] for trace in profile.data}


# Published numbers


def test_each_algorithm_has_its_own_published_numbers_of_its_datas_version(tmp_path):
    for env in (HOPPER, MAZE, "antmaze-umaze-v2"):
        for overrides in (IQL, BC, TOP):
            made(tmp_path, env, overrides, [1.0, 2.0])
    grid = by_task(compiled(tmp_path).tables[0])
    published = {env: {label: cell.published for label, cell in cells(grid, env).items()} for env in (HOPPER, MAZE)}
    assert published[HOPPER] == {"IQL": "66.3 paper", "BC": "52.9 paper", "10 % BC": "56.9 paper"}
    assert published[MAZE] == {"IQL": "87.5 paper", "BC": "54.6 paper", "10 % BC": "62.8 paper"}
    newer = {label: cell.published for label, cell in cells(grid, "antmaze-umaze-v2").items()}
    assert newer == {"IQL": "77.00 ± 5.52 CORL", "BC": "55.25 ± 4.15 CORL", "10 % BC": "65.75 ± 5.26 CORL"}


def test_an_own_class_with_a_known_name_has_no_published_number(tmp_path):
    for run in made(tmp_path, HOPPER, (), [1.0, 2.0]):
        rename(run, "mine.BC")
    made(tmp_path, HOPPER, BC, [1.0, 2.0])
    hopper = cells(by_task(compiled(tmp_path).tables[0]), HOPPER)
    assert (hopper["mine.BC"].published, hopper["BC"].published) == ("", "52.9 paper")


def test_published_algorithms_have_the_names_of_those_that_can_be_chosen():
    options = sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml"))
    names = {algorithm_name(composed(HOPPER, f"algorithm={option}")["algorithm"]) for option in options}
    assert {algorithm for source in sources() for algorithm in source.scores} <= names


def test_published_numbers_are_of_known_tasks_and_add_up_to_the_published_averages():
    by_name = {source.name: source for source in sources()}
    tasks = {path.stem for path in (CONF / "env").glob("*.yaml")}
    for source in by_name.values():
        for scores in source.scores.values():
            assert scores.keys() <= tasks
            assert all(numbers(score)[1] is None or numbers(score)[1] >= 0 for score in scores.values())
    corl = by_name["CORL"].scores
    averages = {  # CORL's own, over locomotion, antmaze and adroit
        "IQL": (81.63, 57.17, 53.43),
        "ReBRAC": (89.74, 78.42, 59.39),
        "TD3+BC": (76.45, 19.33, 10.40),
        "BC": (50.40, 17.21, 48.18),
        "10 % BC": (69.29, 19.71, 42.69),
        "AWAC": (67.72, 19.29, 56.75),
    }
    for algorithm, expected in averages.items():
        groups: dict[str, list[float]] = {"locomotion": [], "antmaze": [], "adroit": []}
        for task, score in corl[algorithm].items():
            kind = task.partition("-")[0]
            if (suite := SUITES.get(kind, kind)) in groups:
                groups[suite].append(numbers(score)[0])
        assert [np.mean(own) for own in groups.values()] == pytest.approx(expected, abs=0.011), algorithm
    paper = by_name["paper"]
    locomotion = [task for task in corl["IQL"] if task.endswith("-v2") and "antmaze" not in task]
    assert sum(numbers(paper.scores["IQL"][task])[0] for task in locomotion) == pytest.approx(692.6, abs=0.05)
    assert "XQL" not in paper.scores
    assert set(locomotion) <= by_name["XQL paper"].scores["XQL"].keys()


# Probability of improvement and performance profiles


def test_a_probability_of_improvement_between_algorithms_by_hand(three):
    (iql_first,) = (each for each in three.tables[0].comparisons if {each.better, each.worse} == {"IQL", "BC"})
    # hopper: of IQL's 60, 70, 80 two are above each of 65, 66, 67: 6 of 9; walker2d: none of 9.
    probability = iql_first.probability if iql_first.better == "IQL" else 1 - iql_first.probability
    assert probability == pytest.approx((6 / 9 + 0) / 2)
    grid = improvements(three.tables[0])
    assert grid.columns == ["BC", "IQL"]  # 10 % BC has two seeds
    assert cells(grid, "IQL")["BC"].text == "0.33"
    assert cells(grid, "BC")["IQL"].text == "0.67"
    low, high = iql_first.interval
    assert cells(grid, "BC")["IQL"].interval == f"[{low:.2f}, {high:.2f}]"
    assert cells(grid, "IQL")["BC"].interval == f"[{1 - high:.2f}, {1 - low:.2f}]"


X, Y = [np.array([1.0, 4.0, 5.0]), np.array([2.0, 9.0])], [np.array([2.0, 3.0]), np.array([1.0, 8.0, 2.0])]


def resamples(scores: np.ndarray) -> list[tuple[float, ...]]:
    """Every sample with replacement, each as likely as the others."""
    return list(itertools.product(scores, repeat=len(scores)))


def won(x: tuple[float, ...], y: tuple[float, ...]) -> float:
    return sum((a > b) + 0.5 * (a == b) for a, b in itertools.product(x, y)) / (len(x) * len(y))


def test_the_interval_of_a_probability_of_improvement_is_that_of_all_stratified_resamples():
    """The seeds of each task and algorithm are drawn apart; here all of them are enumerated."""
    tasks = list(zip(X, Y, strict=True))
    of_task = [[won(x, y) for x, y in itertools.product(resamples(a), resamples(b))] for a, b in tasks]
    exact = [(one + other) / 2 for one, other in itertools.product(*of_task)]
    probability, interval = statistics.improvement(tasks)
    assert probability == pytest.approx((won(X[0], Y[0]) + won(X[1], Y[1])) / 2)
    assert interval == pytest.approx(tuple(np.percentile(exact, [2.5, 97.5])), abs=0.04)


def test_the_interval_of_a_profile_is_that_of_all_stratified_resamples():
    threshold = 2.5
    of_task = [[np.mean(np.array(sample) > threshold) for sample in resamples(scores)] for scores in X]
    exact = [(one + other) / 2 for one, other in itertools.product(*of_task)]
    shares, interval = statistics.profile(X, np.array([threshold]))
    assert shares[0] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (interval[0][0], interval[1][0]) == pytest.approx(tuple(np.percentile(exact, [2.5, 97.5])), abs=0.04)


def test_charts_compare_algorithms_with_their_intervals(three):
    drawn = [each for each in charts(three, Style(three)) if isinstance(each, Chart)]
    (profile,) = (chart for chart in drawn if chart.title.startswith("Performance profile"))
    assert {trace["name"] for trace in profile.data} >= {"IQL", "BC", "10 % BC", "IQL, 95 %", "BC, 95 %"}
    (improvement,) = (chart for chart in drawn if "improvement" in chart.title)
    (heat,) = improvement.data
    assert heat["x"] == ["BC", "IQL"]
    assert heat["text"][1][0] == "0.33"
    assert heat["hovertext"][1][0].startswith("0.33 [0.")  # the table below the chart has the intervals
    assert not any(chart.section == "sweep" and chart.title.startswith("algorithm") for chart in drawn)


# Formats


def test_markdown_has_bold_scores_with_published_ones_below(three):
    text = markdown(three).splitlines()
    (at,) = (index for index, line in enumerate(text) if line.startswith(f"| {HOPPER}") and "**70.0" in line)
    assert "**70.0 [60.0, 80.0]**" in text[at] and "**66.0 [65.0, 67.0]**" in text[at]
    assert "50.5 [50.0, 51.0]" in text[at] and "**50.5" not in text[at]
    assert text[at + 1].startswith("| published") and "66.3 paper" in text[at + 1] and "56.9 paper" in text[at + 1]
    assert any(line.startswith("Probability of improvement. ") for line in text)


def test_latex_has_bold_scores_and_escaped_names(three):
    text = latex(three)
    assert r"\textbf{70.0 [60.0, 80.0]}" in text
    assert r"10 \% BC" in text and "10 % BC &" not in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 4


def test_comma_separated_values_have_the_algorithm_and_its_numbers(three):
    lines = {(each["task"], each["algorithm"]): each for each in csv.DictReader(io.StringIO(comma_separated(three)))}
    assert {name: line["best"] for (task, name), line in lines.items() if task == HOPPER} == {
        "IQL": "True",
        "BC": "True",
        "10 % BC": "False",
    }
    assert lines[HOPPER, "BC"]["paper_mean"] == "52.9"
    assert (lines[WALKER, "BC"]["CORL_mean"], lines[WALKER, "BC"]["CORL_std"]) == ("63.23", "16.24")


@pytest.mark.parametrize("width", [80, 200])
def test_a_narrow_terminal_continues_the_table_below(three, width):
    screen = Console(width=width, file=io.StringIO())
    screen.print(terminal(three, width))
    table = screen.file.getvalue().partition("By task and algorithm")[2].partition("Probability of improvement")[0]
    heads = [line.split() for line in table.splitlines() if line.startswith("task ")]
    assert [name for head in heads for name in head[2:]] == ["BC", "IQL", "10", "%", "BC"]
    assert len(heads) == (1 if width == 200 else 2)
    assert "70.0 [60.0, 80.0]" in table and "50.5 [50.0, 51.0]" in table


def test_the_page_has_the_table(three, tmp_path):
    text = html(three, tmp_path / "report.html")
    assert "<caption>By task and algorithm</caption>" in text
    assert "<strong>70.0 <small>[60.0, 80.0]</small></strong>" in text
    assert '<small class="published">56.9 paper</small>' in text
