"""What a reader of a report must know besides its numbers: what is missing, failed, or stands in several tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from iql.reporting.reading import FAILED, RUNNING, UNFINISHED

if TYPE_CHECKING:
    from iql.reporting.results import Table


def notes(tables: Sequence[Table]) -> list[str]:
    """A line for everything of which these tables do not tell."""
    return [*_protocols(tables), *_results(tables)]


def _protocols(tables: Sequence[Table]) -> list[str]:
    """A line for every configuration of a task that stands in several tables."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for table in tables:
        for result in table.results:
            found[result.env, result.label].append(table.letter)
    return [
        f"{env}, {label}: protocols {', '.join(letters)}, shown apart"
        for (env, label), letters in found.items()
        if len(letters) > 1
    ]


def _results(tables: Sequence[Table]) -> list[str]:
    """What a reader of the tables must know of each result besides its numbers."""
    notes = []
    for result in (result for table in tables for result in table.results):
        name = f"{result.env}, {result.label}"
        for run in result.runs:
            if run.state == FAILED:
                notes.append(f"{name}: seed {run.seed} failed at update {run.update:,}: {run.reason}")
        for state in (RUNNING, UNFINISHED):
            if own := [run for run in result.runs if run.state == state]:
                updates = dict.fromkeys((min(run.update for run in own), max(run.update for run in own)))
                far = " to ".join(f"{update:,}" for update in updates) + f" of {result.protocol.updates:,}"
                verb = "is" if len(own) == 1 else "are"
                notes.append(f"{name}: {_seeds(run.seed for run in own)} {verb} {state} at update {far}")
        if result.missing:
            notes.append(f"{name}: missing {_seeds(result.missing)}")
        if len(result.scores) == 1:
            notes.append(f"{name}: one seed, so no interval")
        if result.own_data:
            notes.append(f"{name}: data of your own, no published number is put beside it")
    return notes


def _seeds(seeds: Iterable[int]) -> str:
    numbers = [str(seed) for seed in seeds]
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
