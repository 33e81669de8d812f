"""A report: the runs of some folders, grouped into tables, with notes about what is missing or failed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from iql.reporting.budget.methods import methods, scores_of
from iql.reporting.labels import Labels
from iql.reporting.protocols import Protocol, letters
from iql.reporting.published import sources
from iql.reporting.results import Aggregate, Result, Table
from iql.reporting.run_records import NoRuns, Reader, RunRecord
from iql.runs.run_state import FAILED, RUNNING, UNFINISHED


@dataclass(frozen=True)
class Report:
    """The content of a report, independent of the format that it is written in.

    tables  one for each protocol
    notes   what is missing, failed or damaged, a line each
    """

    folders: list[Path]
    runs: list[RunRecord]
    labels: Labels
    tables: list[Table]
    notes: list[str]

    @property
    def counts(self) -> Counter[str]:
        """How many runs are in each state."""
        return Counter(run.state for run in self.runs)

    @property
    def title(self) -> str:
        names = dict.fromkeys(run.sweep for run in self.runs)
        return ", ".join(names) if len(names) < 4 else f"{len(names)} sweeps"


def compile_report(reader: Reader, budget: bool = False) -> Report:
    """Read the runs and group them into one table for each protocol; budget: with evaluation under a budget.

    Raises UserError where there are no runs, and with `budget` where finished ones have no kept episodes.
    """
    runs = _apart_by_data(reader.runs())
    scores = scores_of(runs) if budget else {}
    labels = Labels(runs)
    grouped: dict[tuple[Protocol, str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        grouped[run.protocol, run.env, labels.of(run)].append(run)
    seeds: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        # For runs that train.py started, nothing says which seeds there should be; those of a random search are drawn.
        if run.sweep != "single" and run.settings["sweep"].get("draws") is None:
            seeds[run.sweep].add(run.seed)
    by_protocol: dict[Protocol, list[Result]] = defaultdict(list)
    for (protocol, env, label), own in grouped.items():
        wanted = set().union(*(seeds[run.sweep] for run in own))
        missing = sorted(wanted - {run.seed for run in own})
        by_protocol[protocol].append(Result(env, label, protocol, own, missing))
    largest = sorted(by_protocol.items(), key=lambda each: -len(each[1]))
    names = letters(len(largest)) if len(largest) > 1 else [""]
    tables = [_table(name, *each, scores) for name, each in zip(names, largest, strict=True)]
    if budget and not any(table.methods for table in tables):
        raise NoRuns("--budget: a choice needs two finished runs of an algorithm on a task, and there are none yet")
    common = [f"every run has {' '.join(labels.common)}, which the names leave out"] * bool(labels.common)
    return Report(reader.folders, runs, labels, tables, [*reader.notes, *common, *_notes(tables)])


def _apart_by_data(runs: list[RunRecord]) -> list[RunRecord]:
    """The runs, with those on data of the user's own as a task apart where other runs of the task had other data."""
    data: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        data[run.env].add(run.own_data)
    return [
        replace(run, env=f"{run.env} ({run.own_data})") if run.own_data and len(data[run.env]) > 1 else run
        for run in runs
    ]


def _table(letter: str, protocol: Protocol, results: list[Result], episodes: Mapping[Path, np.ndarray]) -> Table:
    over: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if len(result.scores):
            over[result.label].append(result)
    aggregates = [Aggregate(label, own) for label, own in over.items() if len(own) > 1 and protocol.has_means]
    aggregates.sort(key=lambda each: (-len(each.results), -each.summaries["IQM"][0]))
    published = [source for source in sources() if any(result.published(source) for result in results)]
    found = methods([run for result in results for run in result.runs], episodes)
    return Table(letter, protocol, results, aggregates, published, found)


def _notes(tables: Sequence[Table]) -> list[str]:
    """A line for everything that a reader must know besides the numbers of these tables."""
    return [*_protocol_notes(tables), *_result_notes(tables)]


def _protocol_notes(tables: Sequence[Table]) -> list[str]:
    """A line for every configuration of a task that is in several tables."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for table in tables:
        for result in table.results:
            found[result.env, result.label].append(table.letter)
    return [
        f"{env}, {label}: protocols {', '.join(letters)}, shown apart"
        for (env, label), letters in found.items()
        if len(letters) > 1
    ]


def _result_notes(tables: Sequence[Table]) -> list[str]:
    """Lines about runs of a result that failed, are unfinished or missing, and about what its numbers lack."""
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
