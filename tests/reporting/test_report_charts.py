"""The charts that Chromium draws of unusual runs, read back from their SVG, agree with the runs' directories."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_reports import make_run
from chromium import CHROMIUM, MISSING, chromium, draw_all
from playwright.sync_api import Locator, Page

from iql.reporting.page import html
from iql.reporting.report import compile_report
from iql.reporting.run_records import Reader

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]

SHORT = ("updates=20000", "log_every=5000")
GRID, OWN = "hopper-medium-v2", "größe-迷路"
ODD_TEXTS = ("<b>größer</b> & <i>", "0.5", "10", "3")


def make_odd_runs(folder: Path) -> None:
    """Numbers of two types, null, lists, texts like numbers or HTML, huge and negative scores, several protocols."""

    def made(env: str, overrides: tuple[str, ...], seed: int, score: float, **changes: Any) -> None:
        facts = {"custom": True, "physics": None, "mujoco": None} if env == "hdf5" else {}
        run = make_run(folder, env, (*SHORT, *overrides), seed, [score / 2, score, score], facts=facts)
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["settings"]["algorithm"] |= changes
        (run / "manifest.json").write_text(json.dumps(manifest))

    # beta as earlier versions wrote it: as it was typed, or as the default has it
    grid = {(0.9, 10): 15.4, (0.95, 10.0): 15.1, (0.9, 3): 46.2, (0.7, 10): -3.3, (0.7, 3.0): 20.0}
    for ((tau, beta), score), seed in itertools.product(grid.items(), range(2)):
        made(GRID, (f"algorithm.tau={tau}", f"algorithm.beta={beta}"), seed, score + seed, beta=beta)
    for lr in (1e-05, 0.0001, 0.0003, 0.001):
        made("walker2d-medium-v2", (f"optimizer.lr={lr}",), 0, -1234567.891 * lr)
    for rate in ("null", 0.05, 0.1):
        made("pen-human-v1", (f"network.policy.dropout={rate}",), 0, 12345.678)
    for dims, seed in itertools.product(("[64,64]", "[256,256]", "[1024]"), range(3)):
        made("halfcheetah-medium-v2", (f"network.hidden_dims={dims}",), seed, len(dims) + 1.7 * seed)
    for episodes, tau, seed in itertools.product((10, 7), (0.7, 0.9), range(3)):
        overrides = (f"evaluation.episodes={episodes}", f"algorithm.tau={tau}")
        made("door-human-v1", overrides, seed, 10 * tau + seed + episodes)
    for index, text in enumerate(ODD_TEXTS):
        made("hammer-human-v1", (f"algorithm.discount={0.9 + index / 100}",), 0, 7.0 * index, discount=0.9, own=text)
    for index, fresh in enumerate((True, False)):
        made("hdf5", ("env.path=x.hdf5", f"env.name='{OWN}'", f"algorithm.fresh_value={fresh}"), 0, index + 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    make_odd_runs(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    file = folder / "report.html"
    file.write_text(html(compile_report(Reader([folder / "made"])), file))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)  # a busy machine
        page.goto(file.as_uri())
        page.locator("[data-filter=configuration] [data-all=true]").dispatch_event("click")  # it may be folded away
        draw_all(page)
        yield page


# The numbers, read from the directories and nothing else of the project


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in folder.rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        evaluations = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        found.append(
            {
                "task": manifest["run"].split("/")[0],
                "settings": manifest["settings"],
                "score": json.loads((path.parent / "summary.json").read_text())["score"],
                "curve": {each["update"]: each["score"] for each in evaluations if each["kind"] == "eval"},
            }
        )
    return found


def setting(run: dict[str, Any], name: str) -> str:
    """A setting by the last part of its key, as the page should write it."""
    sections = [node for node in run["settings"].values() if isinstance(node, dict)]
    nodes = [*sections, run["settings"]["network"]["policy"]]
    value = next(node[name] for node in nodes if name in node)
    if isinstance(value, list):
        return "x".join(map(str, value))
    return "none" if value is None else re.sub(r"\.0$", "", str(value))


def episodes_of(page: Page, caption: str) -> int | None:
    """The episodes of the protocol that a caption names by its letter, as the results' headings spell it out."""
    letter = re.search(r"protocol (\w)$", caption)
    if letter is None:
        return None
    heading = page.locator("#results h3", has_text=f"Protocol {letter[1]}:").inner_text()
    return int(re.search(r"of (\d+) episodes", heading)[1])


def of_chart(page: Page, runs: list[dict[str, Any]], figure: Locator) -> list[dict[str, Any]]:
    task, episodes = figure.get_attribute("data-task"), episodes_of(page, caption_of(figure))
    own = [run for run in runs if run["task"] == task]
    return [run for run in own if episodes in (None, run["settings"]["evaluation"]["episodes"])]


# What was drawn


def caption_of(figure: Locator) -> str:
    return figure.locator("figcaption").inner_text()


def figures(page: Page, section: str, kind: str) -> list[Locator]:
    """The charts of a section of Plotly's kind."""
    every = page.locator(f"#{section} figure").all()
    return [each for each in every if each.locator(".chart").evaluate("plot => plot.data[0].type") == kind]


def texts(figure: Locator, selector: str) -> list[tuple[str, float, float]]:
    """Every text that is drawn, with the middle of its box."""
    return figure.locator(selector).evaluate_all(
        "nodes => nodes.map(node => { const b = node.getBoundingClientRect();"
        " return [node.textContent, b.x + b.width / 2, b.y + b.height / 2]; })"
    )


def nearest(ticks: list[tuple[str, float, float]], at: float, axis: int) -> str:
    return min(ticks, key=lambda tick: abs(tick[axis] - at))[0]


def cells(figure: Locator) -> dict[tuple[str, str], str]:
    """The labels within a heat map, by the row's and the column's tick."""
    across, down = texts(figure, ".xtick text"), texts(figure, ".ytick text")
    assert len({text for text, *_ in across}) == len(across)
    assert len({text for text, *_ in down}) == len(down)
    labels = texts(figure, ".heatmap-label text")
    found = {(nearest(down, y, 2), nearest(across, x, 1)): text for text, x, y in labels}
    assert len(found) == len(labels)
    return found


def number(text: str) -> float:
    """A tick of a linear axis: −1.5k."""
    factor = {"k": 1e3, "M": 1e6}.get(text[-1], 1.0)
    return float(text.rstrip("kM").replace("−", "-").replace(",", "")) * factor


def heights(figure: Locator) -> tuple[float, float]:
    """Value at screen position 0, and per pixel downwards, of a linear y axis."""
    ticks = texts(figure, ".ytick text")
    (low, _, bottom), (high, _, top) = ticks[0], ticks[-1]
    slope = (number(high) - number(low)) / (top - bottom)
    return number(low) - slope * bottom, slope


def hovered(page: Page, x: float, y: float) -> str:
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y, steps=3)
    page.wait_for_selector(".hoverlayer .hovertext")
    return page.locator(".hoverlayer").evaluate_all("layers => layers.map(each => each.textContent).join('')")


def test_a_heat_map_has_a_row_for_each_value_and_every_cell_its_own_number(page, runs):
    (figure,) = figures(page, "sweep", "heatmap")
    expected = defaultdict(list)
    for run in of_chart(page, runs, figure):
        expected[setting(run, "beta"), setting(run, "tau")].append(run["score"])
    assert [text for text, *_ in texts(figure, ".ytick text")] == ["3", "10"]
    assert [text for text, *_ in texts(figure, ".xtick text")] == ["0.7", "0.9", "0.95"]
    assert cells(figure) == {place: f"{np.mean(scores):.1f}" for place, scores in expected.items()}
    figure.scroll_into_view_if_needed()
    across, down = texts(figure, ".xtick text"), texts(figure, ".ytick text")
    for text, x, y in texts(figure, ".heatmap-label text"):
        label = hovered(page, x, y + 12)
        assert label == f"tau {nearest(across, x, 1)}, beta {nearest(down, y, 2)}: {text} (2 runs)"
    figure.locator("summary").click()
    figure.locator("table").wait_for()
    rows = figure.locator("tbody tr").all()
    shown = {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}
    drawn = cells(figure)
    assert shown == {beta: [drawn.get((beta, tau), "") for tau in ("0.7", "0.9", "0.95")] for beta in ("3", "10")}


def test_every_value_of_a_setting_has_one_tick_with_its_dots_above_it(page, runs):
    found = figures(page, "sweep", "scatter")
    assert len(found) == 9  # tau and beta of the grid; of each other task its one setting, tau under two protocols
    for figure in found:
        name = figure.locator(".xtitle").text_content()
        expected = defaultdict(list)
        for run in of_chart(page, runs, figure):
            expected[json.dumps([run["settings"]["algorithm"], run["settings"]["network"]]), setting(run, name)].append(
                run["score"]
            )
        ticks = texts(figure, ".xtick text")
        assert sorted(text for text, *_ in ticks) == sorted({value for _, value in expected}), caption_of(figure)
        zero, slope = heights(figure)
        dots = figure.locator(".scatterlayer .trace").first.locator("path.point")
        points = [(nearest(ticks, x, 1), zero + slope * y) for _, x, y in texts_of_points(dots)]
        means = sorted((value, mean) for value, mean in merged(expected))
        assert [value for value, _ in sorted(points)] == [value for value, _ in means]
        np.testing.assert_allclose([y for _, y in sorted(points)], [y for _, y in means], atol=abs(2 * slope))


def texts_of_points(dots: Locator) -> list[tuple[str, float, float]]:
    return dots.evaluate_all(
        "nodes => nodes.map(node => { const b = node.getBoundingClientRect();"
        " return ['', b.x + b.width / 2, b.y + b.height / 2]; })"
    )


def merged(expected: dict[tuple[str, str], list[float]]) -> list[tuple[str, float]]:
    """The mean over the seeds of each configuration: of the grid both types of beta are one."""
    configurations = defaultdict(list)
    for (settings, value), scores in expected.items():
        configurations[re.sub(r"(\d)\.0\b", r"\1", settings), value] += scores
    return [(value, float(np.mean(scores))) for (_, value), scores in configurations.items()]


def test_a_name_that_looks_like_html_is_drawn_as_it_is_written(page):
    (figure,) = (each for each in figures(page, "sweep", "scatter") if caption_of(each).startswith("own, "))
    assert [text for text, *_ in texts(figure, ".xtick text")] == ["0.5", "3", "10", ODD_TEXTS[0]]
    (curve,) = (each for each in figures(page, "curves", "scatter") if caption_of(each) == "hammer-human-v1")
    legend = curve.locator(".legend li").all_inner_texts()
    assert any(f"own={ODD_TEXTS[0]}" in text for text in legend)
    assert page.locator("b, i", has_text="größer").count() == 0


def test_curves_are_the_mean_over_seeds_of_what_was_recorded(page, runs):
    found = figures(page, "curves", "scatter")
    assert sorted(map(caption_of, found)) == sorted(
        {run["task"] for run in runs} - {"door-human-v1"} | {f"door-human-v1, protocol {letter}" for letter in "AB"}
    )
    for figure in found:
        own = of_chart(page, runs, figure)
        ends = defaultdict(list)
        for run in own:
            settings = {**run["settings"], "seed": 0, "runs": ""}
            ends[re.sub(r"(\d)\.0\b", r"\1", json.dumps(settings))].append(run["curve"])
        lines = figure.locator(".chart").evaluate("plot => plot.data.filter(t => !t.fill).map(t => [...t.x, ...t.y])")
        expected = [[*curves[0], *np.mean([[*curve.values()] for curve in curves], 0)] for curves in ends.values()]
        np.testing.assert_allclose(sorted(lines), sorted(expected), rtol=1e-8)
        assert figure.locator(".legend li").count() == len(ends) * (len(ends) > 1)


def test_a_probability_is_the_share_of_pairs_of_seeds(page, runs):
    found = figures(page, "compare", "heatmap")
    assert len(found) == 2
    for figure in found:
        letter = re.search(r"protocol (\w)", caption_of(figure))[0]
        episodes = episodes_of(page, letter)
        scores = defaultdict(list)
        for run in runs:
            settings = run["settings"]
            if settings["evaluation"]["episodes"] == episodes and run["task"] in (
                "door-human-v1",
                "halfcheetah-medium-v2",
            ):
                shared = (
                    f"tau={setting(run, 'tau')} .*hidden_dims={'x'.join(map(str, settings['network']['hidden_dims']))} "
                )
                scores[run["task"], shared].append(run["score"])
        key = figure.locator(".key li").all_inner_texts()
        numbered = {
            name: str(
                1 + next(i for i, label in enumerate(key) if re.search(name[1], f"{label} ") and task_of(name, label))
            )
            for name in scores
        }
        expected = {}
        for one, other in itertools.permutations(scores, 2):
            if one[0] == other[0]:
                wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(scores[one], scores[other])]
                expected[numbered[one], numbered[other]] = f"{np.mean(wins):.2f}"
        assert cells(figure) == expected


def task_of(name: tuple[str, str], label: str) -> bool:
    """Whether a label is of the task: the two tasks' recipes differ in dropout."""
    return ("dropout=none" in label) == (name[0] == "halfcheetah-medium-v2")
