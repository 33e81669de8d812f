"""Published scores on D4RL's own data, with their protocols, from published.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Source:
    """One publication: a description of its protocol, and its scores as printed, 66.3 or 61.2 ± 6.4.

    scores  by algorithm (named as in iql.reporting.algorithm_names) and by task, whose name has the data's version
    """

    name: str
    protocol: str
    scores: dict[str, dict[str, str]]

    def score(self, algorithm: str, task: str) -> str | None:
        """The score of an algorithm on a task; None if there is none."""
        return self.scores.get(algorithm, {}).get(task)

    def total(self, algorithm: str, tasks: list[str]) -> float | None:
        """The sum of an algorithm's means over these tasks; None if a task has no score."""
        scores = [self.score(algorithm, task) for task in tasks]
        return None if None in scores else sum(numbers(score)[0] for score in scores if score is not None)


def numbers(score: str) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds (None if it is not given) of a published score."""
    mean, _, std = score.partition("±")
    return float(mean), float(std) if std else None


@cache
def sources() -> list[Source]:
    """All publications, the paper first."""
    text = Path(__file__).with_name("published.yaml").read_text()
    content = yaml.load(text, yaml.BaseLoader)  # which keeps numbers as text
    return [Source(**entry) for entry in content.values()]
