"""The interface of a tracker, and the information about a run that it receives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from iql.runs.metrics_file import Record


@dataclass(frozen=True)
class RunInfo:
    """The information about a run that a tracker receives.

    directory  the run's directory; a tracker writes to a folder of its own within it
    id         the same for every attempt (process) that trains the run
    name       the display name
    group      the configuration that the seeds of a group share
    job_type   the task
    tags       labels of task and sweep
    config     the resolved configuration as plain values
    metrics    metrics.jsonl, truncated already to the checkpoint that this attempt resumes from
    resumed    whether an earlier attempt left records in `metrics`
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
class Artifacts:
    """What a finished run has besides its summary: pictures (PNG files) by name, and its final networks."""

    pictures: dict[str, Path]
    networks: Path


class Tracker(Protocol):
    """A mirror of metrics.jsonl. No method raises, and none waits for a network while the run trains.

    A tracker may also have `attach(artifacts: Artifacts)`, called before `finish` of a run that is done.
    """

    def start(self, info: RunInfo) -> None:
        """Open the mirror and, for a resumed run, bring it up to date with `info.metrics`."""
        ...

    def log(self, record: Record) -> None:
        """Mirror one train or eval record."""
        ...

    def finish(self, summary: Record | None, exit_code: int = 0) -> None:
        """Close the mirror; `summary` is shown with the run, an exit code above 0 marks it as failed."""
        ...


def scalars(record: Record) -> dict[str, float]:
    """The record's numbers, named by section: {"train/value_loss": 0.1}. Lists are left out."""
    return {
        f"{record['kind']}/{key}": value
        for key, value in record.items()
        if key != "update" and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception's kind and message as one line of at most `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
