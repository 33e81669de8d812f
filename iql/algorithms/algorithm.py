"""What an algorithm is: the networks that it trains, its hyperparameters, and one update."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from iql.data.sampling import Batch
from iql.data.transitions import Transitions

PerMember = Tensor
"""Type of a hyperparameter that may differ within a pack: one number a member, [M, 1] float32.

The settings that may differ are listed in iql.config.schema.MEMBER_KEYS; all others are plain values.
"""


class Draws(Protocol):
    """The random numbers of one update."""

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers [M, *shape] float32, a function of (seed, name, number of the update)."""

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Numbers in [0, 1), [M, *shape] float32, a function of (seed, name, number of the update)."""


class Step(Draws, Protocol):
    """One update as an algorithm sees it, whoever carries it out.

    batch     the members' transitions, each tensor [M, B, ...]
    networks  by name; calls whose gradients reach the network's parameters, with dropout switched on:
              value(observations) returns V [M, B]; q(observations, actions) returns both Q [M, 2, B];
              policy(observations) returns the mean [M, B, action_dim], which may lie beyond ±1, and log_std
              [M, 1 or B, action_dim], or None for a deterministic policy; for discrete actions, which batches have
              one-hot, a Categorical (networks.distributions)
    frozen    the same networks without gradients and with dropout switched off
    targets   the target networks, without gradients
    measured  whether this update's metrics are asked for
    phase     the number of this update modulo the algorithm's `cycle`, counted from 0

    A network that is called after its step gives what the new weights give. Random numbers come from `normal` and
    `uniform` alone: those of torch's generators would not be the same after a resume or in another pack.
    """

    @property
    def batch(self) -> Batch: ...

    @property
    def networks(self) -> Mapping[str, Callable[..., Any]]: ...

    @property
    def frozen(self) -> Mapping[str, Callable[..., Any]]: ...

    @property
    def targets(self) -> Mapping[str, Callable[..., Any]]: ...

    @property
    def measured(self) -> bool: ...

    @property
    def phase(self) -> int: ...

    def minimize(self, name: str, loss: Tensor) -> None:
        """The optimizer step of a network on the members' losses [M]; also records loss and gradient norm.

        Of several steps of a network in one update the last one is recorded. Raises ValueError.
        """

    def move_target(self, name: str, polyak: Tensor) -> None:
        """target ← (1 − polyak) · target + polyak · network, polyak [M, 1]."""

    def record(self, **metrics: Tensor) -> None:
        """Further metrics of this update, [M] each. Raises ValueError for another shape or a name that is taken.

        NAME_loss may be recorded in an update in which the network NAME takes no step.
        """


class Algorithm(ABC):
    """Base class of all algorithms; a user's own derives from it too.

    networks      names of the networks that are trained, in the order in which their losses are reported; the
                  configuration's section `network` says what each is
    targets       names of those that have a target network
    next_actions  whether batches have the data's next actions
    schedules     how the learning rate of a network runs: "cosine" (to 0 over the run) or "constant", the default
    lr_factors    what the learning rate of a network is multiplied by; 1 where it is not named
    cycle         number of updates after which the sequence of steps repeats: 2 where every second update moves the
                  policy. What an update does may depend on its number through `phase` alone
    """

    networks: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]] = ()
    next_actions: ClassVar[bool] = False
    schedules: Mapping[str, str] = {}
    lr_factors: Mapping[str, float] = {}
    cycle: int = 1

    def of(self, members: slice) -> Algorithm:
        """The algorithm with the hyperparameters of some members."""
        own = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(own, name, value[members])
        return own

    @abstractmethod
    def update(self, step: Step) -> None:
        """The gradient steps of one update."""

    def rows(self, data: Transitions) -> np.ndarray:
        """The rows of `data` that batches are drawn from, [N] int64: all that begin a transition."""
        return data.rows
