"""D4RL's Q-learning view, the authors' return range and the statistics, on tables to check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from iql.data.trajectories import horizon_timeouts, qlearning_rows, split, trajectory_returns
from iql.data.transitions import ACTION_LIMIT, from_rows, observation_statistics
from iql.errors import UserError


def flags(text: str) -> np.ndarray:
    """'..x' is [False, False, True]."""
    return np.array([mark == "x" for mark in text])


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


# Two timed-out episodes around one that ends in a terminal, then one that the file cuts off.
OBSERVATIONS = column(0, 1, 2, 3, 10, 11, 12, 20, 21)
REWARDS = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256], np.float32)
TERMINALS = flags("......x..")
TIMEOUTS = flags("...x.....")


@pytest.mark.parametrize(
    ("timeouts", "kept"),
    [
        pytest.param("......", [0, 1, 2, 3, 4], id="the file's last row has no successor"),
        pytest.param("..x...", [0, 1, 3, 4], id="a timeout's successor belongs to another episode"),
        pytest.param(".....x", [0, 1, 2, 3, 4], id="a timeout in the last row"),
        pytest.param("x.xx..", [1, 4], id="timeouts next to each other and in the first row"),
        pytest.param("xxxxx.", [], id="nothing is left"),
    ],
)
def test_qlearning_view_keeps_rows_whose_successor_is_known(timeouts, kept):
    assert qlearning_rows(flags(timeouts)).tolist() == kept


def test_terminals_stay_unless_they_are_timeouts_too_or_last():
    terminals, timeouts = flags(".x..x..x"), flags("....x...")
    data = from_rows(column(*range(8)), np.zeros((8, 1), np.float32), np.ones(8, np.float32), terminals, timeouts)
    assert data.rows.tolist() == [0, 1, 2, 3, 5, 6]
    assert data.masks[data.rows].tolist() == [1, 0, 1, 1, 1, 1]
    assert len(data) == 6


@pytest.mark.parametrize(
    ("terminals", "timeouts"),
    [
        pytest.param(".x......", "....x..x", id="counting starts anew after a terminal and after a timeout"),
        pytest.param("..x.....", "..x..x..", id="a terminal in the horizon-th row is a timeout too"),
        pytest.param("........", "..x..x..", id="no terminal at all"),
        pytest.param("x.x.x.x.", "........", id="no episode that long"),
    ],
)
def test_without_the_field_the_horizonth_row_is_the_timeout(terminals, timeouts):
    assert horizon_timeouts(flags(terminals), horizon=3).tolist() == flags(timeouts).tolist()


def test_episodes_split_at_terminals_and_timeouts_and_say_when_the_file_cuts_one_off():
    episodes = split(REWARDS, TERMINALS, TIMEOUTS)
    assert episodes.starts.tolist() == [0, 4, 7]
    assert episodes.lengths.tolist() == [4, 3, 2]
    assert episodes.returns.tolist() == [15, 112, 384]
    assert episodes.cut
    assert episodes.finished().tolist() == [15, 112]


@pytest.mark.parametrize(("terminals", "timeouts"), [("..x", "..."), ("...", "..x"), ("..x", "..x")])
def test_an_episode_that_ends_in_the_last_row_is_whole(terminals, timeouts):
    episodes = split(np.array([1, 2, 3], np.float32), flags(terminals), flags(timeouts))
    assert not episodes.cut
    assert episodes.finished().tolist() == [6]


def test_a_file_of_one_cut_episode_has_no_finished_one():
    assert split(np.ones(3, np.float32), flags("..."), flags("...")).finished().tolist() == []


def test_trajectories_end_at_jumps_and_terminals_and_the_partial_one_counts():
    rows = qlearning_rows(TIMEOUTS)  # 3 (a timeout) and 8 (the last) are gone, and their rewards with them
    returns = trajectory_returns(OBSERVATIONS, REWARDS, TERMINALS, rows)
    assert returns.tolist() == [1 + 2 + 4, 16 + 32 + 64, 128]


@pytest.mark.parametrize(("distance", "returns"), [(0, [119, 128]), (9e-7, [119, 128]), (2e-6, [7, 112, 128])])
def test_a_timeout_whose_episode_goes_on_where_it_stood_is_no_jump(distance, returns):
    observations = OBSERVATIONS - 3  # near zero float32 can tell such distances apart
    observations[4] = distance
    found = trajectory_returns(observations, REWARDS, TERMINALS, qlearning_rows(TIMEOUTS))
    assert found.tolist() == returns


def test_a_terminal_ends_a_trajectory_even_without_a_jump():
    rows = qlearning_rows(flags("..x.."))
    returns = trajectory_returns(column(0, 1, 1, 1, 1), np.ones(5, np.float32), flags(".x..."), rows)
    assert returns.tolist() == [2, 1]


def test_a_jump_is_measured_over_the_whole_observation():
    observations = np.array([[0, 0], [0, 0], [8e-7, 8e-7], [0, 0]], np.float32)  # √2 · 8e-7 > 1e-6
    rows = qlearning_rows(flags(".x.."))
    assert trajectory_returns(observations, np.ones(4, np.float32), flags("...."), rows).tolist() == [1, 1]


def transitions(**options):
    return from_rows(OBSERVATIONS.copy(), np.zeros((9, 2), np.float32), REWARDS.copy(), TERMINALS, TIMEOUTS, **options)


def test_return_range_puts_best_and_worst_trajectory_1000_apart():
    scale = 1000 / (128 - 7)
    np.testing.assert_allclose(transitions(reward="return_range").rewards, REWARDS * scale, rtol=1e-6)


def test_other_rewards():
    assert transitions(reward="none").rewards.tolist() == REWARDS.tolist()
    assert transitions(reward="minus_one").rewards.tolist() == [0, 1, 3, 7, 15, 31, 63, 127, 255]
    assert transitions(reward="hundredfold").rewards.tolist() == [100 * each for each in REWARDS.tolist()]


def test_equal_returns_give_no_scale():
    with pytest.raises(UserError, match="1 trajectory.* return 2: use env.reward=none"):
        from_rows(
            column(0, 1, 2), np.zeros((3, 1), np.float32), np.ones(3, np.float32), flags("..."), flags("..."),
            reward="return_range",
        )  # fmt: skip


def test_rows_without_any_successor_are_refused():
    with pytest.raises(UserError, match="no transition"):
        from_rows(column(0, 1), np.zeros((2, 1), np.float32), np.ones(2, np.float32), flags(".."), flags("x."))


def test_actions_are_clipped_just_inside_the_bounds():
    actions = np.array([[-3, -1], [0.5, 1], [1.5, -0.25]], np.float32)
    data = from_rows(column(0, 1, 2), actions, np.ones(3, np.float32), flags("..."), flags("..."))
    limit = np.float32(ACTION_LIMIT)
    assert data.actions.tolist() == [[-limit, -limit], [0.5, limit], [limit, -0.25]]
    assert limit < 1


def test_normalisation_is_that_of_the_qlearning_view():
    observations = np.array([[0, 7], [2, 7], [50, 7], [4, 7], [100, 7]], np.float32)
    rows = qlearning_rows(flags("..x.."))  # first entries 0, 2 and 4; 50 timed out and 100 is last
    mean, std = observation_statistics(observations, rows)
    np.testing.assert_allclose(mean, [2, 7])
    np.testing.assert_allclose(std, [np.sqrt(8 / 3) + 1e-3, 1e-3], rtol=1e-6)
    data = from_rows(
        observations, np.zeros((5, 1), np.float32), np.ones(5, np.float32), flags("....."), flags("..x.."),
        normalize=True,
    )  # fmt: skip
    np.testing.assert_allclose(data.observations[:, 0], np.array([-2, 0, 48, 2, 98]) / 1.6339932, rtol=1e-6)
    assert data.observations[:, 1].tolist() == [0] * 5
    assert (data.observation_mean.tolist(), data.observation_std.tolist()) == (mean.tolist(), std.tolist())


def test_without_normalisation_a_policy_sees_observations_as_they_are():
    data = transitions()
    assert data.observations.tolist() == OBSERVATIONS.tolist()
    assert (data.observation_mean.tolist(), data.observation_std.tolist()) == ([0], [1])


def test_statistics_do_not_depend_on_how_rows_fall_into_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    observations = rng.normal(1000, 0.01, (50, 3)).astype(np.float32)
    rows = np.arange(49)
    whole = observation_statistics(observations, rows)
    monkeypatch.setattr("iql.data.transitions.BLOCK", 8)
    np.testing.assert_array_equal(observation_statistics(observations, rows), whole)
    np.testing.assert_allclose(whole[1] - 1e-3, observations[:49].astype(np.float64).std(0), rtol=1e-3)
