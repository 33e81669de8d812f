"""D4RL's maze2d with generated data: one file in the cache, generated once and checked on every use."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from iql.envs.d4rl.mazes import MAZE2D, STITCH, Maze
from iql.errors import UserError
from iql.system.atomic_files import remove_temporaries, replacing
from iql.system.data_cache import generated_path
from iql.system.locks import exclusive
from iql.tasks.d4rl import D4RLTask
from iql.tasks.waypoint_controller import make_waypoint_data

__all__ = ["MadeMaze2d", "make_file", "make_waypoint_data"]

log = logging.getLogger(__name__)

RECIPE, WALKS_RECIPE = 1, 2
"""Versions of the data of one long walk, and of short walks. Raised whenever make_waypoint_data would return other
numbers, so that files of an older version are generated again."""

MAZES = {**MAZE2D, **STITCH}
"""The mazes that data can be generated for, by their simulator's name."""

Progress = Callable[[int], None]
"""Is called with the number of rows generated so far."""

USER_BLOCK = 512
"""Bytes of HDF5's user block, which precedes the HDF5 content; 512 is the smallest that HDF5 allows."""


class MadeMaze2d(D4RLTask):
    """maze2d on data made by a waypoint controller instead of D4RL's file.

    made_rows   number of steps to generate
    made_seed   seed of the controller's starts, goals and noise; another seed is another data set
    walk_steps  the most steps of a walk, None for one long walk as D4RL's (make_waypoint_data)
    cloning     share of episodes in which behaviour cloning of the task's own data reaches the goal, if measured

    The other arguments are D4RLTask's; with `path` that file is read and nothing is generated.
    """

    def __init__(
        self,
        made_rows: int,
        made_seed: int,
        walk_steps: int | None = None,
        cloning: float | None = None,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        if self.simulator not in MAZES:
            raise UserError(f"{self.name}: data can be made for {', '.join(MAZES)}, not for {self.simulator}")
        if made_rows <= self.horizon:
            raise UserError(f"env.made_rows={made_rows} is less than an episode; make more than {self.horizon}")
        self.made_rows = made_rows
        self.made_seed = made_seed
        self.walk_steps = walk_steps
        self.cloning = cloning

    def locate(self) -> Path:
        """The file in the cache, generated now if there is none or it is damaged. Raises UserError."""
        if self.path is not None:
            return super().locate()
        return make_file(self.name, MAZES[self.simulator], self.made_rows, self.made_seed, self.walk_steps)

    def baselines(self) -> list[str]:
        """Lines with success rates to compare the policy's with: the data's or behaviour cloning's, and random ones."""
        random = f"by a random policy in {self.random_policy_success():.0%} of 50 episodes"
        if self.walk_steps is None or self.path is not None:
            share = self.success_rate_of_data()
            data = f"by the data's own walk in {share:.0%} of its {self.horizon}-step windows"
            return [f"for comparison, goal reached {data}, {random}"]
        cloning = f"by behaviour cloning in {self.cloning:.0%} (algorithm.beta=0), " if self.cloning is not None else ""
        return [
            f"for comparison, goal reached {cloning}{random}",
            f"the data's walks take at most {self.walk_steps} steps; none leads from the start to the goal",
        ]

    def success_rate_of_data(self) -> float:
        """The share of consecutive windows of one horizon in the data that reach the evaluation goal.

        The walk has other goals; this is roughly the success rate of a policy that copies the data.
        """
        with h5py.File(self.locate(), "r", locking=False) as file:
            rewards = np.asarray(file["rewards"]).reshape(-1)
        windows = rewards[: len(rewards) // self.horizon * self.horizon].reshape(-1, self.horizon)
        return float(succeeded(windows.sum(axis=1)).mean())

    def random_policy_success(self, episodes: int = 50, seed: int = 0) -> float:
        """The share of episodes in which uniform random actions reach the goal."""
        from iql.envs.registry import make

        env = make(self.simulator, self.physics, self.horizon)
        draws = np.random.default_rng(seed)
        returns = np.zeros(episodes)
        for episode in range(episodes):
            env.reset(seed=int(draws.integers(2**31)))
            over = False
            while not over:
                _, reward, terminated, truncated, _ = env.step(draws.uniform(-1.0, 1.0, 2))
                returns[episode] += float(reward)
                over = terminated or truncated
        env.close()
        return float(succeeded(returns).mean())


def succeeded(returns: np.ndarray) -> np.ndarray:
    """Which maze2d episodes, by their sparse returns, reached the goal: bool, same shape."""
    return np.asarray(returns) > 0


def make_file(name: str, maze: Maze, rows: int, seed: int, walk_steps: int | None = None) -> Path:
    """The file of generated data in the cache (data_cache.generated_path), generated by make_waypoint_data if missing.

    The first process that needs it generates it while others wait. A damaged file is generated again. The same
    arguments give the same bytes. Raises UserError where it cannot be written.
    """

    def make(progress: Progress) -> dict[str, np.ndarray]:
        return make_waypoint_data(maze, rows, seed, progress, walk_steps=walk_steps)

    return made(
        generated_path(name, rows, seed, walk_steps), RECIPE if walk_steps is None else WALKS_RECIPE, rows, make
    )


def made(path: Path, recipe: int, rows: int, make: Callable[[Progress], dict[str, np.ndarray]]) -> Path:
    """The file at `path` with the columns that `make` gives, made now if there is none or it is damaged; see make_file.

    recipe: the version of the data. Raises UserError where it cannot be written.
    """
    if path.exists() and file_problem(path, recipe) is None:
        return path
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name(f".{path.name}.lock"), f"another process is making {path}; waiting for it"):
            if path.exists():
                if (problem := file_problem(path, recipe)) is None:
                    return path
                log.warning("%s %s; making it anew", path, problem)
            remove_temporaries(path.parent, path.name)  # of killed processes: others would hold the lock
            with replacing(path) as file:  # opened first, so that a folder that cannot be written fails at once
                with _progress(path.name, rows) as progress:
                    data = make(progress)
                file.write(_content(data, recipe))
    return path


def file_problem(path: Path, recipe: int) -> str | None:
    """What is wrong with a generated file, to follow its name in a message; None for an intact one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; mend or remove it") from error
    if content[:USER_BLOCK] == _header(memoryview(content)[USER_BLOCK:], recipe):
        return None
    return "is damaged, or was made by another version"


def _content(data: dict[str, np.ndarray], recipe: int) -> bytes:
    """The HDF5 file of `data`, its checksum in the user block that HDF5 leaves at the beginning.

    It is built in memory, since HDF5 does not recover from a full disk.
    """
    with h5py.File("made", "w", driver="core", backing_store=False, userblock_size=USER_BLOCK) as file:
        for key, values in data.items():
            file.create_dataset(key, data=values, track_times=False)
        file.flush()
        body = file.id.get_file_image()  # without the user block
    return _header(body, recipe) + body


def _header(body: bytes | memoryview, recipe: int) -> bytes:
    """The user block [USER_BLOCK] of a generated file: its recipe and the SHA-256 of all bytes after it."""
    line = f"iql made data, recipe {recipe}, sha256 {hashlib.sha256(body).hexdigest()}\n"
    return line.encode().ljust(USER_BLOCK, b"\0")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError on the way to `path` into a UserError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "free some space" if error.errno == errno.ENOSPC else "make it writable"
        raise UserError(f"{path} cannot be made: {reason}; {advice}, or set IQL_DATA_DIR to another folder") from error


@contextlib.contextmanager
def _progress(name: str, rows: int) -> Iterator[Progress]:
    """Shows progress, as a bar on a terminal and as a line per quarter elsewhere.

    Yields the function to call with the number of rows generated so far.
    """
    start = time.monotonic()
    with tqdm(total=rows, desc=f"making {name}", unit="row", disable=not sys.stderr.isatty()) as bar:
        quarter = 0

        def progress(done: int) -> None:
            nonlocal quarter
            bar.update(done - bar.n)
            if bar.disable and 4 * done // rows > quarter:
                quarter = 4 * done // rows
                log.info("making %s: %s of %s rows", name, f"{done:,}", f"{rows:,}")

        yield progress
    log.info("made %s in %.1f s", name, time.monotonic() - start)
