"""The learner of a pack, built from the settings of its members."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hydra.utils import instantiate
from torch import nn

from iql.algorithms.algorithm import Algorithm
from iql.config.schema import MEMBER_KEYS, constructor_arguments
from iql.config.settings import Settings
from iql.errors import UserError
from iql.learner.learner import Learner
from iql.networks.lifting import build

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
    optimizer = {key: value for key, value in shared["optimizer"].items() if key != "lr"}
    return Learner(
        algorithm,
        networks,
        optimizer=instantiate(optimizer, _partial_=True, _convert_="all"),
        seeds=seeds,
        lr=[each["optimizer"]["lr"] for each in members],
        updates=shared["updates"],
        device=device,
        precision=shared["precision"],
    )
