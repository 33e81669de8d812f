"""Episodes of a trained policy, played as training's evaluations play them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed

import numpy as np
import torch
from tqdm import tqdm

from iql.errors import UserError
from iql.evaluation.pending import actor, episode_seeds
from iql.evaluation.rollout import Act, Episodes, joined
from iql.evaluation.workers import RolloutWorkers, pickled
from iql.policies.policy import make_network
from iql.runs.saved_networks import Trained
from iql.tasks.task import Task


def seeds_of(trained: Trained, task: Task, seed: int, episodes: int) -> list[int]:
    """The environment seeds of `episodes` episodes, the same for every policy; not those of training's evaluations.

    Where the episodes of a run share something (antmaze v0's goal), it is what they shared in training.
    """
    run_seeded = getattr(task, "run_seeded", False)
    return episode_seeds(trained.policy["seed"], trained.update, episodes, run_seeded, again=seed)


def act_of(trained: Trained, trust: bool = False) -> Act:
    """The policy with its mean action, for batches [CHUNK, observation_dim]; trust as in iql.load_policy.

    Raises UserError.
    """
    network = make_network(trained, "policy", trust)
    return actor(network, trained.networks["policy"], trained.mean, trained.std)


def play(act: Act, task: Task, seeds: Sequence[int], workers: int | None, keep_observations: bool = False) -> Episodes:
    """Play an episode for each seed with a progress bar; neither workers nor what plays when changes a bit of it.

    workers: processes, None for one a core. Raises UserError for a task or policy that cannot be sent to them.
    """
    pool = RolloutWorkers(task, workers, 1, len(seeds))
    try:
        parts = pool.play(pickled(act, f"the policy {type(act).__name__}"), seeds, keep_observations)
        with tqdm(total=len(seeds), unit=" episodes", disable=None) as bar:
            for part in as_completed(parts):
                pool.check_start()
                bar.update(len(pool.result(part).returns))
        return joined([pool.result(part) for part in parts])
    finally:
        pool.close()


def values_of(trained: Trained, trust: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """V [G] of observations [G, observation_dim]; trust as in iql.load_policy.

    Raises UserError for a policy without its run's other networks.
    """
    if "value" not in trained.networks or trained.manifest is None:
        raise UserError(f"{trained.source}: has no value network with it; give its run's directory")
    network = make_network(trained, "value", trust).eval()
    for name, parameter in network.named_parameters():
        parameter.data = trained.networks["value"][name][None]

    @torch.no_grad()
    def values(observations: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy((observations - trained.mean) / trained.std)[None])[0].numpy()

    return values
