"""How well each checkpoint of a run fits the rows that it is trained on, and rows of another file of the same task.

    python train.py env=TASK env.path=FILE checkpoint.every=25000 checkpoint.keep=100
    python docs/reproductions/unseen_data.py runs/single/TASK/CONFIGURATION/seed=0 UNSEEN

Give it while the run trains, or stop the run before its end: one that is done has its final networks alone.

A row's error is the squared distance of the policy's mean action from the recorded one, a mean over action entries. The
weighted mean over rows is what the policy is trained to make small: weights exp(beta · A) up to the cap, with
A = r + discount · V(s') − V(s).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import iql
from iql.config import task_configs
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.policies.policy import TrainedPolicy
from iql.policies.rollout import values_of

ROWS = 20_000  # of each file, drawn once


class Sample(NamedTuple):
    """Rows of a file: observations and next_observations [N, observation_dim] as recorded, actions [N, action_dim]."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    masks: np.ndarray
    next_observations: np.ndarray


def sample(data: Transitions) -> Sample:
    rows = data.rows[np.random.default_rng(0).choice(len(data), min(ROWS, len(data)), replace=False)]
    now, after = (data.observations[each] * data.observation_std + data.observation_mean for each in (rows, rows + 1))
    return Sample(now, data.actions[rows], data.rewards[rows], data.masks[rows], after)


def fit(policy: TrainedPolicy, algorithm: dict[str, Any], rows: Sample) -> tuple[float, float, float]:
    """The mean error, the weighted one, and the mean of V; the last two are NaN where V is not learned."""
    error = np.square(policy.act(rows.observations) - rows.actions).mean(1)
    if "value" not in policy.trained.networks:
        return float(error.mean()), np.nan, np.nan
    values = values_of(policy.trained)
    v = values(rows.observations)
    advantage = rows.rewards + algorithm["discount"] * rows.masks * values(rows.next_observations) - v
    weights = np.exp(np.minimum(algorithm["beta"] * advantage, np.log(algorithm["advantage_cap"])))
    return float(error.mean()), float((weights * error).sum() / weights.sum()), float(v.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("unseen", type=Path)
    options = parser.parse_args()
    try:
        files = sorted((options.run / "checkpoints").glob("update=*.ckpt"))
        files += options.run.glob("networks.ckpt")  # all that a finished run has
        policies = [iql.load_policy(file) for file in files]
        settings = policies[0].settings if policies else None
        if settings is None:
            raise UserError(f"{options.run}: is no run with networks or checkpoints")
        envs = (settings["env"], {**settings["env"], "path": str(options.unseen)})
        trained, unseen = (sample(task_configs.task(env).transitions()) for env in envs)
        print("         trained on:                    unseen:")
        print(" update   error  weighted         V      error  weighted         V")
        for policy in policies:
            columns = [fit(policy, settings["algorithm"], rows) for rows in (trained, unseen)]
            cells = "   ".join("{:8.4f}  {:8.4f}  {:8.2f}".format(*each) for each in columns)
            print(f"{policy.update:>7,}{cells}")
    except UserError as error:
        sys.exit(f"unseen_data.py: {error}")


if __name__ == "__main__":
    main()
