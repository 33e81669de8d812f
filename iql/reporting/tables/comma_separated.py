"""A report's results as comma-separated values, for spreadsheets and programs."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from iql.reporting.published import numbers
from iql.reporting.report import Report
from iql.reporting.results import Result
from iql.reporting.tables.grids import best


def comma_separated(report: Report) -> str:
    """One line for each configuration of a task, every number unrounded in a column of its own."""
    names = dict.fromkeys(source.name for table in report.tables for source in table.sources)
    buffer = io.StringIO()
    writer: csv.DictWriter | None = None
    for table in report.tables:
        marked = _marked(table.scored)
        for result in table.results:
            line = dict(_fields(result)) | {"algorithm": result.algorithm, "best": id(result) in marked}
            published = {source.name: result.published(source) for source in table.sources}
            for name in names:
                mean, std = numbers(score) if (score := published.get(name)) else (None, None)
                line |= {f"{name}_mean": mean, f"{name}_std": std}
            if writer is None:
                writer = csv.DictWriter(buffer, list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow({key: no_formula(value) for key, value in line.items()})
    return buffer.getvalue()


def budgets(report: Report) -> str:
    """One line for each point of the curves of evaluation under a budget: task, protocol, algorithm, episodes spent."""
    buffer = io.StringIO()
    names = ["task", "measure", "updates", "physics", "mujoco", "algorithm", "policies", "drawn", "kept_episodes"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, "episodes", "mean", "mean_low", "mean_high"])
    for table in report.tables:
        protocol = table.protocol
        measured = (protocol.measure, protocol.updates, protocol.physics, protocol.mujoco)
        for method in table.methods:
            own = (method.env, *measured, method.algorithm, method.policies, method.drawn, method.episodes)
            for episodes in range(1, len(method.curve.mean) + 1):
                mean, (low, high) = method.curve.at(episodes)
                writer.writerow([no_formula(value) for value in (*own, episodes, mean, low, high)])
    return buffer.getvalue()


def _marked(results: list[Result]) -> set[int]:
    """The identities of those that are the best on their task, or within the best's interval."""
    tasks: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        tasks[result.env].append(result)
    return {id(result) for own in tasks.values() for result, top in zip(own, best(own), strict=True) if top}


def no_formula(value: object) -> object:
    """The value of a cell, quoted if a spreadsheet would take it for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _regret_of(result: Result) -> str:
    """success or score, or both if the runs differ."""
    return " ".join(dict.fromkeys(run.online["regret_of"] for run in result.runs if run.online))


def _fields(result: Result) -> Iterator[tuple[str, object]]:
    protocol, scored = result.protocol, len(result.scores) > 0
    low, high = (result.mean_interval if scored else None) or (None, None)
    iqm_low, iqm_high = (result.iqm_interval if scored else None) or (None, None)
    yield from (("task", result.env), ("configuration", result.label))
    yield "id", result.runs[0].configuration
    yield from (("measure", protocol.measure), ("updates", protocol.updates), ("headline", protocol.headline))
    yield from (("evaluated_every", protocol.every), ("episodes", protocol.episodes))
    yield from (("online_steps", protocol.steps), ("offline_mean", _mean(result.offline)))
    yield from (("regret_mean", _mean(result.regrets)), ("regret_of", _regret_of(result)))
    yield from (("physics", protocol.physics), ("mujoco", protocol.mujoco), ("exact_physics", protocol.exact))
    yield "success_timing", protocol.success_timing
    yield "own_data", result.own_data
    yield "seeds", len(result.scores)
    yield "seeds_wanted", len(result.runs) + len(result.missing)
    yield from (("mean", result.mean if scored else None), ("std", result.std if scored else None))
    yield from (("mean_low", low), ("mean_high", high))
    yield from (("median", result.median if scored else None), ("iqm", result.iqm if scored else None))
    yield from (("iqm_low", iqm_low), ("iqm_high", iqm_high))
    yield "scores", " ".join(f"{run.seed}:{run.score!r}" for run in result.runs if run.score is not None)
