"""What runs in a rollout worker: it opens a task's environments once and plays chunks of episodes in them."""

from __future__ import annotations

import atexit
import contextlib
import logging
import pickle
from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from iql.evaluation.rollout import Episodes, evaluate_chunk
from iql.system.worker_context import end_with_parent

# The worker's context: the pickled task, the number of environments, the pickled registrations of the parent.
_context: tuple[bytes, int, list[bytes]]


def initialize(*context: Any) -> None:
    """Keep the worker's context, and have the process end with its parent."""
    global _context
    _context = context
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # the parent has given the warnings already
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    end_with_parent()


def open_environments() -> None:
    """Open the environments. Raises what the task raises, in a form that can be pickled."""
    try:
        _envs()
    except Exception as error:
        raise _portable(error) from error


def play(act: bytes, seeds: Sequence[int], keep_observations: bool, first: int) -> Episodes:
    """Play a chunk of episodes with a pickled policy. Raises what went wrong, in a form that can be pickled."""
    try:
        return evaluate_chunk(pickle.loads(act), _envs(), seeds, keep_observations, first)
    except Exception as error:
        raise _portable(error) from error


@cache
def _envs() -> VectorEnv:
    task, num, specs = _context
    for spec in specs:
        with contextlib.suppress(Exception):  # its module is missing here: gymnasium.make says so
            own = pickle.loads(spec)
            gymnasium.registry.setdefault(own.id, own)
    envs = pickle.loads(task).make_envs(num)
    atexit.register(envs.close)
    return envs


def _portable(error: Exception) -> Exception:
    """The exception if it can be pickled and unpickled, else one with the same message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
