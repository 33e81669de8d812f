"""The status of a sweep's runs as tables for a terminal or a log file."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iql.launching.status import CANCELLED, DONE, FAILED, LOST, NEW, RUNNING, STATES, UNKNOWN, WAITING, RunStatus

MAX_ROWS = 40
"""Rows of a table; a caption says how many more there are."""

_COLOURS = {DONE: "green", RUNNING: "cyan", WAITING: "blue", FAILED: "red", LOST: "yellow", CANCELLED: "magenta"}
_LOG_WIDTH = 200  # columns of a log file


def console() -> Console:
    """Standard output, as wide as the terminal; at least _LOG_WIDTH columns without one."""
    width = None if sys.stdout.isatty() else max(_LOG_WIDTH, shutil.get_terminal_size().columns)
    return Console(width=width, highlight=False)


def configurations(statuses: Mapping[str, RunStatus], runs: Sequence[str], limit: int = MAX_ROWS) -> Table:
    """A row for every configuration: how many of its seeds are in each state, and the mean of the known scores."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        env, configuration, _ = run.split("/")
        groups.setdefault((env, configuration), []).append(run)
    states = [state for state in STATES if any(statuses[run].state == state for run in runs)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("env")
    table.add_column("configuration", overflow="fold")
    table.add_column("seeds")
    for state in states:
        table.add_column(state, justify="right", style=_COLOURS.get(state, ""))
    table.add_column("score", justify="right")
    for (env, configuration), own in list(groups.items())[:limit]:
        counts = Counter(statuses[run].state for run in own)
        seeds = sorted(int(run.rpartition("=")[2]) for run in own)
        scores = [score for run in own if (score := statuses[run].score) is not None]
        mean = f"{sum(scores) / len(scores):.1f}" if scores else ""
        table.add_row(env, configuration, _spans(seeds), *(str(counts[state] or "") for state in states), mean)
    if len(groups) > limit:
        table.caption = f"and {len(groups) - limit} more configurations"
    return table


def totals(statuses: Mapping[str, RunStatus], runs: Sequence[str]) -> Text:
    """How many runs are in each state, in one line."""
    counts = Counter(statuses[run].state for run in runs)
    line = Text(f"{len(runs)} runs: ")
    parts = [Text(f"{counts[state]} {state}", _COLOURS.get(state, "")) for state in STATES if counts[state]]
    return line.append(Text(", ").join(parts))


def running(statuses: Mapping[str, RunStatus], limit: int = MAX_ROWS) -> Table | None:
    """A row for every run that is being trained; None if there is none."""
    own = [(run, each) for run, each in statuses.items() if each.state == RUNNING]
    if not own:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("running", "job", "on"):
        table.add_column(name, overflow="fold")
    for name in ("update", "of", "updates/s", "left", "score"):
        table.add_column(name, justify="right")
    for run, each in own[:limit]:
        left = "" if each.seconds_left is None else str(timedelta(seconds=round(each.seconds_left)))
        shown = [_number(each.update), _number(each.updates), _number(each.speed), left, _number(each.score, 1)]
        table.add_row(run, each.job, each.detail, *shown)
    if len(own) > limit:
        table.caption = f"and {len(own) - limit} more that run"
    return table


def troubles(statuses: Mapping[str, RunStatus], limit: int = MAX_ROWS) -> list[Text]:
    """A line for every run that failed, is lost or unknown, with the reason; then what waiting runs wait for."""
    lines = []
    for state in (FAILED, LOST, UNKNOWN):
        own = [(run, each) for run, each in statuses.items() if each.state == state]
        for run, each in own[:limit]:
            at = f" at update {each.update}" if each.update else ""
            reason = each.detail.splitlines()[-1] if each.detail else _DEFAULT_REASON[state]
            lines.append(Text.assemble((f"{state:<8}", _COLOURS.get(state, "")), f"{run}{at}: {reason}"))
        if len(own) > limit:
            lines.append(Text(f"and {len(own) - limit} more that are {state}"))
    reasons = Counter(_reason(each.detail) for each in statuses.values() if each.state == WAITING)
    lines += [Text(f"waiting {count} for: {reason}") for reason, count in reasons.most_common(5)]
    return lines


_DEFAULT_REASON = {
    FAILED: "no reason was left",
    LOST: "no queue knows it and its heartbeat is old",
    UNKNOWN: "its queue does not answer",
}


def advice(statuses: Mapping[str, RunStatus], sweep: str) -> str | None:
    """The command to use next if something is wrong; None if not."""
    states = {each.state for each in statuses.values()}
    if states & {FAILED, LOST}:
        return f"python scripts/status.py {sweep} --retry   # resumes the failed and lost runs where they stopped"
    if states & {CANCELLED, NEW}:
        return "the sweep.py command again submits what was cancelled or is new"
    return None


def _reason(detail: str) -> str:
    return "the jobs before it" if detail.endswith("jobs before it") else detail


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _spans(numbers: Sequence[int]) -> str:
    """0-9, or 0-3,7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
