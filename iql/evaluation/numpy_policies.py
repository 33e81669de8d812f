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
        x = (observations - self.mean) / self.std
        last = len(self.kernels) - 1
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = x @ kernel
            x += bias
            if layer < last:
                np.maximum(x, 0, out=x)
        return np.clip(np.tanh(x) if self.squash else x, -1, 1)


@dataclass(frozen=True)
class TorchPolicy:
    """The mean of a user's own policy class, of one member (networks.lifting.Single); unpickling it imports torch.

    mean, std  as in NumpyPolicy
    """

    module: Any
    mean: np.ndarray
    std: np.ndarray

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            mean, _ = self.module(torch.from_numpy((observations - self.mean) / self.std))
        return mean.clamp(-1, 1).numpy()
