"""The page of scripts/report.py in a real browser: it renders, filters, zooms, can be read by all, needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from benchmark_reports import make_run
from chromium import CHROMIUM, MISSING, chromium, draw_all
from matplotlib import image
from playwright.sync_api import Browser, Page

from iql.reporting.page import html
from iql.reporting.report import compile_report
from iql.reporting.run_records import Reader
from iql.system.atomic_files import replace_file, write_json

SHORT = ("updates=20000", "log_every=1000")
HOPPER, MAZE = "hopper-medium-v2", "maze2d-umaze-v1"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=MISSING),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 2 tasks × 2 tau × 2 beta × 3 seeds, of which one failed; the mazes have maps."""
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    for env in (HOPPER, MAZE):
        for tau in (0.7, 0.9):
            for beta in (1.0, 3.0):
                for seed in range(3):
                    overrides = (*SHORT, f"algorithm.tau={tau}", f"algorithm.beta={beta}")
                    scores = (50 * tau + beta + random.normal(0, 3, 4)).tolist()
                    lost = (env, tau, beta, seed) == (HOPPER, 0.9, 3.0, 2)
                    run = make_run(
                        folder, env, overrides, seed, scores[: 2 if lost else 4], state="failed" if lost else "done"
                    )
                    if env == MAZE:
                        image.imsave(run / "map.png", random.random((80, 80, 3)))
    (run / "wandb").mkdir()
    (run / "wandb" / "url").write_text("https://wandb.example/iql/runs/1\n")
    write(folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def compared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three algorithms on two tasks, one of which BC lacks."""
    folder = tmp_path_factory.mktemp("compared")
    random = np.random.default_rng(0)
    for env, algorithms in ((HOPPER, ("iql", "bc", "bc_10")), ("walker2d-medium-v2", ("iql", "bc_10"))):
        for algorithm in algorithms:
            for seed in range(3):
                make_run(folder, env, (*SHORT, f"algorithm={algorithm}"), seed, random.normal(50, 5, 4).tolist())
    write(folder / "report.html")
    return folder / "report.html"


def write(path: Path, refresh: float | None = None) -> None:
    report = compile_report(Reader([path.parent / "made"]))
    replace_file(path, html(report, path, refresh).encode())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, page_file: Path) -> Iterator[Opened]:
    """Opens the page; at the end, checks that there was no error on its console and no request besides itself."""
    problems: list[str] = []
    contexts = []

    def open_page(file: Path = page_file, width: int = 1280, scheme: str = "light", touch: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=touch, is_mobile=touch
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a busy machine
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if own(request.url, file) else None)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def own(url: str, file: Path) -> bool:
    return url != file.as_uri() and not url.startswith(("data:", "blob:"))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")])
def test_everything_is_drawn_and_readable(opened, width, scheme):
    page = opened(width=width, scheme=scheme)
    draw_all(page)
    sections = page.eval_on_selector_all("main > section[id]", "nodes => nodes.map(node => node.id)")
    assert sections == ["results", "curves", "sweep", "compare", "diagnostics", "maps", "runs", "notes"]
    assert page.locator("figure:not([hidden]) .chart .main-svg").count() > 15
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out of the window
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    text, ground = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    bright = [sum(map(int, colour[4:-1].split(","))) for colour in (text, ground)]
    assert (bright[0] > bright[1]) == (scheme == "dark")
    axis = page.locator("#curves .xtick text").first.evaluate("node => getComputedStyle(node).fill")
    assert axis == text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_by_screen_reader_and_keyboard(opened, scheme):
    page = opened(scheme=scheme)
    draw_all(page)
    opened_tables = page.locator("#curves summary, #sweep summary")
    for summary in opened_tables.all():
        summary.click()
    page.locator("#curves details table, #sweep details table").nth(opened_tables.count() - 1).wait_for()
    page.evaluate("scrollTo(0, 0)")
    violations = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in violations] == []
    assert "ends at" in page.locator("#curves .chart").first.get_attribute("aria-label")


def test_the_table_has_the_computed_numbers(opened):
    page = opened()
    row = page.locator("#results tr[data-task='hopper-medium-v2'][data-configuration='tau=0.9 beta=3']")
    cells = row.locator("td").all_inner_texts()
    assert cells[1] == "2 of 3"
    assert "66.3" in cells  # the paper's
    assert "seed 2 failed at update 10,000" in page.locator("#notes").inner_text()


def test_filters_hide_rows_charts_and_curves(opened):
    page = opened()
    draw_all(page)
    shown = (
        "[...document.querySelector('#curves .chart').data].filter(trace => trace.visible !== false).map(t => t.meta)"
    )
    assert len(page.evaluate(shown)) == 8  # four lines with their bands
    page.get_by_role("checkbox", name="tau=0.9 beta=3").uncheck()
    assert "tau=0.9 beta=3" not in page.evaluate(shown)
    legend = page.locator("#curves .legend").first
    assert legend.inner_text().split("\n") == ["tau=0.9 beta=1", "tau=0.7 beta=3", "tau=0.7 beta=1"]
    assert len(page.evaluate(shown)) == 6
    assert page.locator("#results tr[data-configuration='tau=0.9 beta=3']:visible").count() == 0
    assert page.locator("#runs tbody tr:visible").count() == 18
    assert page.locator("#filtered").inner_text() == "(2 of 2 tasks, 3 of 4 configurations)"
    page.get_by_role("checkbox", name=HOPPER).uncheck()
    assert page.locator("#curves figure:visible").count() == 1
    assert page.locator("#runs tbody tr:visible").count() == 9
    page.locator("[data-filter=configuration] [data-all=true]").click()
    page.locator("[data-filter=task] [data-all=true]").click()
    assert page.locator("#runs tbody tr:visible").count() == 24


def test_runs_are_searched_sorted_and_linked(opened, page_file):
    page = opened()
    page.get_by_label("Search").fill("hopper beta=3")
    assert page.locator("#runs tbody tr:visible").count() == 6
    page.get_by_label("State").select_option("failed")
    assert page.locator("#counted").inner_text() == "1 of 24 runs"
    assert "a loss is not finite" in page.locator("#runs tbody tr:visible").inner_text()
    page.get_by_label("State").select_option("")
    page.get_by_label("Search").fill("")
    head = page.locator("#runs th:nth-child(5)")
    for order in ("ascending", "descending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        scores = page.eval_on_selector_all("#runs tbody tr", "rows => rows.map(row => row.cells[4].textContent)")
        assert scores[-1] == ""  # the failed one has none, and is last in both orders
        numbers = list(map(float, scores[:-1]))
        assert numbers == sorted(numbers, reverse=order == "descending")
    links = page.eval_on_selector_all("#runs tbody a", "links => links.map(link => link.href)")
    for link in (each for each in links if each.startswith("file:")):
        assert (
            page.request is not None
            and Path(page.evaluate("url => decodeURIComponent(new URL(url).pathname)", link)).is_dir()
        )
    assert "https://wandb.example/iql/runs/1" in links


def test_a_chart_zooms_by_mouse_and_keyboard_and_takes_log_axes(opened):
    page = opened()
    draw_all(page)
    chart = page.locator("#curves .chart").first
    chart.scroll_into_view_if_needed()
    span = (
        "(() => { const [a, b] = document.querySelector('#curves .chart')._fullLayout.xaxis.range; return b - a; })()"
    )
    whole = page.evaluate(span)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.41, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{span} < {0.5 * whole}")
    chart.focus()
    page.keyboard.press("0")
    page.wait_for_function(f"Math.abs({span} - {whole}) < 1")
    page.keyboard.press("+")
    page.wait_for_function(f"{span} < {0.8 * whole}")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("0")
    button = page.get_by_role("button", name=f"logarithmic x axis: {HOPPER}", exact=True).first
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    page.wait_for_function("document.querySelector('#curves .chart')._fullLayout.xaxis.type === 'log'")


@pytest.mark.parametrize("touch", [False, True])
def test_buttons_are_below_a_chart_and_nothing_overlaps_it(opened, touch):
    page = opened(width=390, touch=touch)
    draw_all(page)
    assert page.locator(".modebar-btn").count() == 0
    figure = page.locator("#sweep figure").first
    figure.scroll_into_view_if_needed()
    plot, tools = figure.locator(".chart").bounding_box(), figure.locator(".tools").bounding_box()
    assert tools["y"] >= plot["y"] + plot["height"]
    span = "(() => { const [a, b] = document.querySelector('#sweep .chart')._fullLayout.xaxis.range; return b - a; })()"
    whole = page.evaluate(span)
    for name, factor in (("zoom in", 0.7), ("zoom out", 1.0), ("zoom out", 1 / 0.7), ("show all", 1.0)):
        figure.get_by_role("button", name=name).click()
        page.wait_for_function(f"Math.abs({span} - {factor * whole}) < 1e-6")
    with page.expect_download() as download:
        figure.get_by_role("button", name="save as a picture").click()
    assert download.value.suggested_filename == f"{HOPPER}.png"
    assert image.imread(download.value.path()).shape[:2] == (1000, 1600)


def test_every_chart_is_printed_in_dark_colours(opened):
    page = opened(scheme="dark")
    page.evaluate("""addEventListener("beforeprint", () => {
        const charts = [...document.querySelectorAll("figure:not([hidden]) > .chart")];
        window.printed = charts.map(chart => [chart._fullLayout?.width, chart._fullLayout?.font.color]);
    })""")
    page.pdf()
    printed = page.evaluate("window.printed")
    assert len(printed) > 15
    assert {tuple(each) for each in printed} == {(620, "#1f2328")}
    chart = page.locator("#curves .chart").first
    page.wait_for_function("document.querySelector('#curves .chart')._fullLayout.font.color === '#e6edf3'")
    page.wait_for_function(
        f"document.querySelector('#curves .chart')._fullLayout.width === {chart.bounding_box()['width']:.0f}"
    )


def test_hovering_shows_values(opened):
    page = opened()
    draw_all(page)
    chart = page.locator("#curves .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 100)
    page.mouse.move(box["x"] + 250, box["y"] + 110, steps=5)
    page.wait_for_selector("#curves .hoverlayer .hovertext")
    assert "mean of" in page.locator("#curves .hoverlayer").first.text_content()


def test_a_chart_is_also_a_table(opened):
    page = opened()
    page.locator("#curves summary").first.click()
    table = page.locator("#curves details table").first
    table.wait_for()  # it is made once the browser has opened the details
    assert table.locator("thead th").all_inner_texts()[0] == "updates"
    assert table.locator("tbody th").all_inner_texts() == ["5000", "10000", "15000", "20000"]
    drawn = page.evaluate("document.querySelector('#curves .chart').chart.data.find(t => t.showlegend !== false).y[3]")
    assert float(table.locator("tbody tr").nth(3).locator("td").first.inner_text()) == drawn


def test_diagnostics_are_of_the_task_that_is_chosen(opened):
    page = opened()
    assert page.locator("#diagnostics figure:visible").count() == 12
    page.locator("#diagnosed").select_option(MAZE)
    captions = page.locator("#diagnostics figure:visible figcaption").all_inner_texts()
    assert len(captions) == 12
    assert all(MAZE in caption for caption in captions)
    draw_all(page)


def test_colours_can_be_chosen(opened):
    page = opened(scheme="light")
    button = page.locator("#theme")
    assert button.get_attribute("aria-label") == "Colours: as the system"
    button.click()
    button.click()
    assert button.get_attribute("aria-label") == "Colours: dark"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_maps_have_alternative_texts(opened):
    page = opened()
    pictures = page.locator("#maps img")
    assert pictures.count() == 4  # of each configuration the first seed's
    pictures.first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#maps img').naturalWidth > 0")
    assert "V over maze2d-umaze-v1" in pictures.first.get_attribute("alt")


def test_a_page_that_reloads_keeps_the_filters(opened, page_file):
    live = page_file.with_name("live.html")
    write(live, refresh=5)  # time to choose something in
    page = opened(live)
    page.get_by_role("checkbox", name="tau=0.9 beta=3").uncheck()
    page.evaluate("window.before = true; scrollTo(0, 700)")
    failed = next(page_file.parent.glob("made/hopper*/*tau=0.9*/seed=2/failed.json"))
    reason = json.loads(failed.read_text())
    try:
        write_json(failed, {**reason, "reason": "something else"})
        write(live, refresh=0.5)
        page.wait_for_function("!window.before && document.documentElement.dataset.ready")
        page.wait_for_function("document.querySelector('#notes').textContent.includes('something else')")
    finally:
        write_json(failed, reason)
    write(live)  # the runs have ended: the page no longer reloads
    page.wait_for_function("document.body.dataset.refresh === '' && document.documentElement.dataset.ready")
    assert not page.get_by_role("checkbox", name="tau=0.9 beta=3").is_checked()
    assert page.evaluate("scrollY") > 300


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_table_by_task_and_algorithm_is_readable_and_filtered(opened, compared_file, width, scheme):
    page = opened(compared_file, width=width, scheme=scheme)
    table = page.locator("#results table.grid")
    shown = lambda: [each.inner_text() for each in table.locator("thead th:visible").all()]  # noqa: E731
    assert sorted(shown()[2:]) == ["10 % BC", "BC", "IQL"]
    names = table.locator("tbody th[scope=row]").all_inner_texts()
    assert names == [HOPPER, "walker2d-medium-v2", *(f"{kind}, 2 tasks of locomotion" for kind in ("mean", "IQM"))]
    row = table.locator(f"tr[data-task='{HOPPER}']")
    assert row.locator("td[data-configuration='IQL'] .published").inner_text() == "66.3 paper"
    weights = {row.locator("strong").first.evaluate("node => getComputedStyle(node).fontWeight")}
    assert weights == {"700"}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    holder = page.locator(".scroll:has(.grid)")
    holder.evaluate("node => { node.scrollLeft = 1000; }")
    edges = [each.evaluate("node => node.getBoundingClientRect().left") for each in (holder, table.locator("th").first)]
    assert edges[1] - edges[0] < 3  # the tasks' names stay in view
    filters = page.locator(".filters summary")
    assert filters.evaluate("node => node.parentNode.open") == (width > 640)  # on a phone, the results come first
    if width <= 640:
        filters.click()
    page.locator("[data-filter='configuration'] input[value='BC']").uncheck()
    assert sorted(shown()[2:]) == ["10 % BC", "IQL"]
    assert row.locator("td:visible").count() == 3  # seeds and two algorithms
    page.locator(f"[data-filter='task'] input[value='{HOPPER}']").uncheck()
    assert not row.is_visible()
    assert [(each["id"], each["nodes"][0]["html"]) for each in Axe().run(page).response["violations"]] == []


def test_the_probabilities_of_improvement_have_intervals_in_their_table(opened, compared_file):
    page = opened(compared_file)
    draw_all(page)
    figure = page.locator("#compare figure", has_text="Probability of improvement")
    figure.locator("summary").click()
    cells = figure.locator("tbody td").all_inner_texts()
    assert len(cells) == 9
    assert sum("[" in cell for cell in cells) == 6  # not of an algorithm with itself
