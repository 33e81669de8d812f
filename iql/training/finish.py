"""The end of a pack's runs: final networks, map of a maze, summary, pictures, trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iql.evaluation.pending import KEPT_SEED
from iql.evaluation.rollout import Episodes
from iql.learner.learner import Learner
from iql.runs import checkpoints, kept_episodes
from iql.runs.metrics_file import read_records
from iql.runs.run import Run
from iql.system.atomic_files import replace_file
from iql.tasks.task import Task
from iql.tracking import Artifacts
from iql.training.pack import Pack
from iql.training.summary import kept_of, successes, summary, value_map


def finish(
    pack: Pack,
    task: Task,
    played: Mapping[int, Episodes] | None,
    kept: Mapping[int, Episodes] | None,
    inputs: Callable[[Run], dict[str, Any]],
    facts: dict[str, Any],
    online: Callable[[int], dict[str, Any]] | None,
    draw: Callable[[Path], dict[str, Path]],
) -> None:
    """Finish every live run; its summary, once written, makes it done.

    played: in a maze the members' last episodes by place, with observations. kept: those to be kept. inputs: what the
    use of a run's policy takes besides its weights. facts: for the summary; online: those of a finetuned member's
    exploration, by place. draw: makes a finished run's pictures.
    """
    learner, finished = pack.learner, []
    for member in pack.live:
        run = member.run
        pack.leases.check(run.directory)
        run.metrics.flush(sync=True)
        networks = learner.network_state(member.place)
        state = {"update": learner.update_count, "networks": networks, **inputs(run)}
        checkpoints.write(run.directory / "networks.ckpt", state)
        success = None
        if task.maze is not None and played is not None:
            episodes = played[member.place]
            success = successes(task.maze, episodes)
            values = _values(learner, member.place, state["observation_mean"], state["observation_std"])
            replace_file(run.directory / "map.npz", value_map(task.maze, values, episodes))
        if kept is not None:
            kept_episodes.write(run.directory, kept_of(task, kept[member.place], KEPT_SEED))
        records = read_records(run.metrics.path)
        explored = online(member.place) if online is not None else None
        outcome = summary(run.settings, records, task, facts, learner.algorithm.networks, success, explored)
        pack.leases.check(run.directory)
        run.finish(outcome)
        finished.append((member, outcome))
    for member, outcome in finished:
        artifacts = Artifacts(draw(member.run.directory), member.run.directory / "networks.ckpt")
        pack.close(member, outcome, 0, artifacts)


def _values(
    learner: Learner, place: int, mean: torch.Tensor, std: torch.Tensor
) -> Callable[[np.ndarray], np.ndarray] | None:
    """A member's V of observations [G, observation_dim]; None for an algorithm without one."""
    if "value" not in learner.networks:
        return None

    def values(observations: np.ndarray) -> np.ndarray:
        normalized = (observations - mean.numpy()) / std.numpy()
        inputs = torch.from_numpy(normalized).to(learner.device).expand(len(learner.seeds), -1, -1)
        return learner.frozen["value"](inputs)[place].cpu().numpy()

    return values
