"""A plan and a sweep's standing as tables for a terminal or a log file."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iql.launching.standing import CANCELLED, DONE, FAILED, LOST, NEW, RUNNING, STATES, UNKNOWN, WAITING, Standing

MOST = 40
"""Lines of a table; a note says how many more there are."""

_COLOURS = {DONE: "green", RUNNING: "cyan", WAITING: "blue", FAILED: "red", LOST: "yellow", CANCELLED: "magenta"}
_WIDE = 200  # columns of a log file


def console() -> Console:
    """Standard output, as wide as the terminal; wide where there is none."""
    width = None if sys.stdout.isatty() else max(_WIDE, shutil.get_terminal_size().columns)
    return Console(width=width, highlight=False)


def configurations(standings: Mapping[str, Standing], runs: Sequence[str], most: int = MOST) -> Table:
    """A line for every configuration: how many of its seeds stand how, and the mean of the scores known."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        env, configuration, _ = run.split("/")
        groups.setdefault((env, configuration), []).append(run)
    states = [state for state in STATES if any(standings[run].state == state for run in runs)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("env")
    table.add_column("configuration", overflow="fold")
    table.add_column("seeds")
    for state in states:
        table.add_column(state, justify="right", style=_COLOURS.get(state, ""))
    table.add_column("score", justify="right")
    for (env, configuration), own in list(groups.items())[:most]:
        counts = Counter(standings[run].state for run in own)
        seeds = sorted(int(run.rpartition("=")[2]) for run in own)
        scores = [score for run in own if (score := standings[run].score) is not None]
        mean = f"{sum(scores) / len(scores):.1f}" if scores else ""
        table.add_row(env, configuration, _spans(seeds), *(str(counts[state] or "") for state in states), mean)
    if len(groups) > most:
        table.caption = f"and {len(groups) - most} more configurations"
    return table


def totals(standings: Mapping[str, Standing], runs: Sequence[str]) -> Text:
    """How many runs stand how, in one line."""
    counts = Counter(standings[run].state for run in runs)
    line = Text(f"{len(runs)} runs: ")
    parts = [Text(f"{counts[state]} {state}", _COLOURS.get(state, "")) for state in STATES if counts[state]]
    return line.append(Text(", ").join(parts))


def running(standings: Mapping[str, Standing], most: int = MOST) -> Table | None:
    """A line for every run that trains; None if there is none."""
    own = [(run, each) for run, each in standings.items() if each.state == RUNNING]
    if not own:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("running", "job", "on"):
        table.add_column(name, overflow="fold")
    for name in ("update", "of", "updates/s", "left", "score"):
        table.add_column(name, justify="right")
    for run, each in own[:most]:
        left = "" if each.seconds_left is None else str(timedelta(seconds=round(each.seconds_left)))
        shown = [_number(each.update), _number(each.updates), _number(each.speed), left, _number(each.score, 1)]
        table.add_row(run, each.job, each.detail, *shown)
    if len(own) > most:
        table.caption = f"and {len(own) - most} more that run"
    return table


def troubles(standings: Mapping[str, Standing], most: int = MOST) -> list[Text]:
    """A line for every run that failed, was lost or is unknown, with the reason; waiting ones by their reason."""
    lines = []
    for state in (FAILED, LOST, UNKNOWN):
        own = [(run, each) for run, each in standings.items() if each.state == state]
        for run, each in own[:most]:
            at = f" at update {each.update}" if each.update else ""
            reason = each.detail.splitlines()[-1] if each.detail else _UNEXPLAINED[state]
            lines.append(Text.assemble((f"{state:<8}", _COLOURS.get(state, "")), f"{run}{at}: {reason}"))
        if len(own) > most:
            lines.append(Text(f"and {len(own) - most} more that are {state}"))
    reasons = Counter(_reason(each.detail) for each in standings.values() if each.state == WAITING)
    lines += [Text(f"waiting {count} for: {reason}") for reason, count in reasons.most_common(5)]
    return lines


_UNEXPLAINED = {
    FAILED: "no reason was left",
    LOST: "no queue knows it and its heartbeat is old",
    UNKNOWN: "its queue does not answer",
}


def advice(standings: Mapping[str, Standing], sweep: str) -> str | None:
    """What to type next, if something is wrong; None if not."""
    states = {each.state for each in standings.values()}
    if states & {FAILED, LOST}:
        return f"python scripts/status.py {sweep} --retry   # takes up the failed and the lost where they were left"
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
