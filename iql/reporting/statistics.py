"""Statistics over runs: means, interquartile means, intervals, performance profiles, probability of improvement.

As defined by Agarwal et al. 2021 (Deep Reinforcement Learning at the Edge of the Statistical Precipice; their library
rliable): the runs of each task are resampled independently (stratified bootstrap, percentile intervals). Tasks may
differ in their number of runs. Resampling is seeded: the same scores give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

Scores = Sequence[np.ndarray]
"""For each of T tasks, the scores of its runs, [R_t] float64."""

CONFIDENCE = 0.95
RESAMPLES = 2000
BATCH = 100  # resamples of curves that are made at once, so that they fit a processor's cache


def mean(tasks: Scores) -> float:
    """The mean over tasks of the mean over runs."""
    return float(_mean(*tasks))


def median(tasks: Scores) -> float:
    """The median over tasks of the mean over runs; for one task, the median of its runs."""
    return float(_median(*tasks))


def iqm(tasks: Scores) -> float:
    """The interquartile mean: the mean of the middle half of all runs of all tasks."""
    return float(_iqm(*tasks))


def interval(statistic: Callable[..., np.ndarray], tasks: Scores) -> tuple[float, float] | None:
    """The 95 % interval of MEAN, MEDIAN or IQM; None if a task has one run, whose variance is unknown."""
    if any(len(scores) < 2 for scores in tasks):
        return None
    return _bootstrap(statistic, tasks)


def mean_interval(values: np.ndarray | Sequence[float]) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the mean of independent values [N]; None for fewer than two."""
    return interval(_mean, [np.asarray(values, float)])


def share_interval(hits: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval (Wilson's) of the share of hits [N] bool; None for fewer than two.

    Resampling would give an interval of width zero where none or all are hits.
    """
    if len(hits) < 2:
        return None
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)


def band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The interval of the mean of curves [R, T], at each of T points separately; None for one curve."""
    if len(curves) < 2:
        return None
    return _bootstrap(lambda rows, axis=-1: rows.mean(axis), [curves.T])


def improvement(tasks: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, tuple[float, float] | None]:
    """P(X > Y) with its interval: the share of pairs of runs in which X's score is higher, mean over tasks.

    tasks: for each, the scores of X and of Y. Equal scores count one half (Mann and Whitney's U).
    """
    every = [scores for pair in tasks for scores in pair]
    probability = float(_improvement(*every))
    return probability, None if any(len(scores) < 2 for scores in every) else _bootstrap(_improvement, every)


def profile(tasks: Scores, thresholds: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """The share of runs above each threshold [N], mean over tasks, with its interval at each."""

    above = [(scores > thresholds[:, None]).astype(float) for scores in tasks]
    shares = _mean(*above)
    return shares, None if any(len(scores) < 2 for scores in tasks) else _bootstrap(_mean, above)


def _mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean([sample.mean(axis) for sample in samples], axis=0)


def _median(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    if len(samples) == 1:
        return np.median(samples[0], axis)
    return np.median([sample.mean(axis) for sample in samples], axis=0)


def _iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return stats.trim_mean(np.concatenate(samples, axis), 0.25, axis)


def _improvement(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Samples alternate: X and Y of the first task, of the second, …"""
    shares = []
    for x, y in zip(samples[::2], samples[1::2], strict=True):
        x, y = np.moveaxis(x, axis, -1)[..., :, None], np.moveaxis(y, axis, -1)[..., None, :]
        shares.append((x > y).mean((-2, -1)) + 0.5 * (x == y).mean((-2, -1)))
    return np.mean(shares, axis=0)


MEAN, MEDIAN, IQM = _mean, _median, _iqm


def _bootstrap(statistic: Callable[..., np.ndarray], samples: Scores) -> tuple:
    result = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        batch=BATCH if samples[0].ndim > 1 else None,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    if np.ndim(result.low):
        return result.low, result.high
    return float(result.low), float(result.high)
