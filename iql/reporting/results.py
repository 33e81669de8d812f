"""What runs came to: scores by task and configuration, over tasks, and against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from iql.reporting import statistics
from iql.reporting.labels import Labels
from iql.reporting.notes import notes
from iql.reporting.protocols import letters
from iql.reporting.published import Source, sources
from iql.reporting.reading import Protocol, Reader, RunRecord

Interval = tuple[float, float] | None

SEEDS = 3
"""Seeds on either side that a probability of improvement needs: of one seed each it could only be 0 or 1."""

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
    """The probability that a run of `better` scores higher than one of `worse`, mean over tasks.

    tasks  those in which both have at least SEEDS seeds
    seeds  of better and of worse, the fewest on a task
    """

    better: str
    worse: str
    tasks: list[str]
    seeds: tuple[int, int]
    probability: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Table:
    """All runs under one protocol.

    letter      its short name among several tables, else ""
    aggregates  best first
    sources     publications that tell of one of its tasks
    """

    letter: str
    protocol: Protocol
    results: list[Result]
    aggregates: list[Aggregate]
    sources: list[Source]

    @property
    def heading(self) -> str:
        """The protocol as a sentence, after its letter."""
        words = str(self.protocol)
        return f"Protocol {self.letter}: {words}" if self.letter else words[:1].upper() + words[1:]

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
        """Every pair of the first PAIRS configurations that share a task with seeds enough."""
        made = []
        for better, worse in combinations(list(self.by_label)[:PAIRS], 2):
            one, other = self.by_label[better], self.by_label[worse]
            samples = {env: (one[env].scores, other[env].scores) for env in one if env in other}
            samples = {env: pair for env, pair in samples.items() if min(map(len, pair)) >= SEEDS}
            if samples:
                seeds = min(len(own) for own, _ in samples.values()), min(len(own) for _, own in samples.values())
                probability, interval = statistics.improvement(list(samples.values()))
                assert interval is not None  # SEEDS are enough for one
                made.append(Comparison(better, worse, list(samples), seeds, probability, interval))
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
    largest = sorted(by_protocol.items(), key=lambda each: -len(each[1]))
    names = letters(len(largest)) if len(largest) > 1 else [""]
    tables = [_table(name, *each) for name, each in zip(names, largest, strict=True)]
    return Report(reader.folders, runs, labels, tables, [*reader.notes, *notes(tables)])


def _table(letter: str, protocol: Protocol, results: list[Result]) -> Table:
    over: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if len(result.scores):
            over[result.label].append(result)
    aggregates = [
        Aggregate(label, own) for label, own in over.items() if len(own) > 1 and protocol.measure == "normalised"
    ]
    aggregates.sort(key=lambda each: (-len(each.results), -each.summaries["IQM"][0]))
    told = [source for source in sources() if any(result.published(source) for result in results)]
    return Table(letter, protocol, results, aggregates, told)
