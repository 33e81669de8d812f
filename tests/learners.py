"""Small learners for tests, built from settings as trainings build them, and networks as a user would write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from iql.algorithms.algorithm import Algorithm
from iql.data.sampling import Batches
from iql.data.transitions import Transitions
from iql.execution.eager import Eager
from iql.learner.learner import Learner, Metrics
from iql.training.build import build_learner

OBSERVATION_DIM, ACTION_DIM = 5, 2
ADAM = {"_target_": "torch.optim.Adam", "fused": True}
VARIED = {
    "tau": [0.5, 0.7, 0.9],
    "beta": [0.0, 3.0, 10.0],
    "lr": [3e-4, 1e-3, 3e-4],
    "discount": [0.99, 0.9, 0.95],
    "polyak": [0.005, 0.05, 0.01],
    "advantage_cap": [100.0, 2.0, 5.0],
}
"""Three members that differ in everything that members of IQL may differ in."""

MEMBER = {
    "lr": 3e-4,
    "tau": 0.7,
    "beta": 3.0,
    "discount": 0.99,
    "polyak": 0.005,
    "advantage_cap": 100.0,
    "bc_coef": 1.0,
}
DISCRETE = {
    "q": {"_target_": "iql.networks.critics.DiscreteTwinQ", "hidden_dims": [16, 16], "initialization": "orthogonal"},
    "policy": {
        "_target_": "iql.networks.actors.CategoricalPolicy",
        "hidden_dims": [16, 16],
        "initialization": "orthogonal",
        "dropout": None,
    },
}
"""The networks for discrete actions, of which there are ACTION_DIM."""


def make_learner(
    seeds: Sequence[int],
    *,
    variant: str = "iql",
    algorithm: dict[str, Any] | None = None,
    dropout: float | None = None,
    distribution: str = "gaussian",
    hidden: Sequence[int] = (16, 16),
    precision: str = "float32",
    updates: int = 1000,
    extraction: str = "awr",
    optimizer: dict[str, Any] = ADAM,
    networks: dict[str, dict[str, Any]] | None = None,
    device: str = "cpu",
    **members: Sequence[float],
) -> Learner:
    """A learner of a pack; `members` gives one number a member of what MEMBER names, `networks` sections of its own."""
    ours = variant == "iql"
    common = {"hidden_dims": list(hidden), "initialization": "orthogonal" if ours else "pytorch"}
    policy = {
        "_target_": "iql.networks.actors.Policy",
        **common,
        "distribution": distribution,
        "mean": "tanh" if ours or distribution == "deterministic" else "linear",
        "dropout": dropout,
        "log_std_range": [-5.0, 2.0],
    }
    shared = {
        "fresh_value": ours,
        "q_loss_scale": 1.0 if ours else 0.5,
        "policy_schedule": "cosine",
        "extraction": extraction,
    }
    settings = []
    for member, seed in enumerate(seeds):
        own = {key: members[key][member] if key in members else usual for key, usual in MEMBER.items()}
        lr = own.pop("lr")
        settings.append(
            {
                "seed": seed,
                "updates": updates,
                "precision": precision,
                "algorithm": algorithm or {"_target_": "iql.algorithms.iql.IQL", **shared, **own},
                "network": {
                    "value": {"_target_": "iql.networks.critics.Value", **common},
                    "q": {"_target_": "iql.networks.critics.TwinQ", **common},
                    "policy": policy,
                    **(networks or {}),
                },
                "optimizer": {**optimizer, "lr": lr},
            }
        )
    return build_learner(settings, OBSERVATION_DIM, ACTION_DIM, device)


def train(learner: Learner, data: Transitions, updates: int, measure: bool = False) -> Metrics | None:
    """Updates with autograd on the learner's own batches; the last one's metrics if `measure`."""
    return Eager(learner, 1).advance(Batches(data, learner.seeds, 32, "cpu"), updates, measure)


def states(learner: Learner) -> list[dict]:
    return [learner.network_state(place) for place in range(len(learner.seeds))]


def largest_difference(one: dict, other: dict) -> float:
    return max(float((one[net][p] - other[net][p]).abs().max()) for net in one for p in one[net])


class OwnPolicy(nn.Module):
    """A user's policy, written for one run."""

    def __init__(self, observation_dim: int, action_dim: int, width: int = 8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(observation_dim, width), nn.Dropout(0.2), nn.Tanh())
        self.head = nn.Linear(width, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observations):
        return self.head(self.body(observations)), self.log_std.expand(len(observations), -1)


class OwnValue(nn.Module):
    def __init__(self, observation_dim: int):
        super().__init__()
        self.layer = nn.Linear(observation_dim, 1)

    def forward(self, observations):
        return self.layer(observations).squeeze(-1)


class OwnQ(nn.Module):
    def __init__(self, observation_dim: int, action_dim: int = 0):
        super().__init__()
        self.layer = nn.Linear(observation_dim + action_dim, 1)

    def forward(self, observations, actions):
        return self.layer(torch.cat([observations, actions], -1)).squeeze(-1)


class WithDropout(OwnQ):
    """A user's Q or V that notes of each pass whether something was learned from it, and whether dropout was on."""

    passes: ClassVar[set[tuple[bool, bool]]] = set()

    def forward(self, *inputs):
        WithDropout.passes.add((torch.is_grad_enabled(), self.training))
        return self.layer(nn.functional.dropout(torch.cat(inputs, -1), 0.5, self.training)).squeeze(-1)


def target(cls: type, **arguments: Any) -> dict[str, Any]:
    """The section of a configuration that names a class of this file."""
    return {"_target_": f"learners.{cls.__name__}", **arguments}


class Noisy(Algorithm):
    """Adds noise of the update to the actions that it clones."""

    networks = ("policy",)

    def update(self, step):
        noise = step.normal("action", *step.batch.actions.shape[1:])
        mean, _ = step.networks["policy"](step.batch.observations)
        step.minimize("policy", (mean - step.batch.actions - noise).square().mean((1, 2)))
        step.record(noise=noise.mean((1, 2)))
