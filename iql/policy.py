"""A trained policy as an object that acts: no Hydra, no simulator, no data.

policy = iql.load_policy("runs/single/hopper-medium-v2/default-1a2b3c4d/seed=0")
action = policy.act(observation)
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from iql.errors import UserError
from iql.networks import Single, build
from iql.trained import Trained, read_trained

Array = TypeVar("Array", np.ndarray, Tensor)


def load_policy(source: Path | str) -> TrainedPolicy:
    """The policy of a run's directory, of a networks.ckpt or checkpoint, or of an exported .safetensors file.

    Of an unfinished run it is that of the newest checkpoint (`update` says which). Raises UserError for what is no
    run or policy, damaged, from a newer version, or of a class that cannot be imported.
    """
    return TrainedPolicy(read_trained(source))


class TrainedPolicy(nn.Module):
    """A policy with all that it needs: its weights, what observations are normalised by, the bounds of actions.

    task             as on the command line, hopper-medium-v2
    update           the update that its weights are from
    observation_dim, action_dim  entries of an observation and of an action
    settings         the whole configuration of its run; None where only the policy is known
    trained          what it was made from
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trained: Trained):
        super().__init__()
        self.trained = trained
        self.task: str = trained.policy["task"]
        self.update = trained.update
        self.observation_dim: int = trained.policy["observation_dim"]
        self.action_dim: int = trained.policy["action_dim"]
        self.settings = trained.manifest["settings"] if trained.manifest else None
        self.register_buffer("mean", torch.from_numpy(trained.mean))
        self.register_buffer("std", torch.from_numpy(trained.std))
        weights = trained.networks["policy"]
        network = make_network(trained, "policy", ["policy"], action_dim=self.action_dim)
        own = dict(network.named_parameters())
        if {name: p.shape[1:] for name, p in own.items()} != {name: w.shape for name, w in weights.items()}:
            raise UserError(f"{trained.source}: its weights do not fit {trained.policy['network']['_target_']}")
        self.network = Single(network, weights)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean [B, action_dim], as the network gives it, and log std [B, action_dim], for observations [B, …] float32.

        log std is None of a deterministic policy.
        """
        mean, log_std = self.network((observations - self.mean) / self.std)
        return mean, None if log_std is None else log_std.expand_as(mean)

    @torch.no_grad()
    def act(self, observations: Array, deterministic: bool = True, generator: torch.Generator | None = None) -> Array:
        """Actions within ±1 for one observation [observation_dim] or many [B, observation_dim].

        NumPy gives NumPy (float32), torch gives torch. deterministic: the mean, which is what evaluations play; else
        a sample of the Gaussian, drawn from `generator` or torch's own. Raises ValueError for another size, and for
        a sample of a deterministic policy.
        """
        inputs = torch.as_tensor(observations, dtype=torch.float32)
        if inputs.ndim not in (1, 2) or inputs.shape[-1] != self.observation_dim:
            size = self.observation_dim
            raise ValueError(f"observations of {self.task} are [{size}] or [B, {size}], not {list(inputs.shape)}")
        mean, log_std = self(inputs.reshape(-1, self.observation_dim).to(self.mean.device))
        if not deterministic:
            if log_std is None:
                raise ValueError("this policy is deterministic: there is no distribution to sample from")
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            mean = mean + log_std.exp() * noise
        actions = mean.clamp(-1, 1).reshape(*inputs.shape[:-1], self.action_dim)
        return actions.cpu().numpy() if isinstance(observations, np.ndarray) else actions.to(inputs.device)


def make_network(trained: Trained, name: str, parts: list[str], **dims: int) -> nn.Module:
    """A pack of one of a run's networks, with initial weights. Raises UserError for a class that cannot be had."""
    node = trained.policy["network"] if name == "policy" else (trained.manifest or {})["settings"]["network"][name]
    cls = _imported(node["_target_"])
    arguments = {key: _made(value) for key, value in node.items() if key != "_target_"}
    return build(partial(cls, **arguments), parts, [trained.policy["seed"]], observation_dim=len(trained.mean), **dims)


def _made(value: Any) -> Any:
    """What Hydra would make of a setting: an object where it has a _target_."""
    if isinstance(value, dict):
        made = {key: _made(part) for key, part in value.items() if key != "_target_"}
        return _imported(value["_target_"])(**made) if "_target_" in value else made
    return [_made(part) for part in value] if isinstance(value, list) else value


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{target} cannot be imported ({error}): put its module on PYTHONPATH") from error
