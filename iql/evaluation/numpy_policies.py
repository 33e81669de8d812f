"""One member's policy in the form that is sent to rollout workers: in NumPy, so that a worker needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NumpyPerceptron:
    """One member's networks.mlp.MLP: [B, in] float32 → [B, out].

    kernels, biases           [in, out] and [out] float32 of each layer
    activation                of hidden layers, relu or gelu
    layer_norm                whether they are normalised before or after it, or None; with epsilon beside the variance
    norm_scales, norm_biases  [width] float32 of each hidden layer that is normalised
    """

    kernels: Sequence[np.ndarray]
    biases: Sequence[np.ndarray]
    activation: str
    layer_norm: str | None
    epsilon: float
    norm_scales: Sequence[np.ndarray]
    norm_biases: Sequence[np.ndarray]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = x @ kernel
            x += bias
            if layer == len(self.kernels) - 1:
                break
            if self.layer_norm == "before":
                x = self._normalized(layer, x)
            x = _gelu(x) if self.activation == "gelu" else np.maximum(x, 0, out=x)
            if self.layer_norm == "after":
                x = self._normalized(layer, x)
        return x

    def _normalized(self, layer: int, x: np.ndarray) -> np.ndarray:
        away = x - x.mean(1, keepdims=True)
        away /= np.sqrt(np.square(away).mean(1, keepdims=True) + np.float32(self.epsilon))
        return away * self.norm_scales[layer] + self.norm_biases[layer]


@dataclass(frozen=True)
class NumpyPolicy:
    """The mean of this package's policy: observations [B, observation_dim] float32 → actions [B, action_dim] within ±1.

    squash     whether the mean goes through tanh
    mean, std  [observation_dim] float32: what observations are shifted and divided by
    """

    net: NumpyPerceptron
    squash: bool
    mean: np.ndarray
    std: np.ndarray

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        x = self.net((observations - self.mean) / self.std)
        return np.clip(np.tanh(x) if self.squash else x, -1, 1)


@dataclass(frozen=True)
class NumpyCategorical:
    """The likeliest action of this package's categorical policy: [B, observation_dim] → one-hot [B, action_dim].

    Fields as in NumpyPolicy.
    """

    net: NumpyPerceptron
    mean: np.ndarray
    std: np.ndarray

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        logits = self.net((observations - self.mean) / self.std)
        hot = np.zeros_like(logits)
        np.put_along_axis(hot, logits.argmax(1)[:, None], 1.0, axis=1)
        return hot + 0 * logits  # so that logits that are not finite are noticed


@dataclass(frozen=True)
class TorchPolicy:
    """The mean, or the likeliest action one-hot, of a user's own policy class, of one member (networks.lifting.Single).

    Unpickling it imports torch.

    mean, std  as in NumpyPolicy
    """

    module: Any
    mean: np.ndarray
    std: np.ndarray

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.module(torch.from_numpy((observations - self.mean) / self.std)).greedy().numpy()


def _gelu(x: np.ndarray) -> np.ndarray:
    """Its tanh form, as MLP's."""
    return 0.5 * x * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)))
