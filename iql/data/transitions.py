"""Transitions of an offline dataset as the learner samples them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iql.data.trajectories import qlearning_rows, trajectory_returns
from iql.errors import UserError

REWARDS = ("none", "return_range", "minus_one", "hundredfold")  # transforms of rewards, see transform_rewards
ACTION_LIMIT = 1 - 1e-5  # the authors': keeps the inverse of tanh finite
RETURN_RANGE = 1000.0  # the authors': difference between the best and the worst return after scaling
STD_FLOOR = 1e-3  # CORL's: added to every standard deviation before dividing by it
BLOCK = 65_536  # rows processed at a time, so that temporary arrays stay small


@dataclass(frozen=True)
class Transitions:
    """A dataset stored once in memory: the successor of row i is row i + 1.

    Of the R rows on file N are transitions (D4RL's Q-learning view, trajectories.qlearning_rows). Storing `rows`
    instead of a copy called next_observations halves the memory.

    observations      [R, observation_dim] float32, normalised where the task says so
    actions           [R, action_dim] float32, within ±(1 − 1e-5); discrete ones one-hot
    rewards           [R] float32, transformed as the task says
    masks             [R] float32, 1 − terminals
    rows              [N] int64, ascending; the rows that may be sampled, none of them the last one
    observation_mean  [observation_dim] float32; subtracted from a policy's input (zeros: no shift)
    observation_std   [observation_dim] float32; a policy's input is divided by it (ones: no scaling)
    reward_scale, reward_shift  what made `rewards` of the file's: scale · r + shift
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    masks: np.ndarray
    rows: np.ndarray
    observation_mean: np.ndarray
    observation_std: np.ndarray
    reward_scale: float = 1.0
    reward_shift: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take in memory."""
        arrays = (self.observations, self.actions, self.rewards, self.masks, self.rows)
        return sum(array.nbytes for array in arrays)


def from_rows(
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminals: np.ndarray,
    timeouts: np.ndarray,
    *,
    reward: str = "none",
    normalize: bool = False,
    discrete: bool = False,
) -> Transitions:
    """Transitions of the rows on file: D4RL's Q-learning view, rewards and observations transformed.

    observations [R, O], actions [R, A] and rewards [R] are float32 and are changed in place, so that
    the dataset is in memory once; terminals and timeouts [R] are bool. discrete: actions are one-hot, not to be
    clipped. Raises UserError where no transition
    is left or the returns give no scale.
    """
    rows = qlearning_rows(timeouts)
    if not len(rows):
        raise UserError(
            f"{len(rewards)} row(s) of which none has a successor (every one is a timeout or the last): "
            "there is no transition to learn from; record at least two rows of an episode"
        )
    scale, shift = transform_rewards(reward, observations, rewards, terminals, rows)
    if not discrete:
        np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT, out=actions)
    dim = observations.shape[1]
    mean, std = np.zeros(dim, np.float32), np.ones(dim, np.float32)
    if normalize:
        mean, std = observation_statistics(observations, rows)
        observations -= mean
        observations /= std
    masks = 1 - terminals.astype(np.float32)
    return Transitions(observations, actions, rewards, masks, rows, mean, std, scale, shift)


def transform_rewards(
    kind: str, observations: np.ndarray, rewards: np.ndarray, terminals: np.ndarray, rows: np.ndarray
) -> tuple[float, float]:
    """Change rewards [R] in place: "none"; "minus_one" subtracts 1 (antmaze); "hundredfold" multiplies by 100 (ReBRAC's
    antmaze); "return_range" scales by 1000 / (Rmax − Rmin) over the authors' trajectories (locomotion).

    Returns the scale and the shift. Raises UserError for another kind, or where all returns are equal.
    """
    scale, shift = {"minus_one": (1.0, -1.0), "hundredfold": (100.0, 0.0)}.get(kind, (1.0, 0.0))
    if kind == "return_range":
        returns = trajectory_returns(observations, rewards, terminals, rows)
        spread = float(returns.max() - returns.min())
        if spread <= 0:
            raise UserError(
                f"env.reward=return_range divides by the spread of returns, and the data's {len(returns)} "
                f"trajectory(ies) all have the return {returns[0]:g}: use env.reward=none"
            )
        scale = float(np.float32(RETURN_RANGE / spread))
    elif kind not in REWARDS:
        raise UserError(f"env.reward={kind} is not known; use one of {', '.join(REWARDS)}")
    if scale != 1:
        rewards *= np.float32(scale)
    if shift:
        rewards += np.float32(shift)
    return scale, shift


def observation_statistics(observations: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation + 1e-3 ([O] float32 each) of the Q-learning view, as CORL takes them.

    Two passes in blocks and float64: exact for a million rows, and no second dataset in memory.
    """
    blocks = [rows[first : first + BLOCK] for first in range(0, len(rows), BLOCK)]
    mean = sum(observations[block].sum(0, dtype=np.float64) for block in blocks) / len(rows)
    squares = sum(((observations[block] - mean) ** 2).sum(0) for block in blocks)
    std = np.sqrt(squares / len(rows)) + STD_FLOOR
    return mean.astype(np.float32), std.astype(np.float32)
