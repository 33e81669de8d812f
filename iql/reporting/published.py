"""Published scores on D4RL's own data, with their protocols, from published.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Source:
    """One publication: a description of its protocol, and its score for each task as printed, 66.3 or 61.2 ± 6.4."""

    name: str
    protocol: str
    scores: dict[str, str]

    def total(self, tasks: list[str]) -> float | None:
        """The sum of its means over these tasks; None if a task has no score."""
        return sum(numbers(self.scores[task])[0] for task in tasks) if set(tasks) <= self.scores.keys() else None


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
