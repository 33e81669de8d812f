"""The learner of a pack, built from the settings of its members and from the networks that they start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from torch import nn

from iql.algorithms.algorithm import Algorithm
from iql.config.phases import Phases
from iql.config.schema import MEMBER_KEYS, constructor_arguments
from iql.config.settings import Settings
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.learner.learner import Learner
from iql.learner.schedules import Horizon
from iql.networks.lifting import build
from iql.runs.saved_networks import read_trained

# For each network: what its copies are called, which initial weights are drawn by, and which see actions.
_COPIES = {"value": ["value"], "q": ["q1", "q2"], "policy": ["policy"]}
_SEES_ACTIONS = ("q", "policy")


def build_learner(
    members: Sequence[Settings], observation_dim: int, action_dim: int, device: torch.device | str = "cpu"
) -> Learner:
    """The learner of a pack; of the settings, those of algorithm, network, optimizer, seed, updates and precision.

    The hyperparameters in which members may differ reach the algorithm as columns [M, 1]. Sets the number of torch's
    threads to 1, as initial weights must not depend on how many there are. Raises UserError for a class that is no
    algorithm.
    """
    torch.set_num_threads(1)
    shared, seeds = members[0], [each["seed"] for each in members]
    node = constructor_arguments("algorithm", shared["algorithm"])
    per_member = {
        key: torch.tensor([each["algorithm"][key] for each in members], dtype=torch.float32, device=device).unsqueeze(1)
        for section, _, key in (name.rpartition(".") for name in MEMBER_KEYS)
        if section == "algorithm" and key in node
    }
    plain = {key: value for key, value in node.items() if key not in per_member}
    algorithm = instantiate(plain, _partial_=True, _convert_="all")(**per_member)
    if not isinstance(algorithm, Algorithm):
        raise UserError(f"algorithm._target_={node['_target_']}: must derive from iql.algorithms.algorithm.Algorithm")
    if unknown := set(algorithm.networks) - set(_COPIES):
        raise UserError(
            f"algorithm._target_={node['_target_']}: trains {', '.join(sorted(unknown))}, which is none of "
            f"the networks that are configured: {', '.join(_COPIES)}"
        )
    networks: dict[str, nn.Module] = {}
    for name in algorithm.networks:
        dims = {"observation_dim": observation_dim} | ({"action_dim": action_dim} if name in _SEES_ACTIONS else {})
        factory = instantiate(shared["network"][name], _partial_=True, _convert_="all")
        networks[name] = build(factory, _COPIES[name], seeds, **dims)
    phases = Phases.of(shared)
    how = shared["finetune"]["schedule"] if shared.get("finetune") else "restarted"
    optimizer = {key: value for key, value in shared["optimizer"].items() if key != "lr"}
    return Learner(
        algorithm,
        networks,
        optimizer=instantiate(optimizer, _partial_=True, _convert_="all"),
        seeds=seeds,
        lr=[each["optimizer"]["lr"] for each in members],
        horizon=Horizon(phases.offline, phases.total - phases.offline, how),
        device=device,
        precision=shared["precision"],
    )


def load_starts(learner: Learner, files: Sequence[Path | None], data: Transitions) -> None:
    """Put the networks of finished runs into the learner, where members start from one (runs.saved_networks).

    Raises UserError where they do not fit.
    """
    for place, file in enumerate(files):
        if file is None:
            continue
        start = read_trained(file)
        if missing := [name for name in learner.networks if name not in start.networks]:
            raise UserError(
                f"finetune.from={file}: has no {', '.join(missing)}; finetuning needs all networks of the algorithm, "
                "which the networks.ckpt of a run of that algorithm has"
            )
        if not (np.array_equal(start.mean, data.observation_mean) and np.array_equal(start.std, data.observation_std)):
            raise UserError(
                f"finetune.from={file}: its observations were normalised by other statistics than this run's; use the "
                "data and the env.normalize that it was trained with"
            )
        try:
            learner.load_networks(place, start.networks)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"finetune.from={file}: its networks do not fit this run's ({error}); use the settings of network and "
                "algorithm that it was trained with"
            ) from error
