"""What others published on D4RL's own files, with their protocols: published.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Source:
    """One publication: its short name, its protocol in words, and by task (mean, standard deviation or None)."""

    name: str
    protocol: str
    scores: dict[str, tuple[float, float | None]]

    def total(self, tasks: list[str]) -> float | None:
        """The sum of its means over these tasks; None where it lacks one."""
        return sum(self.scores[task][0] for task in tasks) if set(tasks) <= self.scores.keys() else None


@cache
def sources() -> list[Source]:
    """All publications, the paper first."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    return [
        Source(
            entry["name"],
            entry["protocol"],
            {
                task: (float(score[0]), float(score[1])) if isinstance(score, list) else (float(score), None)
                for task, score in entry["scores"].items()
            },
        )
        for entry in content.values()
    ]
