"""Episodes and trajectories in a dataset's rows, and their returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

JUMP = 1e-6  # the authors' threshold: a successor further away than this starts a new trajectory


@dataclass(frozen=True)
class Episodes:
    """The E episodes of a file, in order.

    starts   [E] int64, first row of each
    lengths  [E] int64, rows of each
    returns  [E] float64, sum of rewards of each
    cut      whether the last one has neither terminal nor timeout: the file ends within it
    """

    starts: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    cut: bool

    def finished(self) -> np.ndarray:
        """[E or E − 1] float64: returns of the episodes that ended, without a cut one."""
        return self.returns[:-1] if self.cut else self.returns


def horizon_timeouts(terminals: np.ndarray, horizon: int) -> np.ndarray:
    """[R] bool: the timeouts of a file without that field, every episode's `horizon`-th row.

    D4RL's own loop counts one row too many after a terminal and so drops the row before (docs/deviations.md).
    """
    timeouts = np.zeros(len(terminals), bool)
    start = 0
    for end in (*np.flatnonzero(terminals), len(terminals) - 1):
        timeouts[start + horizon - 1 : end + 1 : horizon] = True
        start = end + 1
    return timeouts


def split(rewards: np.ndarray, terminals: np.ndarray, timeouts: np.ndarray) -> Episodes:
    """Episodes of the raw rows ([R] each): an episode ends with a terminal, a timeout or the file."""
    last = len(rewards) - 1
    ends = np.flatnonzero(terminals | timeouts)
    cut = not (terminals[last] or timeouts[last])
    if cut:
        ends = np.append(ends, last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    returns = np.add.reduceat(rewards, starts, dtype=np.float64)
    return Episodes(starts, ends - starts + 1, returns, bool(cut))


def qlearning_rows(timeouts: np.ndarray) -> np.ndarray:
    """[N] int64: rows that D4RL's Q-learning view keeps, each with the row after it as successor.

    A timeout is dropped, also where it is a terminal too, since the row after it belongs to another episode; so is the
    file's last row, even a terminal. Every other terminal is kept: its mask hides the successor.
    """
    return np.flatnonzero(~timeouts[:-1])


def trajectory_returns(
    observations: np.ndarray, rewards: np.ndarray, terminals: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """[T] float64: returns of the authors' trajectories, which set the scale of rewards.

    Over the Q-learning view (`rows` [N]; the others have one entry per row on file) a trajectory ends
    with a terminal, or where the distance of a row's successor to the next row kept exceeds JUMP.
    The last, partial one counts. Observations must not be normalised yet.
    """
    gaps = np.flatnonzero(np.diff(rows) > 1)  # rows that follow each other share the observation: no jump
    apart = observations[rows[gaps] + 1].astype(np.float64) - observations[rows[gaps + 1]]
    ends = terminals[rows[:-1]].astype(bool)
    ends[gaps] |= np.linalg.norm(apart, axis=1) > JUMP
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
    return np.add.reduceat(rewards[rows], starts, dtype=np.float64)


def best_trajectories(rewards: np.ndarray, ends: np.ndarray, fraction: float, discount: float) -> list[np.ndarray]:
    """Rows of the trajectories of the highest returns, best first, [n] int64 each (CORL's any_percent_bc.py).

    rewards [R]; ends [R] bool, a trajectory's last rows. Rows after the last end belong to no trajectory. The return
    is Σ discount^k · r_k. Of T trajectories max(1, floor(fraction · T)) are kept.
    """
    lasts = np.flatnonzero(ends)
    trajectories = [np.arange(first, last + 1) for first, last in zip([0, *(lasts[:-1] + 1)], lasts, strict=True)]
    returns = [float(rewards[rows] @ discount ** np.arange(len(rows))) for rows in trajectories]
    order = np.argsort(-np.array(returns), kind="stable")
    return [trajectories[place] for place in order[: max(1, int(fraction * len(trajectories)))]]
