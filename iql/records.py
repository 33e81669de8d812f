"""What is written of an evaluation and of a finished run."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from iql.evaluation import Episodes
from iql.tasks import Task
from iql.tasks.maze2d import OFFSET, Maze


def evaluation_record(update: int, scores: np.ndarray, episodes: Episodes, seconds: float) -> dict[str, Any]:
    """The metrics record of one member's evaluation; scores [E] are normalised."""
    return {
        "kind": "eval",
        "update": update,
        "score": float(scores.mean()),
        "score_std": float(scores.std()),
        "return_mean": float(episodes.returns.mean()),
        "return_std": float(episodes.returns.std()),
        "length_mean": float(episodes.lengths.mean()),
        "returns": episodes.returns.tolist(),
        "lengths": episodes.lengths.tolist(),
        "seconds": round(seconds, 3),
    }


def summary(
    settings: dict[str, Any], evaluations: Sequence[dict[str, Any]], task: Task, facts: dict[str, Any]
) -> dict[str, Any]:
    """What a run came to: its scores, each labelled, and all that a score needs beside it.

    score is the headline: the mean of the last ten evaluations, or the final one. success_rate, in mazes,
    is the share of the final evaluation's episodes that reached the goal.
    """
    scores = [record["score"] for record in evaluations]
    returns = evaluations[-1]["returns"]
    last10 = float(np.mean(scores[-10:]))
    headline = settings["evaluation"]["headline"]
    data = task.facts()
    return {
        "env": settings["env"]["name"],
        "seed": settings["seed"],
        "updates": settings["updates"],
        "headline": headline,
        "score": last10 if headline == "last10" else scores[-1],
        "final_score": scores[-1],
        "last10_score": last10,
        "best_score": max(scores),
        "final_returns": returns,
        "success_rate": float(np.mean(np.array(returns) > 0)) if task.maze is not None else None,
        "episodes": settings["evaluation"]["episodes"],
        "evaluations": len(scores),
        **facts,
        "mujoco": data.pop("mujoco"),
        "physics": data.pop("physics"),
        "data": data,
    }


def value_map(maze: Maze, values: Callable[[np.ndarray], np.ndarray], episodes: Episodes) -> bytes:
    """The content of map.npz: V over the maze's free space and an evaluation's paths, for a picture of both.

    values gives V [G] of observations [G, 4]; arrays lead with x (reporting.figures says how they are read).
    """
    grid = maze.grid()
    paths = np.full((len(episodes.observations), int(episodes.lengths.max()) + 1, 2), np.nan, np.float32)
    for path, observations in zip(paths, episodes.observations, strict=True):
        path[: len(observations)] = observations[:, :2]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        values=grid.image(values(grid.observations)).T,
        extent=np.array(maze.extent),
        walls=maze.walls,
        offset=np.array([OFFSET, OFFSET]),
        goal=maze.goal,
        paths=paths,
        success=episodes.returns > 0,
    )
    return buffer.getvalue()
