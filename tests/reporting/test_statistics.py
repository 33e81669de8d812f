"""Statistics over runs: computed by hand, and compared with the definitions of Agarwal et al. 2021."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from iql.reporting import statistics

# Five runs of three tasks; fixed, so that every number below can be computed from this file.
MATRIX = np.random.default_rng(20211101).normal(60, 15, (5, 3)).round(2)
TASKS = list(MATRIX.T)


def test_by_hand():
    one, other = np.array([1.0, 2.0, 3.0, 10.0]), np.array([0.0, 4.0, 4.0, 8.0])
    assert statistics.mean([one, other]) == 4.0
    assert statistics.median([one, other]) == 4.0  # of the means 4 and 4
    assert statistics.median([one]) == 2.5  # of the runs, where there is one task
    assert statistics.iqm([one]) == 2.5  # of 2 and 3
    assert statistics.iqm([one, other]) == pytest.approx((2 + 3 + 4 + 4) / 4)  # of 0 1 | 2 3 4 4 | 8 10


def test_tasks_have_equal_weights_whatever_their_numbers_of_runs():
    assert statistics.mean([np.array([0.0] * 9), np.array([10.0])]) == 5.0


def test_the_interval_of_two_runs_reaches_from_one_to_the_other():
    # Of two runs the mean is the lower, the middle or the upper with probabilities 1/4, 1/2, 1/4.
    assert statistics.mean_interval([10.0, 30.0]) == (10.0, 30.0)


def test_one_run_has_no_interval():
    assert statistics.mean_interval([10.0]) is None
    assert statistics.interval(statistics.IQM, [np.array([1.0, 2.0]), np.array([3.0])]) is None
    assert statistics.band(np.array([[1.0, 2.0]])) is None
    assert statistics.improvement([(np.array([2.0]), np.array([1.0, 3.0]))]) == (0.5, None)
    assert statistics.profile([np.array([1.0])], np.array([0.0]))[1] is None


def test_a_share_of_none_or_all_has_an_interval_with_width():
    # Wilson: k hits of n, z = 1.96: (k + z²/2 ± z √(k (n − k) / n + z²/4)) / (n + z²).
    assert statistics.share_interval(np.zeros(100, bool)) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert statistics.share_interval(np.ones(5, bool)) == pytest.approx((0.5655, 1.0), abs=1e-4)
    assert statistics.share_interval(np.ones(1, bool)) is None


def test_equal_runs_have_an_interval_without_width():
    assert statistics.mean_interval([5.0, 5.0, 5.0]) == (5.0, 5.0)


def definition_of_iqm(runs_by_tasks: np.ndarray) -> float:
    """rliable's aggregate_iqm: a quarter of all runs of all tasks is cut off at either end."""
    ordered = np.sort(runs_by_tasks, axis=None)
    cut = int(0.25 * ordered.size)
    return ordered[cut : ordered.size - cut].mean()


DEFINITIONS = {
    "mean": (statistics.mean, statistics.MEAN, lambda runs: runs.mean(0).mean()),
    "median": (statistics.median, statistics.MEDIAN, lambda runs: np.median(runs.mean(0))),
    "iqm": (statistics.iqm, statistics.IQM, definition_of_iqm),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_aggregates_and_their_intervals_are_rliables(name):
    value, statistic, definition = DEFINITIONS[name]
    assert value(TASKS) == pytest.approx(definition(MATRIX), rel=1e-12)
    # Its StratifiedBootstrap: the runs of each task are resampled separately; percentiles of the statistic.
    random = np.random.default_rng(1)
    drawn = [definition(np.stack([random.choice(task, len(task)) for task in TASKS], axis=1)) for _ in range(20_000)]
    assert statistics.interval(statistic, TASKS) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.8)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        low, high = statistics.mean_interval(random.normal(50, 10, 40))
        hits += low <= 50 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_same_scores_give_the_same_interval():
    assert statistics.interval(statistics.IQM, TASKS) == statistics.interval(statistics.IQM, TASKS)


def test_improvement_is_the_share_of_pairs_won():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0])
    # 1: loses, wins. 2: half, wins. 3: wins, wins.
    probability, (low, high) = statistics.improvement([(x, y)])
    assert probability == pytest.approx(4.5 / 6)
    assert low < probability < high
    assert statistics.improvement([(x, y), (y, x)])[0] == pytest.approx(0.5)


def test_improvement_over_tasks_is_rliables():
    tasks = [(MATRIX[:, 0], MATRIX[:, 1]), (MATRIX[:, 2], MATRIX[:4, 0])]
    shares = []
    for x, y in tasks:  # Mann and Whitney's U over the number of pairs
        u = sum((a > b) + 0.5 * (a == b) for a, b in itertools.product(x, y))
        shares.append(u / (len(x) * len(y)))
    assert statistics.improvement(tasks)[0] == pytest.approx(np.mean(shares))


def test_a_profile_is_the_share_of_runs_above():
    thresholds = np.array([-1.0, 0.0, 1.0, 2.5])
    tasks = [np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])]
    shares, (low, high) = statistics.profile(tasks, thresholds)
    # A run at the threshold is not above it.
    np.testing.assert_allclose(shares, [1.0, (2 / 3 + 1) / 2, (1 / 3 + 1 / 2) / 2, 0.25])
    assert ((low <= shares) & (shares <= high)).all()
    assert low[0] == high[0] == 1.0


def test_a_band_is_the_interval_of_the_mean_at_each_point():
    low, high = statistics.band(MATRIX)
    for point in range(3):
        assert (low[point], high[point]) == pytest.approx(statistics.mean_interval(MATRIX[:, point]))
