"""One member's policy in the form that is sent to rollout workers: in NumPy, so that a worker needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NumpyPolicy:
    """The mean of this package's policy: observations [B, observation_dim] float32 → actions [B, action_dim] within ±1.

    kernels, biases  [in, out] and [out] float32 of each layer, ReLU between them
    squash           whether the mean goes through tanh
    mean, std        [observation_dim] float32: what observations are shifted and divided by
    """

    kernels: Sequence[np.ndarray]
    biases: Sequence[np.ndarray]
    squash: bool
    mean: np.ndarray
    std: np.ndarray

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        x = _perceptron(self.kernels, self.biases, (observations - self.mean) / self.std)
        return np.clip(np.tanh(x) if self.squash else x, -1, 1)


@dataclass(frozen=True)
class NumpyCategorical:
    """The likeliest action of this package's categorical policy: [B, observation_dim] → one-hot [B, action_dim].

    Fields as in NumpyPolicy.
    """

    kernels: Sequence[np.ndarray]
    biases: Sequence[np.ndarray]
    mean: np.ndarray
    std: np.ndarray

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        logits = _perceptron(self.kernels, self.biases, (observations - self.mean) / self.std)
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


def _perceptron(kernels: Sequence[np.ndarray], biases: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        x = x @ kernel
        x += bias
        if layer < len(kernels) - 1:
            np.maximum(x, 0, out=x)
    return x
