"""Scores by task and configuration, aggregates over tasks, and comparisons of configurations."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from iql.reporting import statistics
from iql.reporting.algorithm_names import PUBLISHED
from iql.reporting.budget.methods import Method
from iql.reporting.protocols import Protocol
from iql.reporting.published import Source, numbers
from iql.reporting.run_records import RunRecord

Interval = tuple[float, float] | None

MIN_SEEDS = 3
"""Seeds of each side that a probability of improvement needs: with one seed each it could only be 0 or 1."""

MAX_COMPARED = 16
"""Configurations that are compared with each other; of more, the best by their interquartile mean and each algorithm's
best."""


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

    @cached_property
    def offline(self) -> np.ndarray:
        """Of finetuned runs, the scores before the online phase, [R] float64; `scores` are those after it."""
        return self._online("offline_score")

    @cached_property
    def regrets(self) -> np.ndarray:
        """Of finetuned runs, the regret of exploration, [R] float64 within 0 and 1."""
        return self._online("regret")

    def _online(self, key: str) -> np.ndarray:
        return np.array([run.online[key] for run in self.runs if run.online and run.online[key] is not None], float)

    @property
    def mean(self) -> float:
        return statistics.mean([self.scores])

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
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
    def algorithm(self) -> str:
        return self.runs[0].algorithm

    @property
    def own_data(self) -> bool:
        return any(run.own_data for run in self.runs)

    def published(self, source: Source) -> str | None:
        """The algorithm's published score on this task; None for data of the user's own and for another protocol."""
        comparable = not self.own_data and self.protocol.published
        scores = source.finetuned if self.protocol.steps else source.scores
        return scores.get(self.published_as, {}).get(self.env) if comparable else None

    @property
    def published_as(self) -> str:
        """The algorithm's name in publications."""
        return PUBLISHED.get(self.algorithm, self.algorithm)


@dataclass(frozen=True)
class Aggregate:
    """One configuration over several tasks, under one protocol. Tasks have equal weights."""

    label: str
    results: list[Result]

    @cached_property
    def scores(self) -> list[np.ndarray]:
        """The scores of each task, [R_t] float64."""
        return [result.scores for result in self.results]

    @property
    def tasks(self) -> list[str]:
        return [result.env for result in self.results]

    def published(self, source: Source) -> float | None:
        """The sum of the published means of these tasks; None if one has none."""
        scores = [result.published(source) for result in self.results]
        return None if None in scores else sum(numbers(score)[0] for score in scores if score is not None)

    def suite_mean(self, means: dict[str, str], suite: str) -> str | None:
        """Of published means by suite, that of a suite whose tasks these are; None for a part of them."""
        whole = set(self.tasks) == {f"{suite}-singletask-task{number}-v0" for number in range(1, 6)}
        comparable = self.results[0].protocol.published and not any(result.own_data for result in self.results)
        return means.get(suite) if whole and comparable else None

    def published_mean(self, source: Source, suite: str) -> str | None:
        """The published mean over these tasks of a suite: as it was published, or of its tasks' scores."""
        if mean := self.suite_mean(source.means.get(self.results[0].published_as, {}), suite):
            return mean
        total = self.published(source)
        return None if total is None else f"{total / len(self.results):.1f}"

    @property
    def total(self) -> float:
        """The sum over tasks of the mean over seeds, as papers report it."""
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

    tasks  those in which both have at least MIN_SEEDS seeds
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

    letter      its short name where a report has several tables, else ""
    aggregates  best first
    sources     publications with a score of one of its tasks
    methods     for evaluation under a budget, by task and algorithm; none unless the report is to have it
    """

    letter: str
    protocol: Protocol
    results: list[Result]
    aggregates: list[Aggregate]
    sources: list[Source]
    methods: list[Method]

    @property
    def heading(self) -> str:
        """The protocol as a sentence, after its letter."""
        text = str(self.protocol)
        return f"Protocol {self.letter}: {text}" if self.letter else text[:1].upper() + text[1:]

    @cached_property
    def scored(self) -> list[Result]:
        """The results of which at least one run is done."""
        return [result for result in self.results if len(result.scores)]

    @cached_property
    def by_label(self) -> dict[str, dict[str, Result]]:
        """By configuration and task, the best configurations (by their interquartile mean over all runs) first."""
        found: dict[str, dict[str, Result]] = defaultdict(dict)
        for result in self.scored:
            found[result.label][result.env] = result
        # Those with more of the tasks first: a higher mean over easy tasks alone is not a better result.
        order = {
            label: (-len(tasks), -statistics.iqm([each.scores for each in tasks.values()]))
            for label, tasks in found.items()
        }
        return {label: found[label] for label in sorted(found, key=lambda each: order[each])}

    @cached_property
    def algorithms(self) -> list[str]:
        """The algorithms that have a score, the one with the best configuration first."""
        return list(dict.fromkeys(next(iter(tasks.values())).algorithm for tasks in self.by_label.values()))

    @cached_property
    def compared(self) -> list[str]:
        """The configurations that are compared, the best first: MAX_COMPARED, among them each algorithm's best."""
        algorithm = {label: next(iter(tasks.values())).algorithm for label, tasks in self.by_label.items()}
        best = {algorithm[label]: label for label in reversed(algorithm)}
        chosen = [*best.values(), *(label for label in algorithm if label not in best.values())][:MAX_COMPARED]
        return [label for label in algorithm if label in chosen]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every pair of the compared configurations that share a task on which both have MIN_SEEDS."""
        comparisons = []
        for better, worse in combinations(self.compared, 2):
            one, other = self.by_label[better], self.by_label[worse]
            samples = {env: (one[env].scores, other[env].scores) for env in one if env in other}
            samples = {env: pair for env, pair in samples.items() if min(map(len, pair)) >= MIN_SEEDS}
            if samples:
                seeds = min(len(own) for own, _ in samples.values()), min(len(own) for _, own in samples.values())
                probability, interval = statistics.improvement(list(samples.values()))
                assert interval is not None  # as both have MIN_SEEDS
                comparisons.append(Comparison(better, worse, list(samples), seeds, probability, interval))
        return comparisons
