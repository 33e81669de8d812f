"""What a policy network gives for a batch of observations: the parameters of its distribution over actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Continuous actions: a diagonal Gaussian, or without `log_std` one action a state.

    mean     [M, B, action_dim], which may lie beyond ±1
    log_std  [M, 1 or B, action_dim], [M, action_dim] if it depends on no state, or None
    """

    mean: Tensor
    log_std: Tensor | None

    def greedy(self) -> Tensor:
        """The mean, clipped to ±1, [M, B, action_dim]: what evaluations play."""
        return self.mean.clamp(-1, 1)

    def sample(self, noise: Tensor, temperature: float) -> Tensor:
        """mean + temperature · standard deviation · noise, which may lie beyond ±1; the mean without a `log_std`.

        noise: standard normal numbers that broadcast to the mean.
        """
        return self.mean if self.log_std is None else self.mean + temperature * self.log_std.exp() * noise

    def metrics(self) -> dict[str, Tensor]:
        """What a training record says of it: the mean log standard deviation, if it has one, [M]."""
        return {} if self.log_std is None else {"log_std": self.log_std.flatten(1).mean(1)}


class Categorical(NamedTuple):
    """Discrete actions: log-probabilities up to a constant, logits [M, B, action_dim]."""

    logits: Tensor

    def greedy(self) -> Tensor:
        """The likeliest action, one-hot [M, B, action_dim] float32: what evaluations play."""
        best = self.logits.argmax(-1, keepdim=True)
        return torch.zeros_like(self.logits).scatter(-1, best, 1.0)

    def sample(self, noise: Tensor, temperature: float) -> Tensor:
        """One-hot actions with probabilities softmax(logits / temperature), by the Gumbel-max trick.

        noise: numbers in [0, 1) that broadcast to the logits. At temperature 0 the likeliest action.
        """
        if temperature == 0:
            return self.greedy()
        return Categorical(self.logits / temperature - (-noise.log()).log()).greedy()

    def entropy(self) -> Tensor:
        """−Σ π log π, in nats, [M, B]."""
        log_probs = torch.log_softmax(self.logits, -1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def metrics(self) -> dict[str, Tensor]:
        """What a training record says of it: the mean entropy, [M]."""
        return {"entropy": self.entropy().mean(1)}


def distribution(given: Any) -> Gaussian | Categorical:
    """What a policy gave, as one of the two; a user's own may give the pair (mean, log_std)."""
    return given if isinstance(given, Categorical) else Gaussian(*given)
