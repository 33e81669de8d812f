"""A report as one HTML file that needs no network: tables, charts, maps, runs."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from iql.reporting import tables
from iql.reporting.chart import Chart, Omission, Style
from iql.reporting.comparisons import improvements, profiles
from iql.reporting.curves import diagnostics, learning_curves
from iql.reporting.protocols import differences
from iql.reporting.reading import Protocol, RunRecord
from iql.reporting.results import Report, Table
from iql.reporting.sensitivity import heat_maps, sensitivities

MOST_MAPS = 24
"""Value maps in a page at most, one for each configuration of a task: each takes some 30 kB."""

MAP_WIDTH = 720  # pixels

SHOWN = 8
"""Configurations whose curves are drawn at first: more are not told apart."""

SECTIONS = {
    "curves": "Learning curves",
    "sweep": "What was swept",
    "compare": "Configurations against each other",
    "diagnostics": "Diagnostics",
}

_ASSETS = Path(__file__).parent / "assets"


def html(report: Report, path: Path, refresh: float | None = None) -> str:
    """The page, whose links are relative to `path`; refresh: seconds after which it loads itself anew."""
    from plotly.offline import get_plotlyjs

    style = Style(report)
    made = list(charts(report, style))
    drawn = [each for each in made if isinstance(each, Chart)]
    unlike = differences({table.letter: table.protocol for table in report.tables if table.letter})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        report=report,
        counted=tables.counted(report),
        method=tables.METHOD,
        written=time.strftime("%Y-%m-%d %H:%M"),
        tables=[_table(table) for table in report.tables],
        tasks=sorted({run.env for run in report.runs}),
        labels=[(label, style.colour(label), style.dash(label)) for label in style.order],
        shown=SHOWN,
        sections={name: title for name, title in SECTIONS.items() if any(each.section == name for each in made)},
        omitted={name: _omitted(made, name) for name in SECTIONS},
        protocols=[f"{letter}: {what}" for letter, what in unlike.items()],
        maps=list(_maps(report)),
        runs=[_run(report, run, path) for run in report.runs],
        commits=sorted({run.commit for run in report.runs if run.commit}),
        data=_embedded([asdict(chart) for chart in drawn]),
        refresh=refresh,
        css=(_ASSETS / "page.css").read_text(),
        script=(_ASSETS / "page.js").read_text(),
        plotly=get_plotlyjs(),
    )


def charts(report: Report, style: Style) -> Iterator[Chart | Omission]:
    """Every chart that the runs have something for, in the page's order, and what is left out."""
    for table in report.tables:
        yield from learning_curves(report, table, style)
    for table in report.tables:
        yield from heat_maps(report, table)
        yield from sensitivities(report, table)
    for table in report.tables:
        yield from profiles(table, style)
        yield from improvements(table)
    for table in report.tables:
        yield from diagnostics(report, table, style)


def _omitted(made: Iterable[Chart | Omission], section: str) -> list[str]:
    """A sentence for every reason to leave charts of a section out."""
    subjects: dict[str, list[str]] = {}
    for each in made:
        if isinstance(each, Omission) and each.section == section:
            known = subjects.setdefault(each.why, [])
            if each.subject not in known:
                known.append(each.subject)
    return [f"{why}: {'; '.join(known)}." for why, known in subjects.items()]


def _table(table: Table) -> dict[str, Any]:
    """Header and rows of the results (each with its task and configuration, to filter by) and of the aggregates."""
    header, rows = tables.results(table)
    wide, over = tables.aggregates(table)
    return {
        "heading": table.heading,
        "header": header,
        "rows": rows,
        "aggregate_header": wide,
        "aggregates": over,
        "sources": table.sources,
    }


def _run(report: Report, run: RunRecord, path: Path) -> dict[str, Any]:
    """A line of the table of runs."""
    where = Path(os.path.relpath(run.directory.resolve(), path.resolve().parent))
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
        "directory": str(where),
        "link": quote(where.as_posix()) + "/",
        "wandb": run.wandb if run.wandb and run.wandb.startswith(("https://", "http://")) else None,
        "reason": run.reason,
    }


def _maps(report: Report) -> Iterator[dict[str, str]]:
    """A picture of V for each configuration of a maze, of its first seed that has one; notes what is left out."""
    shown: set[tuple[Protocol, str, str]] = set()
    left: set[tuple[Protocol, str, str]] = set()
    letters = {table.protocol: table.letter for table in report.tables}
    for run in report.runs:
        label, picture = report.labels.of(run), run.directory / "map.png"
        own = run.protocol, run.env, label
        if own in shown or not picture.is_file():
            continue
        if len(shown) == MOST_MAPS:
            left.add(own)
            continue
        try:
            content = _smaller(picture)
        except (OSError, ValueError) as error:
            report.notes.append(f"{picture}: cannot be read, left out ({error})")
            continue
        shown.add(own)
        name = f"{label}, seed {run.seed}" + (f", protocol {letters[run.protocol]}" if letters[run.protocol] else "")
        reached = (run.summary or {}).get("success_rate")
        told = f"; {reached:.0%} of the last evaluation's rollouts reach the goal" if reached is not None else ""
        yield {
            "task": run.env,
            "label": label,
            "caption": f"{run.env}, {name}",
            "alternative": f"V over {run.env} with rollouts of the policy, {name}{told}",
            "source": f"data:image/webp;base64,{base64.b64encode(content).decode()}",
        }
    if left:
        report.notes.append(f"value maps of {len(left)} more configurations are left out of the page")


def _smaller(picture: Path) -> bytes:
    from PIL import Image

    with Image.open(picture) as image:
        image.thumbnail((MAP_WIDTH, MAP_WIDTH))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "webp", quality=80)
    return buffer.getvalue()


def _embedded(content: Any) -> str:
    """JSON that may stand within a script element: nothing in it ends the element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
