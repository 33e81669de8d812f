"""A report as one HTML file that needs no network: tables, charts, maps, runs."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from iql.reporting.charts.budgets import budgets
from iql.reporting.charts.chart import Chart, Omission, Style
from iql.reporting.charts.comparisons import improvements, profiles
from iql.reporting.charts.curves import diagnostics, exploration, learning_curves
from iql.reporting.charts.sensitivity import heat_maps, sensitivities
from iql.reporting.protocols import Protocol, differences
from iql.reporting.report import Report
from iql.reporting.results import Table
from iql.reporting.run_records import RunRecord
from iql.reporting.tables.cells import METHOD, UNDER_BUDGET, counted
from iql.reporting.tables.grids import by_suite, by_task
from iql.reporting.tables.rows import aggregates, results

MAX_MAPS = 24
"""Value maps in a page, one for each configuration of a task: each takes about 30 kB."""

MAP_WIDTH = 720  # pixels

INITIALLY_SHOWN = 12
"""Configurations that are shown at first. Beyond eight, colours repeat with another dash."""

SECTIONS = {
    "curves": "Learning curves",
    "sweep": "What was swept",
    "compare": "Configurations against each other",
    "budget": "Evaluation under a budget",
    "diagnostics": "Diagnostics",
}

_ASSETS = Path(__file__).parent / "assets"


def html(report: Report, path: Path, refresh: float | None = None) -> str:
    """The page, whose links are relative to `path`; refresh: seconds after which it reloads itself."""
    from plotly.offline import get_plotlyjs

    style = Style(report)
    found = list(charts(report, style))
    drawn = [each for each in found if isinstance(each, Chart)]
    protocols = differences({table.letter: table.protocol for table in report.tables if table.letter})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        report=report,
        counted=counted(report),
        method=METHOD,
        budget=UNDER_BUDGET,
        written=time.strftime("%Y-%m-%d %H:%M"),
        tables=[_table(table) for table in report.tables],
        tasks=sorted({run.env for run in report.runs}),
        labels=[(label, style.colour(label), style.dash(label)) for label in style.order],
        shown=INITIALLY_SHOWN,
        sections={name: title for name, title in SECTIONS.items() if any(each.section == name for each in found)},
        omitted={name: _omitted(found, name) for name in SECTIONS},
        protocols=[f"{letter}: {what}" for letter, what in protocols.items()],
        maps=list(_maps(report)),
        runs=[_run(report, run, path) for run in report.runs],
        commits=sorted({run.commit for run in report.runs if run.commit}),
        data=_embedded([vars(chart) for chart in drawn]),
        refresh=refresh,
        css=(_ASSETS / "page.css").read_text(),
        script=(_ASSETS / "page.js").read_text(),
        plotly=get_plotlyjs(),
    )


def charts(report: Report, style: Style) -> Iterator[Chart | Omission]:
    """Every chart for which the runs have data, in the page's order, and the omitted ones with the reason."""
    for table in report.tables:
        yield from learning_curves(report, table, style)
        yield from exploration(report, table, style)
    for table in report.tables:
        yield from heat_maps(report, table)
        yield from sensitivities(report, table)
    for table in report.tables:
        yield from profiles(table, style)
        yield from improvements(table)
    for table in report.tables:
        yield from budgets(report, table, style)
    for table in report.tables:
        yield from diagnostics(report, table, style)


def _omitted(results: Iterable[Chart | Omission], section: str) -> list[str]:
    """A sentence for every reason for which charts of a section are omitted."""
    subjects: dict[str, list[str]] = {}
    for each in results:
        if isinstance(each, Omission) and each.section == section:
            known = subjects.setdefault(each.why, [])
            if each.subject not in known:
                known.append(each.subject)
    return [f"{why}: {'; '.join(known)}." for why, known in subjects.items()]


def _table(table: Table) -> dict[str, Any]:
    """Headers and rows of the results, which the page filters by task and configuration, and of other tables."""
    header, rows = results(table)
    wide, over = aggregates(table)
    return {
        "heading": table.heading,
        "grids": [by_task(table)] * (len(table.algorithms) > 1) + [each for each in [by_suite(table)] if each.rows],
        "configurations": set(table.compared),
        "header": header,
        "rows": rows,
        "aggregate_header": wide,
        "aggregates": over,
        "sources": table.sources,
    }


def _run(report: Report, run: RunRecord, path: Path) -> dict[str, Any]:
    """A line of the table of runs."""
    relative = Path(os.path.relpath(run.directory.resolve(), path.resolve().parent))
    return {
        "task": run.env,
        "label": report.labels.of(run),
        "seed": run.seed,
        "state": run.state,
        "score": run.score,
        "at": run.update,
        "of": run.protocol.updates,
        "speed": run.speed,
        "host": run.host,
        "device": run.device,
        "directory": str(relative),
        "link": quote(relative.as_posix()) + "/",
        "wandb": run.wandb if run.wandb and run.wandb.startswith(("https://", "http://")) else None,
        "reason": run.reason,
    }


def _maps(report: Report) -> Iterator[dict[str, str]]:
    """For each configuration of a maze, the value map of its first seed that has one; omissions become notes."""
    included: set[tuple[Protocol, str, str]] = set()
    omitted: set[tuple[Protocol, str, str]] = set()
    letters = {table.protocol: table.letter for table in report.tables}
    for run in report.runs:
        label, picture = report.labels.of(run), run.directory / "map.png"
        group = run.protocol, run.env, label
        if group in included or not picture.is_file():
            continue
        if len(included) == MAX_MAPS:
            omitted.add(group)
            continue
        try:
            content = _smaller(picture)
        except (OSError, ValueError) as error:
            report.notes.append(f"{picture}: cannot be read, left out ({error})")
            continue
        included.add(group)
        name = f"{label}, seed {run.seed}" + (f", protocol {letters[run.protocol]}" if letters[run.protocol] else "")
        reached = (run.summary or {}).get("success_rate")
        outcome = f"; {reached:.0%} of the last evaluation's rollouts reach the goal" if reached is not None else ""
        yield {
            "task": run.env,
            "label": label,
            "caption": f"{run.env}, {name}",
            "alternative": f"V over {run.env} with rollouts of the policy, {name}{outcome}",
            "source": f"data:image/webp;base64,{base64.b64encode(content).decode()}",
        }
    if omitted:
        report.notes.append(f"value maps of {len(omitted)} more configurations are left out of the page")


def _smaller(picture: Path) -> bytes:
    from PIL import Image

    with Image.open(picture) as image:
        image.thumbnail((MAP_WIDTH, MAP_WIDTH))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "webp", quality=80)
    return buffer.getvalue()


def _embedded(content: Any) -> str:
    """JSON that can be embedded in a script element: nothing in it ends the element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
