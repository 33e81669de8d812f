"""A trained policy as an object that acts: no Hydra, no simulator, no data.

policy = iql.load_policy("runs/single/hopper-medium-v2/default-1a2b3c4d/seed=0")
action = policy.act(observation)
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from iql.config.trust import NETWORKS, factory
from iql.errors import UserError
from iql.networks.distributions import Categorical, Gaussian
from iql.networks.lifting import Single, build
from iql.runs.saved_networks import Trained, read_trained

Array = TypeVar("Array", np.ndarray, Tensor)


def load_policy(source: Path | str, trust: bool = False) -> TrainedPolicy:
    """The policy of a run's directory, of a networks.ckpt or checkpoint, or of an exported .safetensors file.

    Of an unfinished run it is that of the newest checkpoint (`update` says which). trust: make it of whatever class
    the file names, which runs that class's code; else only this project's own classes are made. Raises UserError for
    what is no run or policy, damaged, from a newer version, or of a class that is not trusted or cannot be imported.
    """
    return TrainedPolicy(read_trained(source), trust)


class TrainedPolicy(nn.Module):
    """A policy with all that it needs: its weights, what observations are normalised by, the bounds of actions.

    task             as on the command line, hopper-medium-v2
    update           the update that its weights are from
    observation_dim, action_dim  entries of an observation and of an action; of discrete actions their number
    discrete         whether actions are whole numbers 0 … action_dim − 1
    settings         the whole configuration of its run; None where only the policy is known
    trained          what it was made from
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trained: Trained, trust: bool = False):
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
        network = make_network(trained, "policy", trust)
        self.network = Single(network, weights)
        with torch.no_grad():
            self.discrete = isinstance(self(torch.zeros(1, self.observation_dim)), Categorical)

    def forward(self, observations: Tensor) -> Gaussian | Categorical:
        """Mean [B, action_dim], as the network gives it, and log std [B, action_dim], for observations [B, …] float32.

        log std is None of a deterministic policy. For discrete actions Categorical, with logits [B, action_dim].
        """
        given = self.network((observations - self.mean) / self.std)
        if isinstance(given, Categorical) or given.log_std is None:
            return given
        return Gaussian(given.mean, given.log_std.expand_as(given.mean))

    @torch.no_grad()
    def act(self, observations: Array, deterministic: bool = True, generator: torch.Generator | None = None) -> Array:
        """Actions within ±1 for one observation [observation_dim] or many [B, observation_dim].

        NumPy gives NumPy (float32), torch gives torch. Discrete actions are whole numbers, int64 [] or [B].
        deterministic: the mean or the likeliest action, which is what evaluations play; else a sample of the
        distribution, drawn from `generator` or torch's own. Raises ValueError for another size, and for a sample of a
        deterministic policy.
        """
        inputs = torch.as_tensor(observations, dtype=torch.float32)
        if inputs.ndim not in (1, 2) or inputs.shape[-1] != self.observation_dim:
            size = self.observation_dim
            raise ValueError(f"observations of {self.task} are [{size}] or [B, {size}], not {list(inputs.shape)}")
        given = self(inputs.reshape(-1, self.observation_dim).to(self.mean.device))
        if isinstance(given, Categorical):
            chosen = given.logits.argmax(-1)
            if not deterministic:
                chosen = torch.multinomial(given.logits.softmax(-1), 1, generator=generator).squeeze(-1)
            actions = chosen.reshape(inputs.shape[:-1])
        else:
            mean, log_std = given
            if not deterministic:
                if log_std is None:
                    raise ValueError("this policy is deterministic: there is no distribution to sample from")
                noise = torch.randn(mean.shape, generator=generator, device=mean.device)
                mean = mean + log_std.exp() * noise
            actions = mean.clamp(-1, 1).reshape(*inputs.shape[:-1], self.action_dim)
        return actions.cpu().numpy() if isinstance(observations, np.ndarray) else actions.to(inputs.device)


def make_network(trained: Trained, name: str, trust: bool = False) -> nn.Module:
    """A pack of one of a run's networks, policy or value, with initial weights of the shapes that were saved.

    trust as in load_policy. Raises UserError for a class that is not trusted, cannot be had, or does not fit.
    """
    settings = (trained.manifest or {}).get("settings", {})
    node = trained.policy["network"] if name == "policy" else settings["network"][name]
    make = factory(node, NETWORKS, f"{trained.source}: its {name} network", trust)
    sizes = {"observation_dim": len(trained.mean)}
    if name == "policy":
        sizes["action_dim"] = trained.policy["action_dim"]
    shapes = {parameter: tuple(weight.shape) for parameter, weight in trained.networks[name].items()}
    misfit = UserError(f"{trained.source}: the weights of its {name} network do not fit {node['_target_']}")
    if node["_target_"] in NETWORKS and not _fits(node, sizes.get("action_dim", 1), sizes["observation_dim"], shapes):
        raise misfit  # before it is made: a file may claim any size
    try:
        network = build(make, [name], [trained.policy["seed"]], **sizes)
    except (TypeError, ValueError) as error:
        raise UserError(f"{trained.source}: {node['_target_']} cannot be made of what it says ({error})") from error
    if {parameter: tuple(p.shape[1:]) for parameter, p in network.named_parameters()} != shapes:
        raise misfit
    return network


def _fits(node: dict[str, Any], outputs: int, inputs: int, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the kernels that were saved have the widths that a network of this project's own would have."""
    hidden = node.get("hidden_dims")
    if not isinstance(hidden, list):
        return False
    widths = [inputs, *hidden, outputs]
    kernels = {f"net.kernels.{n}": pair for n, pair in enumerate(itertools.pairwise(widths))}
    return kernels == {name: shape for name, shape in shapes.items() if name.startswith("net.kernels.")}
