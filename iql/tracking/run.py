"""The run that is tracked, and what a tracker promises to the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from iql.metrics import Record


@dataclass(frozen=True)
class RunInfo:
    """What a tracker knows of a run.

    directory  the run's own directory; a tracker writes in a folder of its own below it
    id         the same for every life of the run
    name       shown to people
    group      the configuration that the seeds of a group share
    job_type   what the process does: train
    tags       labels of task and sweep
    config     the resolved configuration as plain values
    metrics    metrics.jsonl, cut back already to what this life goes on from
    resumed    whether an earlier life of the run has records in `metrics`
    """

    directory: Path
    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    metrics: Path
    resumed: bool


@dataclass(frozen=True)
class Leavings:
    """What a finished run leaves besides its summary: pictures (PNG files) by name, and its final networks."""

    pictures: dict[str, Path]
    networks: Path


class Tracker(Protocol):
    """A mirror of metrics.jsonl. None of these raises, and none waits for a network while training.

    A tracker may also have `attach(leavings: Leavings)`, called before `finish` of a run that is done.
    """

    def start(self, info: RunInfo) -> None:
        """Opens the mirror and, for a resumed run, brings it up to `info.metrics`."""
        ...

    def log(self, record: Record) -> None:
        """Mirrors one train or eval record."""
        ...

    def finish(self, summary: Record | None, exit_code: int = 0) -> None:
        """Closes the mirror; `summary` is shown beside the run, an exit code above 0 marks it failed."""
        ...


def scalars(record: Record) -> dict[str, float]:
    """The record's numbers, named by section: {"train/value_loss": 0.1}. Lists stay in metrics.jsonl."""
    return {
        f"{record['kind']}/{key}": value
        for key, value in record.items()
        if key != "update" and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception's kind and message as one line of at most `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
