"""Evaluation under a budget: the bandit against hand-computed and enumerated cases, and what reports make of it."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from benchmark_reports import MUJOCO, keep, make_run
from rich.console import Console

from iql.errors import UserError
from iql.reporting.budget import bandit
from iql.reporting.charts.chart import Style
from iql.reporting.page import charts, html
from iql.reporting.paper_figure import image
from iql.reporting.report import Report, compile_report
from iql.reporting.run_records import NoRuns, Reader
from iql.reporting.tables.comma_separated import budgets, comma_separated
from iql.reporting.tables.grids import grids
from iql.reporting.tables.latex import latex
from iql.reporting.tables.markdown import markdown
from iql.reporting.tables.terminal import terminal

HOPPER, WALKER = "hopper-medium-v2", "walker2d-medium-v2"
SHORT = ("updates=20000", "log_every=5000")


def held(policies: Sequence[Sequence[float]], drawn: int, episodes: int, repetitions: int = 20_000) -> np.ndarray:
    """The mean over repetitions after each episode."""
    arrays = [np.array(own, float) for own in policies]
    return bandit.held(arrays, drawn, episodes, repetitions, np.random.default_rng(1)).mean(0)


# The bandit


def test_with_constant_returns_the_best_is_held_once_each_was_played():
    """By hand: of 0, 10 and 40 in random order, the largest of the first 1, 2 and 3."""
    means = held([[0.0], [10.0], [40.0, 40.0]], drawn=3, episodes=6)
    assert means[:2] == pytest.approx([50 / 3, (10 + 40 + 40) / 3], abs=0.4)
    assert means[2:].tolist() == [40.0] * 4  # exactly


def test_a_lucky_first_episode_is_found_out():
    """By hand: A gives 0 or 1, B always 0.6.

    After two episodes A is held where it gave 1. The bonus is equal then, so that the one held is played once more: A
    stays where it gives 1 again (mean 1), and else has 0.5 and B is held.
    """
    means = held([[0.0, 1.0], [0.6]], drawn=2, episodes=3, repetitions=100_000)
    assert means[1] == pytest.approx(0.5 * 0.5 + 0.5 * 0.6, abs=0.001)
    assert means[2] == pytest.approx(0.25 * 0.5 + 0.75 * 0.6, abs=0.001)


def test_the_bonus_sends_it_back_to_what_was_played_least():
    """By hand: B, 0.1 worse, is played again at the first t with sqrt(2 ln t) - sqrt(2 ln t / (t - 2)) > 0.1.

    That is t = 4: at t = 3 both were played once and A leads; at 4 sqrt(2 ln 4) (1 - 1 / sqrt 2) = 0.49.
    """
    played: list[int] = []

    class Recording(np.random.Generator):
        def integers(self, high, *arguments, **options):
            played.append(int(high[0]))
            return super().integers(high, *arguments, **options)

    policies = [np.full(2, 0.5), np.full(3, 0.4)]  # of two and of three episodes, by which they are told apart
    bandit.held(policies, 2, 4, 1, Recording(np.random.PCG64(0)))
    assert sorted(played[:2]) == [2, 3]
    assert played[2:] == [2, 3]


def enumerated(policies: Sequence[Sequence[float]], drawn: int, episodes: int) -> list[float]:
    """The exact expectation after each episode, by going through every order, tie and return."""
    true_means = [sum(own) / len(own) for own in policies]
    orders = list(itertools.permutations(range(len(policies)), drawn))
    totals = [Fraction(0)] * episodes

    def play(arms: tuple[int, ...], seen: tuple[tuple[float, ...], ...], number: int, weight: Fraction) -> None:
        if number > episodes:
            return
        fresh = [place for place, own in enumerate(seen) if not own]
        if fresh:
            choices = fresh[:1]  # the order is random already
        else:
            bounds = [sum(own) / len(own) + float(np.sqrt(2 * np.log(number) / len(own))) for own in seen]
            choices = [place for place, bound in enumerate(bounds) if bound == max(bounds)]
        for place in choices:
            for value in policies[arms[place]]:
                after = tuple((*own, value) if k == place else own for k, own in enumerate(seen))
                chance = weight / len(choices) / len(policies[arms[place]])
                means = [sum(own) / len(own) if own else -np.inf for own in after]
                totals[number - 1] += chance * Fraction(true_means[arms[means.index(max(means))]])
                play(arms, after, number + 1, chance)

    for order in orders:
        play(order, ((),) * drawn, 1, Fraction(1, len(orders)))
    return [float(total) for total in totals]


@pytest.mark.parametrize(
    ("policies", "drawn", "episodes"),
    [
        ([[0.0, 1.0], [0.25, 0.75], [0.5]], 3, 7),
        ([[0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], 2, 6),  # successes, so that there are many ties
        ([[-3.0, 1.0], [-2.0], [-4.0, 2.0], [-1.0, -1.5]], 2, 7),  # below 0: none that was not played is held
        ([[5.0, 90.0], [40.0, 60.0], [30.0]], 3, 8),
        ([[1.0, 0.0], [0.5]], 2, 12),
    ],
)
def test_it_is_what_enumeration_of_every_course_gives(policies, drawn, episodes):
    exact = enumerated(policies, drawn, episodes)
    repetitions = 60_000
    arrays = [np.array(own) for own in policies]
    found = bandit.held(arrays, drawn, episodes, repetitions, np.random.default_rng(2))
    error = found.std(0) / np.sqrt(repetitions)
    assert np.abs(found.mean(0) - exact) == pytest.approx(0, abs=float(4.5 * error.max()) + 1e-12)
    assert (np.abs(found.mean(0) - exact) <= 4.5 * error + 1e-12).all()


def one_by_one(policies: list[np.ndarray], drawn: int, episodes: int, random: np.random.Generator) -> list[float]:
    """One repetition as unifloral's loop: an unplayed policy has an unbounded bonus, ties are broken at random."""
    arms = random.choice(len(policies), drawn, replace=False)
    counts, sums, held = np.zeros(drawn), np.zeros(drawn), []
    for t in range(1, episodes + 1):
        with np.errstate(divide="ignore", invalid="ignore"):
            bounds = np.where(counts > 0, sums / counts + np.sqrt(2 * np.log(t) / counts), np.inf)
        arm = random.choice(np.flatnonzero(bounds == bounds.max()))
        counts[arm] += 1
        sums[arm] += random.choice(policies[arms[arm]])
        means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
        held.append(float(policies[arms[means.argmax()]].mean()))
    return held


def test_it_is_what_a_plain_simulation_gives():
    random = np.random.default_rng(3)
    policies = [random.normal(mean, 30, 40) for mean in np.linspace(20, 70, 12)]
    plain = np.array([one_by_one(policies, 8, 40, random) for _ in range(400)])
    fast = bandit.held(policies, 8, 40, 20_000, random)
    error = np.hypot(plain.std(0) / np.sqrt(len(plain)), fast.std(0) / np.sqrt(len(fast)))
    assert (np.abs(plain.mean(0) - fast.mean(0)) <= 4 * error).all()


def test_the_curve_is_seeded_and_its_interval_is_that_of_the_mean():
    random = np.random.default_rng(4)
    policies = [random.normal(mean, 20, 100) for mean in (30, 50, 55)]
    one, other = bandit.curve(policies), bandit.curve(policies)
    assert (one.mean == other.mean).all() and (one.low == other.low).all()
    assert len(one.mean) == 200
    assert (one.low <= one.mean).all() and (one.mean <= one.high).all()
    found = bandit.held(policies, 3, 200, 500, np.random.default_rng(0))
    half = 1.96 * found.std(0) / np.sqrt(500)
    middle = half > 0.2  # where it is not almost always the same policy
    assert (one.high - one.low)[middle] == pytest.approx(2 * half[middle], rel=0.15)
    assert one.mean[-1] == pytest.approx(max(own.mean() for own in policies), abs=2)


# Reports


@cache
def kept_scores(mean: float) -> np.ndarray:
    return np.random.default_rng(int(mean)).normal(mean, 10, 100)


def made(folder: Path, env: str, algorithm: str, means: Sequence[float], **more) -> list[Path]:
    """A run with kept episodes for each mean score."""
    runs = []
    for seed, mean in enumerate(means):
        runs.append(make_run(folder, env, (*SHORT, f"algorithm={algorithm}"), seed, [mean] * 4, **more))
        keep(runs[-1], kept_scores(mean))
    return runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two algorithms on hopper, and one on walker2d."""
    made(tmp_path, HOPPER, "iql", [40.0, 50.0, 60.0, 70.0])
    made(tmp_path, HOPPER, "bc", [30.0, 35.0, 36.0])
    made(tmp_path, WALKER, "iql", [20.0, 25.0])
    return tmp_path


def compiled(folder: Path) -> Report:
    return compile_report(Reader([folder / "made"]), budget=True)


def test_a_method_is_an_algorithm_with_all_its_runs_on_a_task(folder):
    (table,) = compiled(folder).tables
    found = [(each.env, each.algorithm, each.policies, each.drawn, each.episodes) for each in table.methods]
    assert found == [(HOPPER, "BC", 3, 3, 100), (HOPPER, "IQL", 4, 4, 100), (WALKER, "IQL", 2, 2, 100)]
    last = {(each.env, each.algorithm): each.curve.mean[-1] for each in table.methods}
    assert last[HOPPER, "IQL"] == pytest.approx(kept_scores(70.0).mean(), abs=0.5)
    assert last[WALKER, "IQL"] == pytest.approx(kept_scores(25.0).mean(), abs=1.5)


def test_a_chart_for_each_task_with_a_curve_for_each_algorithm(folder):
    report = compiled(folder)
    drawn = [each for each in charts(report, Style(report)) if each.section == "budget"]
    assert [(each.task, [trace["name"] for trace in each.data]) for each in drawn] == [
        (HOPPER, ["IQL", "IQL", "BC", "BC"]),
        (WALKER, ["IQL", "IQL"]),
    ]
    method = report.tables[0].methods[1]
    line = drawn[0].data[1]
    assert line["x"] == list(range(1, 201)) and line["meta"] == ""
    assert line["y"] == pytest.approx(method.curve.mean.tolist())
    assert "IQL ends at" in drawn[0].alternative
    page = html(report, folder / "report.html")
    assert '<h2 id="budget-title">Evaluation under a budget</h2>' in page


def test_the_csv_has_every_point(folder):
    report = compiled(folder)
    rows = list(csv.DictReader(io.StringIO(budgets(report))))
    assert len(rows) == 3 * 200
    row = rows[200 + 49]
    method = report.tables[0].methods[1]
    assert [row[name] for name in ("task", "algorithm", "policies", "drawn", "kept_episodes", "episodes")] == [
        HOPPER,
        "IQL",
        "4",
        "4",
        "100",
        "50",
    ]
    mean, (low, high) = method.curve.at(50)
    assert [float(row[name]) for name in ("mean", "mean_low", "mean_high")] == [mean, low, high]


def test_pictures_and_tables(folder):
    report = compiled(folder)
    assert image(report, "png").startswith(b"\x89PNG")
    drawn = image(report, "svg").decode()
    assert "episodes" in drawn or "<svg" in drawn
    first = next(iter(grids(report.tables[0])))
    assert [row.heads for row in first.rows][:2] == [[HOPPER, "3; 4", "1"], [HOPPER, "3; 4", "10"]]
    at = report.tables[0].methods[1].curve.at(10)
    assert first.rows[1].cells[0].line == f"{at[0]:.1f} [{at[1][0]:.1f}, {at[1][1]:.1f}]"
    assert first.rows[1].cells[0].best and not first.rows[1].cells[1].best
    assert first.rows[-1].cells[1].text == ""  # BC has no run on walker2d
    for text in (markdown(report), latex(report), shown(report)):
        assert "Evaluation under a budget" in text


def shown(report: Report) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(terminal(report, 200))
    return console.file.getvalue()


def test_without_the_option_nothing_is_read_or_shown(folder):
    for path in folder.rglob("episodes.npz"):
        path.write_bytes(b"no archive")
    report = compile_report(Reader([folder / "made"]))
    assert not any(table.methods for table in report.tables)
    assert "under a budget" not in markdown(report) + html(report, folder / "report.html")


def test_runs_that_differ_in_protocol_are_chosen_from_apart(folder):
    for seed in range(2):
        keep(make_run(folder, HOPPER, ("updates=10000", "log_every=5000"), seed, [9.0, 9.0]), kept_scores(9.0))
    report = compiled(folder)
    assert {each.policies for table in report.tables for each in table.methods if each.algorithm == "IQL"} == {4, 2}
    assert len({(table.letter, each.policies) for table in report.tables for each in table.methods}) == 4


# Refusals


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        compiled(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_finished_runs_without_kept_episodes_are_refused(folder):
    run = make_run(folder, WALKER, (*SHORT, "algorithm=bc"), 0, [1.0] * 4)
    said = refusal(folder)
    assert said.startswith(f"--budget: 1 of 10 finished runs have no kept episodes, as {run}; ")
    assert "--keep" in said and "evaluation.final_episodes=1000" in said


def test_unfinished_runs_are_left_out(folder):
    make_run(folder, WALKER, (*SHORT, "algorithm=bc"), 0, [1.0, 1.0], state="failed")
    assert len(compiled(folder).tables[0].methods) == 3


def test_damaged_episodes_are_refused(folder):
    path = next(folder.rglob("episodes.npz"))
    path.write_bytes(path.read_bytes()[:200])
    assert refusal(folder).startswith(f"{path} is damaged")


def test_episodes_of_networks_that_are_no_more_are_refused(folder):
    path = next(folder.rglob("episodes.npz"))
    (path.parent / "networks.ckpt").write_text(f"iql-checkpoint 1 sha256={'0' * 64}\n")
    assert refusal(folder).startswith(f"{path}: episodes of other networks than networks.ckpt")


def test_episodes_in_another_simulator_are_refused(folder):
    (run,) = made(folder, WALKER, "bc", [1.0], facts={"mujoco": "9.9"})
    said = refusal(folder)
    assert said.startswith(
        f"{run / 'episodes.npz'}: played in d4rl physics on mujoco {MUJOCO}, the run's evaluations in"
    )
    assert "mujoco 9.9" in said


def test_one_policy_is_no_choice(tmp_path):
    made(tmp_path, HOPPER, "iql", [1.0])
    with pytest.raises(NoRuns, match="needs two finished runs"):
        compiled(tmp_path)


def test_a_hostile_archive_is_refused_and_not_unpickled(folder):
    path = next(folder.rglob("episodes.npz"))
    for arrays, said in (
        ({"scores": np.array([{}], object)}, "Python objects"),
        ({"scores": np.zeros(3), "returns": np.zeros(2), "lengths": np.zeros(3, np.int32)}, "shapes"),
        ({"scores": np.array([np.nan]), "returns": np.zeros(1), "lengths": np.zeros(1, np.int32)}, "not finite"),
        ({"scores": np.array(["x"]), "returns": np.zeros(1), "lengths": np.zeros(1, np.int32)}, "cast"),
        ({"scores": np.zeros(0), "returns": np.zeros(0), "lengths": np.zeros(0, np.int32)}, "shapes"),
        ({"returns": np.zeros(1)}, "scores"),
        ({"scores": np.zeros(1), "returns": np.zeros(1), "lengths": np.zeros(1, np.int32)}, "seed"),
    ):
        with open(path, "wb") as file:
            np.savez(file, **arrays)
        assert said in refusal(folder)


# Sweeps whose values are drawn


def test_a_drawn_seed_is_not_missed_elsewhere(tmp_path):
    for seed, tau in ((11, 0.5), (29, 0.9)):
        run = make_run(tmp_path, HOPPER, (*SHORT, f"algorithm.tau={tau}"), seed, [1.0] * 4)
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["settings"]["sweep"] |= {"draws": 2, "seed": 0}
        (run / "manifest.json").write_text(json.dumps(manifest))
    report = compile_report(Reader([tmp_path / "made"]))
    assert not [note for note in report.notes if "missing" in note]
    assert "0 of" not in comma_separated(report)
