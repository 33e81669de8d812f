"""Methods: the policies of an algorithm on a task, from the kept episodes of its runs, and their curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iql.envs.d4rl.mujoco_versions import described
from iql.errors import UserError
from iql.reporting.budget import bandit
from iql.reporting.protocols import NO_SIMULATOR
from iql.reporting.run_records import RunRecord
from iql.runs import kept_episodes
from iql.runs.run_state import DONE

MIN_POLICIES = 2
"""Policies that a choice needs."""


@dataclass(frozen=True)
class Method:
    """An algorithm on a task, whose configurations and seeds are the policies that one is chosen from.

    policies  how many there are
    episodes  of each, the fewest
    """

    env: str
    algorithm: str
    policies: int
    episodes: int
    curve: bandit.Curve

    @property
    def drawn(self) -> int:
        """How many policies each repetition chooses from."""
        return min(bandit.DRAWN, self.policies)


def scores_of(runs: Iterable[RunRecord]) -> dict[Path, np.ndarray]:
    """The scores of the kept episodes of every finished run, [E] float64, by its directory.

    Raises UserError for a run without any, for damaged ones, and for episodes in another simulator than that of the
    run's evaluations.
    """
    known = [(run, kept_episodes.read(run.directory)) for run in runs if run.state == DONE]
    if without := [run.directory for run, kept in known if kept is None]:
        raise UserError(
            f"--budget: {len(without)} of {len(known)} finished runs have no kept episodes, as {without[0]}; "
            "add them with evaluate.py RUN --episodes 1000 --keep, in training with evaluation.final_episodes=1000"
        )
    scores = {}
    for run, kept in known:
        assert kept is not None
        own, theirs = (kept.physics or NO_SIMULATOR, kept.mujoco), (run.protocol.physics, run.protocol.mujoco)
        if own != theirs:
            raise UserError(
                f"{run.directory / kept_episodes.FILE}: played in {described(*own, None)}, the run's evaluations in "
                f"{described(*theirs, None)}; play them again there with evaluate.py --keep"
            )
        scores[run.directory] = kept.scores
    return scores


def methods(runs: Iterable[RunRecord], scores: Mapping[Path, np.ndarray]) -> list[Method]:
    """The methods of runs under one protocol that have MIN_POLICIES finished runs, by task and algorithm."""
    policies: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for run in runs:
        if run.directory in scores:
            policies[run.env, run.algorithm].append(scores[run.directory])
    return [
        Method(env, algorithm, len(own), min(map(len, own)), bandit.curve(own))
        for (env, algorithm), own in sorted(policies.items())
        if len(own) >= MIN_POLICIES
    ]
