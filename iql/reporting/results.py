"""What runs came to: scores by task and configuration, over tasks, and against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from iql.reporting import statistics
from iql.reporting.labels import Labels
from iql.reporting.published import Source, sources
from iql.reporting.reading import FAILED, RUNNING, UNFINISHED, Protocol, Reader, RunRecord

Interval = tuple[float, float] | None

PAIRS = 16
"""Configurations at most that are compared with each other; of more, the best by their interquartile mean."""


@dataclass(frozen=True)
class Result:
    """The seeds of one configuration on one task, under one protocol.

    runs     all of them, by seed; scores [R] float64 are those of the finished ones
    missing  seeds that other configurations of the sweep have and this one has not
    """

    env: str
    label: str
    protocol: Protocol
    runs: list[RunRecord]
    missing: list[int]

    @cached_property
    def scores(self) -> np.ndarray:
        return np.array([run.score for run in self.runs if run.score is not None], float)

    @property
    def mean(self) -> float:
        return statistics.mean([self.scores])

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (of a sample); None of one."""
        return float(self.scores.std(ddof=1)) if len(self.scores) > 1 else None

    @property
    def median(self) -> float:
        return statistics.median([self.scores])

    @property
    def iqm(self) -> float:
        return statistics.iqm([self.scores])

    @cached_property
    def mean_interval(self) -> Interval:
        return statistics.interval(statistics.MEAN, [self.scores])

    @cached_property
    def iqm_interval(self) -> Interval:
        return statistics.interval(statistics.IQM, [self.scores])

    @property
    def own_data(self) -> bool:
        return any(run.custom for run in self.runs)

    def published(self, source: Source) -> str | None:
        """What a publication says of this task; None for data that is not D4RL's own and for other physics."""
        comparable = not self.own_data and self.protocol.measure == "normalised"
        return source.scores.get(self.env) if comparable and self.protocol.physics in ("d4rl", "legacy") else None


@dataclass(frozen=True)
class Aggregate:
    """One configuration over several tasks, under one protocol. Tasks weigh alike."""

    label: str
    results: list[Result]

    @cached_property
    def scores(self) -> list[np.ndarray]:
        """Of each task [R_t] float64."""
        return [result.scores for result in self.results]

    @property
    def tasks(self) -> list[str]:
        return [result.env for result in self.results]

    @property
    def total(self) -> float:
        """The sum over tasks of the mean over seeds, as papers give it."""
        return statistics.mean(self.scores) * len(self.scores)

    @cached_property
    def summaries(self) -> dict[str, tuple[float, Interval]]:
        """mean, median and IQM with their intervals."""
        kinds = {
            "mean": (statistics.mean, statistics.MEAN),
            "median": (statistics.median, statistics.MEDIAN),
            "IQM": (statistics.iqm, statistics.IQM),
        }
        return {
            name: (value(self.scores), statistics.interval(statistic, self.scores))
            for name, (value, statistic) in kinds.items()
        }


@dataclass(frozen=True)
class Comparison:
    """The probability that a run of `better` scores higher than one of `worse`, mean over the tasks that both have."""

    better: str
    worse: str
    tasks: list[str]
    probability: float
    interval: Interval


@dataclass(frozen=True)
class Table:
    """All runs under one protocol. aggregates: best first; sources: publications that tell of one of its tasks."""

    protocol: Protocol
    results: list[Result]
    aggregates: list[Aggregate]
    sources: list[Source]

    @cached_property
    def scored(self) -> list[Result]:
        """The results with a score, at least one of whose runs is done."""
        return [result for result in self.results if len(result.scores)]

    @cached_property
    def by_label(self) -> dict[str, dict[str, Result]]:
        """By configuration and task, the best configurations (by their interquartile mean over all runs) first."""
        found: dict[str, dict[str, Result]] = defaultdict(dict)
        for result in self.scored:
            found[result.label][result.env] = result
        # Those that have more of the tasks first: a mean over easy tasks alone is no better one.
        order = {
            label: (-len(tasks), -statistics.iqm([each.scores for each in tasks.values()]))
            for label, tasks in found.items()
        }
        return {label: found[label] for label in sorted(found, key=lambda each: order[each])}

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every pair of the first PAIRS configurations that share a task."""
        made = []
        for better, worse in combinations(list(self.by_label)[:PAIRS], 2):
            one, other = self.by_label[better], self.by_label[worse]
            if tasks := [env for env in one if env in other]:
                probability, interval = statistics.improvement([(one[env].scores, other[env].scores) for env in tasks])
                made.append(Comparison(better, worse, tasks, probability, interval))
        return made


@dataclass(frozen=True)
class Report:
    """What a report tells, whatever it is written as.

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


def compile_report(reader: Reader) -> Report:
    """Read the runs and put what belongs together into tables. Raises UserError where there are no runs."""
    runs = reader.runs()
    labels = Labels(runs)
    grouped: dict[tuple[Protocol, str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        grouped[run.protocol, run.env, labels.of(run)].append(run)
    seeds: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        if run.sweep != "single":  # started one by one: nothing says which there should be
            seeds[run.sweep].add(run.seed)
    by_protocol: dict[Protocol, list[Result]] = defaultdict(list)
    for (protocol, env, label), own in grouped.items():
        wanted = set().union(*(seeds[run.sweep] for run in own))
        missing = sorted(wanted - {run.seed for run in own})
        by_protocol[protocol].append(Result(env, label, protocol, own, missing))
    tables = [_table(protocol, results) for protocol, results in by_protocol.items()]
    tables.sort(key=lambda table: -len(table.results))
    notes = [*reader.notes, *_protocol_notes(tables), *_notes(tables)]
    return Report(reader.folders, runs, labels, tables, notes)


def _table(protocol: Protocol, results: list[Result]) -> Table:
    over: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if len(result.scores):
            over[result.label].append(result)
    aggregates = [
        Aggregate(label, own) for label, own in over.items() if len(own) > 1 and protocol.measure == "normalised"
    ]
    aggregates.sort(key=lambda each: (-len(each.results), -each.summaries["IQM"][0]))
    told = [source for source in sources() if any(result.published(source) for result in results)]
    return Table(protocol, results, aggregates, told)


def _protocol_notes(tables: list[Table]) -> list[str]:
    """A line for every configuration of a task that stands in several tables."""
    found: dict[tuple[str, str], list[Protocol]] = defaultdict(list)
    for table in tables:
        for result in table.results:
            found[result.env, result.label].append(table.protocol)
    return [
        f"{env}, {label}: {len(protocols)} protocols, shown apart"
        for (env, label), protocols in found.items()
        if len(protocols) > 1
    ]


def _notes(tables: list[Table]) -> list[str]:
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
