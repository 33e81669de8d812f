"""The tables with a column for each algorithm: scores by task, and the probability that one scores above another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iql.envs.d4rl.mujoco_versions import family
from iql.reporting.published import sources
from iql.reporting.results import Aggregate, Interval, Result, Table
from iql.reporting.tables.cells import UNDER_BUDGET, brackets, number

SUITES = {
    **dict.fromkeys(("halfcheetah", "hopper", "walker2d"), "locomotion"),
    **dict.fromkeys(("door", "hammer", "pen", "relocate"), "adroit"),
}
"""D4RL's suites of several simulators; another family of simulators (maze2d, kitchen, …) is a suite of its own, and of
OGBench's tasks those of a dataset."""


BUDGETS = (1, 10, 50, 200)
"""Episodes spent, of the rows of evaluation under a budget."""


@dataclass(frozen=True)
class Cell:
    """A number, its interval, whether it is the best of its row or within the best's interval, a published number."""

    text: str = ""
    interval: str = ""
    best: bool = False
    published: str = ""

    @property
    def line(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True)
class Row:
    """The cells of a task, of several tasks (task is "") or of a configuration; heads: the cells before them."""

    heads: list[str]
    cells: list[Cell]
    task: str = ""


@dataclass(frozen=True)
class Grid:
    """A table; heads: the titles of the columns before those of the configurations; note: how it is read."""

    caption: str
    note: str
    heads: list[str]
    columns: list[str]
    rows: list[Row]


def lines(grid: Grid) -> Iterator[tuple[list[str], list[bool]]]:
    """The grid's rows as texts, and which of them are bold; published numbers have a line of their own below."""
    for row in grid.rows:
        plain = [False] * len(row.heads)
        yield [*row.heads, *(cell.line for cell in row.cells)], [*plain, *(cell.best for cell in row.cells)]
        if any(cell.published for cell in row.cells):
            texts = ["published", *[""] * (len(row.heads) - 1), *(cell.published for cell in row.cells)]
            yield texts, [False] * len(texts)


def grids(table: Table) -> Iterator[Grid]:
    """The grids of a table with evaluation under a budget, scores of several algorithms, or of whole suites."""
    if table.methods:
        yield under_budget(table)
    if len(table.algorithms) > 1:
        yield by_task(table)
    if (means := by_suite(table)).rows:
        yield means
    if len(table.algorithms) > 1 and table.comparisons:
        yield improvements(table)


def by_task(table: Table) -> Grid:
    """The mean score of every compared configuration (columns) on every task, and over the tasks of every suite."""
    columns = table.compared
    envs = sorted({result.env for result in table.scored})
    rows = [_task_row(env, [table.by_label[label].get(env) for label in columns]) for env in envs]
    for name, tasks in _groups(table, envs):
        title = f"{len(tasks)} tasks" + (f" of {name}" if name else "")
        over = [_over(table.by_label[label], tasks) for label in columns]
        published = ["" if each is None else _published_mean(each, name) for each in over]
        rows.append(Row([f"mean, {title}", ""], _cells(over, "mean", published)))
        rows.append(Row([f"IQM, {title}", ""], _cells(over, "IQM", [""] * len(columns))))
    left = len(table.by_label) - len(columns)
    note = "Mean over seeds; bold: the best of a row, and all whose mean is within its interval."
    note += f" The best {len(columns)} configurations; {left} left out." if left else ""
    shown = [row for row in rows if any(cell.text for cell in row.cells)]
    return Grid("By task and algorithm", note, ["task", "seeds"], columns, shown)


def by_suite(table: Table) -> Grid:
    """Means over the tasks of each suite that has published ones, which stand beside them, also of other algorithms."""
    columns = table.compared
    published = {
        f"{algorithm}, {source.name}": means for source in sources() for algorithm, means in source.means.items()
    }
    rows = []
    for name, tasks in _groups(table, sorted({result.env for result in table.scored})):
        over = [_over(table.by_label[label], tasks) for label in columns]
        if any(each is not None and each.suite_mean(means, name) for each in over for means in published.values()):
            cells = _cells(over, "mean", [""] * len(columns))
            rows.append(
                Row([name, str(len(tasks))], [*cells, *(Cell(means.get(name, "")) for means in published.values())])
            )
    note = "Mean over tasks and seeds; bold: the best of ours, and all whose mean is within its interval."
    return Grid("By dataset, beside the published means", note, ["dataset", "tasks"], [*columns, *published], rows)


def improvements(table: Table) -> Grid:
    """P(row scores higher than column), of every pair of configurations that is compared."""
    known: dict[tuple[str, str], Cell] = {}
    for each in table.comparisons:
        low, high = each.interval
        known[each.better, each.worse] = _probability(each.probability, (low, high))
        known[each.worse, each.better] = _probability(1 - each.probability, (1 - high, 1 - low))
    labels = [label for label in table.compared if any(label in pair for pair in known)]
    rows = [Row([one], [known.get((one, other), Cell()) for other in labels]) for one in labels]
    note = "The probability that a run of the row scores higher than one of the column; mean over the tasks of both."
    return Grid("Probability of improvement", note, [""], labels, rows)


def under_budget(table: Table) -> Grid:
    """The score of the chosen policy of each algorithm (columns) on every task after some of the episodes."""
    columns = [name for name in table.algorithms if any(method.algorithm == name for method in table.methods)]
    rows = []
    for env in sorted({method.env for method in table.methods}):
        own = {method.algorithm: method for method in table.methods if method.env == env}
        policies = "; ".join(dict.fromkeys(str(method.policies) for method in own.values()))
        for episodes in BUDGETS:
            at = [own[name].curve.at(episodes) if name in own else None for name in columns]
            known = [each for each in at if each is not None]
            marks = iter(_best([mean for mean, _ in known], [interval for _, interval in known]))
            cells = [Cell() if each is None else Cell(number(each[0]), brackets(each[1]), next(marks)) for each in at]
            rows.append(Row([env, policies, str(episodes)], cells, env))
    return Grid("Evaluation under a budget", UNDER_BUDGET, ["task", "policies", "episodes"], columns, rows)


def best(results: Sequence[Result]) -> list[bool]:
    """Of results on one task, whether each is the best or within its interval."""
    return _best([result.mean for result in results], [result.mean_interval for result in results])


def _task_row(env: str, results: Sequence[Result | None]) -> Row:
    known = [result for result in results if result is not None]
    marks = iter(best(known))
    cells = [
        Cell(number(result.mean), brackets(result.mean_interval), next(marks), _published(result))
        if result is not None
        else Cell()
        for result in results
    ]
    counts = [len(result.scores) for result in known]
    return Row([env, " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))], cells, env)


def _cells(over: Sequence[Aggregate | None], summary: str, published: Sequence[str]) -> list[Cell]:
    """The cells of a row over tasks."""
    found = [None if each is None else each.summaries[summary] for each in over]
    known = [each for each in found if each is not None]
    marks = iter(_best([value for value, _ in known], [interval for _, interval in known]))
    return [
        Cell() if each is None else Cell(number(each[0]), brackets(each[1]), next(marks), text)
        for each, text in zip(found, published, strict=True)
    ]


def _best(values: Sequence[float], intervals: Sequence[Interval]) -> list[bool]:
    if len(values) < 2:
        return [False] * len(values)
    top = int(np.argmax(values))
    interval = intervals[top]
    least = values[top] if interval is None else interval[0]
    return [value >= least for value in values]


def _groups(table: Table, envs: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The tasks of each suite that has several, and all tasks where they are of several suites."""
    if not table.protocol.has_means:
        return
    suites: dict[str, list[str]] = {}
    of = {result.env: _suite(result.runs[0].settings["env"]) for result in table.scored}
    for env in envs:
        suites.setdefault(of[env], []).append(env)
    for name, tasks in suites.items():
        if name and len(tasks) > 1:
            yield name, tasks
    if len(suites) > 1 or "" in suites and len(envs) > 1:
        yield "", list(envs)


def _suite(env: dict[str, Any]) -> str:
    """The suite of a task, by its settings; "" for a task of none."""
    if "success_timing" in env:
        return str(env["dataset"]).partition("-singletask")[0]
    kind = family(env.get("simulator", ""))
    return SUITES.get(kind, kind)


def _over(results: dict[str, Result], tasks: Sequence[str]) -> Aggregate | None:
    """A configuration over these tasks; None if it lacks one, as means over other tasks do not compare."""
    if not results.keys() >= set(tasks):
        return None
    own = [results[task] for task in tasks]
    return Aggregate(own[0].label, own)


def _published(result: Result) -> str:
    """The score of the first publication that has one, and its name."""
    return next((f"{score} {each.name}" for each in sources() if (score := result.published(each))), "")


def _published_mean(over: Aggregate, suite: str) -> str:
    """The mean over tasks of the first publication that has them all, and its name."""
    means = ((each.name, over.published_mean(each, suite)) for each in sources())
    return next((f"{mean} {name}" for name, mean in means if mean is not None), "")


def _probability(value: float, interval: tuple[float, float]) -> Cell:
    return Cell(f"{value:.2f}", brackets(interval, 2))
