"""The published experts of the Adroit hand in this project's simulators: their returns, and datasets of their episodes.

    python docs/reproductions/adroit_experts.py returns EXPERTS pen door hammer relocate --episodes 200
    python docs/reproductions/adroit_experts.py collect EXPERTS pen --rows 100000 --out pen-expert-made.hdf5

EXPERTS is a folder with a file NAME.npz a task (docs/reproductions/adroit.md says what is in it).
"""

from __future__ import annotations

import argparse
import io
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import gymnasium
import h5py
import numpy as np

from iql.config import task_configs
from iql.errors import UserError
from iql.reporting.statistics import mean_interval
from iql.system.atomic_files import replace_file

EPISODES_AT_ONCE = 400  # given to the pool together


class Expert:
    """A policy with two hidden layers of tanh: observation [observation_dim] → action [action_dim], within ±1."""

    def __init__(self, path: Path):
        try:
            self._arrays = dict(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as an expert's arrays: {error}") from error

    def __call__(self, observation: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """The mean, or with noise [action_dim], standard normal numbers, a sample."""
        own = self._arrays
        x = (observation - own["in_shift"]) / (own["in_scale"] + 1e-8)
        for layer in range(2):
            x = np.tanh(own[f"weight{layer}"] @ x + own[f"bias{layer}"])
        mean = own["out_scale"] * (own["weight2"] @ x + own["bias2"]) + own["out_shift"]
        return np.clip(mean if noise is None else mean + np.exp(own["log_std"]) * noise, -1, 1).astype(np.float32)


class Episode(NamedTuple):
    """The rows of one: observations [L, observation_dim], actions [L, action_dim], rewards, terminals, timeouts [L]."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray


@cache
def stage(experts: Path, name: str) -> tuple[gymnasium.Env, Expert]:
    """The environment of a task and its expert, made once a process."""
    return _task(name).env_makers(1)[0](), Expert(experts / f"{name}.npz")


def play(experts: Path, name: str, seed: int, number: int, *, sampled: bool) -> Episode:
    """An episode, which is a function of (seed, number)."""
    env, expert = stage(experts, name)
    draws = np.random.default_rng((seed, number))
    observation, _ = env.reset(seed=seed * 1_000_000 + number)
    rows: list[tuple] = []
    over = False
    while not over:
        noise = draws.standard_normal(env.action_space.shape) if sampled else None
        action = expert(observation, noise)
        after, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, reward, terminated, truncated and not terminated))
        observation, over = after, terminated or truncated
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    types = (np.float32, np.float32, np.float32, bool, bool)
    return Episode(*(column.astype(kind) for column, kind in zip(columns, types, strict=True)))


def returns(pool: Executor, experts: Path, names: list[str], count: int, seed: int) -> None:
    """Print the mean return and the score of each expert with a 95 % interval, of samples and of the mean action."""
    for name in names:
        task = _task(name)
        for sampled in (True, False):
            played = pool.map(partial(play, experts, name, seed, sampled=sampled), range(count))
            totals = np.array([episode.rewards.sum(dtype=np.float64) for episode in played])
            low, high = mean_interval(task.score(totals)) or (np.nan, np.nan)
            actions = "sampled actions" if sampled else "mean action"
            print(
                f"{name}, {actions}, {count} episodes: return {totals.mean():,.1f}, "
                f"score {task.score(totals).mean():.1f} [{low:.1f}, {high:.1f}]",
                flush=True,
            )


def collect(pool: Executor, experts: Path, name: str, rows: int, seed: int, out: Path) -> None:
    """Write a file in D4RL's layout of so many rows of the expert's sampled actions; the last episode is cut off."""
    horizon = _task(name).horizon
    kept: list[Episode] = []
    done = 0
    while done < rows:
        wanted = min(ceil((rows - done) / horizon), EPISODES_AT_ONCE)
        for episode in pool.map(partial(play, experts, name, seed, sampled=True), range(len(kept), len(kept) + wanted)):
            kept.append(episode)
            done += len(episode.rewards)
            if len(kept) % 50 == 0 or done >= rows:
                print(f"{name}: {min(done, rows):,} of {rows:,} rows, {len(kept)} episodes", flush=True)
    columns = {field: np.concatenate([getattr(each, field) for each in kept])[:rows] for field in Episode._fields}
    columns["timeouts"][-1] |= not columns["terminals"][-1]
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for field, column in columns.items():
            file.create_dataset(field, data=column, compression="gzip", track_times=False)
    replace_file(out, content.getbuffer())
    print(f"{out}: python train.py env={name}-expert-v1 env.path={out}")


def _task(name: str):
    (node,) = task_configs.settings([(f"{name}-expert-v1", ())])
    return task_configs.task(node)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("returns", "collect"))
    parser.add_argument("experts", type=Path)
    parser.add_argument("names", nargs="+", choices=("pen", "door", "hammer", "relocate"))
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that play (default 1)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: must be at least 1")
    try:
        with ProcessPoolExecutor(options.workers) as pool:
            if options.what == "returns":
                returns(pool, options.experts, options.names, options.episodes, options.seed)
            else:
                for name in options.names:
                    out = options.out or Path(f"{name}-expert-made.hdf5")
                    collect(pool, options.experts, name, options.rows, options.seed, out)
    except UserError as error:
        sys.exit(f"adroit_experts.py: {error}")


if __name__ == "__main__":
    main()
