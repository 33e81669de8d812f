"""What is written of an evaluation and of a finished run."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from iql.config.phases import Phases
from iql.envs.d4rl.mazes import Maze
from iql.evaluation.rollout import Episodes
from iql.runs.kept_episodes import KeptEpisodes
from iql.runs.metrics_file import of_kind
from iql.tasks.task import Task


def evaluation_record(
    update: int, phase: Mapping[str, Any], scores: np.ndarray, episodes: Episodes, seconds: float
) -> dict[str, Any]:
    """The metrics record of one member's evaluation; scores [E] are normalised. phase: of a finetuned run."""
    return {
        "kind": "eval",
        "update": update,
        **phase,
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
    settings: dict[str, Any],
    records: Sequence[dict[str, Any]],
    task: Task,
    facts: dict[str, Any],
    networks: Sequence[str],
    success: np.ndarray | None = None,
    explored: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a finished run's summary.json: its scores, each labelled, and what a score needs beside it.

    score is the headline: the mean of the last ten or the last three evaluations, or the final one. All scores are
    None without an evaluation, and a mean over one that is not finite (a task's own arithmetic). losses are means over
    the last ten train records, by `networks`. success [E] says, in mazes, which episodes of the final evaluation
    reached the goal. explored: of a finetuned run, whose scores are those of its online phase; `finetune` then has what
    else is of it.
    """
    train, evaluations = of_kind(records, "train"), of_kind(records, "eval")
    finetune = None
    if explored is not None:
        offline = [record["score"] for record in evaluations if record["phase"] == "offline"]
        evaluations = [record for record in evaluations if record["phase"] == "online"]
        finetune = explored | finetuning(of_kind(records, "episode"), offline)
    scores = [record["score"] for record in evaluations]
    final = scores[-1] if scores else None
    means = {"last10": _mean(scores[-10:]), "last3": _mean(scores[-3:]), "final": final}
    headline = settings["evaluation"]["headline"]
    losses = {name: [record[f"{name}_loss"] for record in train[-10:]] for name in networks}
    data = task.facts()
    return {
        "env": settings["env"]["name"],
        "seed": settings["seed"],
        "updates": Phases.of(settings).total,
        "headline": headline,
        "score": means[headline],
        "final_score": final,
        "last3_score": means["last3"],
        "last10_score": means["last10"],
        "best_score": max((score for score in scores if score is not None), default=None),
        "final_returns": evaluations[-1]["returns"] if evaluations else None,
        "success_rate": float(success.mean()) if success is not None else None,
        "losses": {name: _mean(values) for name, values in losses.items()},
        "episodes": settings["evaluation"]["episodes"],
        "evaluations": len(scores),
        **({"finetune": finetune} if finetune is not None else {}),
        **facts,
        "mujoco": data.pop("mujoco"),
        "physics": data.pop("physics"),
        "exact_physics": data.pop("exact_physics", None),
        "data": data,
    }


def finetuning(episodes: Sequence[dict[str, Any]], offline_scores: Sequence[float | None]) -> dict[str, Any]:
    """What a summary says of the online phase besides its scores.

    offline_score  of the policy with which it began; None if that was not evaluated
    regret         mean over the episodes of exploration of 1 − success, or, where the environment does not say whether
                   an episode succeeded, of 1 − score / 100 within [0, 1]; regret_of: which of both
    """
    known = bool(episodes) and all("success" in episode for episode in episodes)
    missed = [
        1 - float(episode["success"]) if known else float(np.clip(1 - episode["score"] / 100, 0, 1))
        for episode in episodes
    ]
    return {
        "offline_score": offline_scores[-1] if offline_scores else None,
        "episodes": len(episodes),
        "regret": _mean(missed),
        "regret_of": "success" if known else "score",
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None of none, and where a value is unknown."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def successes(maze: Maze, episodes: Episodes) -> np.ndarray:
    """Which episodes reached the maze's goal, [E] bool: by the sparse reward, in dense mazes by the way taken."""
    if not maze.dense:
        return episodes.returns > 0
    return np.array([maze.reached(observations[1:, :2]).any() for observations in episodes.observations])


def kept_of(task: Task, episodes: Episodes, seed: int) -> KeptEpisodes:
    """What is kept of episodes of a final policy; seed: as evaluate.py's."""
    facts = task.simulator_facts() if hasattr(task, "simulator_facts") else task.facts()
    return KeptEpisodes(
        scores=task.score(episodes.returns),
        returns=episodes.returns,
        lengths=episodes.lengths,
        reached=None if task.maze is None else successes(task.maze, episodes),
        seed=seed,
        physics=str(facts.get("physics") or ""),
        mujoco=str(facts.get("mujoco") or ""),
    )


def value_map(maze: Maze, values: Callable[[np.ndarray], np.ndarray] | None, episodes: Episodes) -> bytes:
    """The content of map.npz: V over the maze's free space and an evaluation's paths, for a picture of both.

    values gives V [G] of observations [G, observation_dim], whose first two entries are x and y, or is
    None where none was learned; arrays lead with x (reporting.run_figures says how they are read).
    """
    grid = maze.grid()
    paths = np.full((len(episodes.observations), int(episodes.lengths.max()) + 1, 2), np.nan, np.float32)
    for path, observations in zip(paths, episodes.observations, strict=True):
        path[: len(observations)] = observations[:, :2]
    seen = np.full(len(grid.observations), np.nan, np.float32) if values is None else values(grid.observations)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        values=grid.image(seen).T,
        extent=np.array(maze.extent),
        walls=maze.walls,
        goal=maze.goal,
        paths=paths,
        success=successes(maze, episodes),
    )
    return buffer.getvalue()
