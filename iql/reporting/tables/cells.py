"""Numbers of a report as text."""

from __future__ import annotations

from iql.reporting.budget import bandit
from iql.reporting.report import Report
from iql.reporting.results import Interval, Result

METHOD = (
    "Mean ± standard deviation over seeds; IQM is the interquartile mean; in brackets 95 % stratified bootstrap "
    "intervals over seeds."
)

UNDER_BUDGET = (
    f"{bandit.REPETITIONS} times, {bandit.DRAWN} of an algorithm's policies are drawn (all, if there are fewer) and a "
    "bandit (UCB) spends single episodes on choosing one of them. A score is the true mean of the policy that it holds "
    "best, mean over repetitions, with the 95 % bootstrap interval over repetitions; the policies are not resampled."
)


def counted(report: Report) -> str:
    """A phrase that says how many runs are in each state."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(report.counts.items()))
    return f"{len(report.runs)} run{'s' * (len(report.runs) > 1)}: {states}"


def seeds(result: Result) -> str:
    """How many seeds have a score, and how many there should be if those are more."""
    wanted = len(result.runs) + len(result.missing)
    return str(wanted) if len(result.scores) == wanted else f"{len(result.scores)} of {wanted}"


def spread(mean: float, std: float | None) -> str:
    return number(mean) if std is None else f"{mean:.1f} ± {std:.1f}"


def brackets(interval: Interval, digits: int = 1) -> str:
    return "" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
