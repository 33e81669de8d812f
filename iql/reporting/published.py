"""Published scores on D4RL's and OGBench's own data, with their protocols, from published.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Source:
    """One publication: a description of its protocol, and its scores as printed, 66.3 or 61.2 ± 6.4.

    scores     by algorithm (named as in iql.reporting.algorithm_names) and by task, whose name has the data's version
    finetuned  the same of finetuning online, before → after, and the regret where it was published
    means      over the tasks of a suite, by algorithm, also those that are not here, and by suite
    """

    name: str
    protocol: str
    scores: dict[str, dict[str, str]] = field(default_factory=dict)
    finetuned: dict[str, dict[str, str]] = field(default_factory=dict)
    means: dict[str, dict[str, str]] = field(default_factory=dict)


def numbers(score: str) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds (None if it is not given) of a published score; that after finetuning."""
    after = score.rpartition("→")[2].partition(",")[0]
    mean, _, std = after.partition("±")
    return float(mean), float(std) if std else None


@cache
def sources() -> list[Source]:
    """All publications, the paper first."""
    text = Path(__file__).with_name("published.yaml").read_text()
    content = yaml.load(text, yaml.BaseLoader)  # which keeps numbers as text
    return [Source(**entry) for entry in content.values()]
