"""Golden traces: updates as another implementation computed them, with its weights, batches and random numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iql.config.schema import own_algorithms
from iql.data.sampling import Batch, Batches
from iql.errors import UserError
from iql.learner.noise import Noise

NETWORKS = {
    "value": ["v"],
    "q": ["q1", "q2"],
    "policy": ["policy"],
    "q_target": ["q1_target", "q2_target"],
    "policy_target": ["policy_target"],
}
"""The learner's networks: what the copies of each are called in a trace."""

PARAMETERS = {"kernel": "kernels", "bias": "biases", "norm_scale": "norm_scales", "norm_bias": "norm_biases"}
"""What a layer's parameters are called in a trace, and in networks.mlp.MLP."""

LOSSES = {"value_loss": "value_loss", "critic_loss": "q_loss", "actor_loss": "policy_loss", "v": "v", "q": "q"}
"""What a trace may report of each update, and the learner's metric that is equal to it."""

ALGORITHMS = {
    "TD3+BC": "td3_bc",
    "ReBRAC": "rebrac",
    "AWAC": "awac",
    "BC": "bc",
    "SQL": "sql",
    "EQL": "eql",
    "XQL": "xql",
    "FQL-IQL": "iql_fql",
}
"""Our names of the algorithms that the meta of a trace may name."""

HYPERPARAMETERS = {
    "num_v_updates": "value_updates",
    "sample_random_times": "random_actions",
    "action_noise_std": "action_noise",
    "expectile": "tau",
    "exp_advantage_max": "advantage_cap",
    "actor_loss": "extraction",
}
"""Our names of an algorithm's settings that are called otherwise in the meta of a trace."""

# What the meta of a trace says besides an algorithm's settings.
_OTHERS = ("lr", "actor_lr", "critic_lr", "max_action", "double_q", "const_std")


class GoldenTrace:
    """A trace in an .npz file; tests/golden/README.md describes its arrays."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = dict(arrays)
        if "loss/q1" in self.arrays and "loss/q2" in self.arrays:
            self.arrays["loss/q"] = (self.arrays["loss/q1"] + self.arrays["loss/q2"]) / 2

    @classmethod
    def read(cls, path: Path) -> GoldenTrace:
        """Raises OSError or ValueError for a file that is no .npz of plain arrays."""
        with np.load(path, allow_pickle=False) as file:
            return cls(dict(file))

    @cached_property
    def meta(self) -> dict:
        """What the trace says of itself as JSON; empty for an older trace of key=value pairs."""
        text = str(self.arrays.get("meta", ""))
        return json.loads(text) if text.startswith("{") else {}

    @property
    def updates(self) -> int:
        return len(self.arrays["batch/observations"])

    @property
    def batch_size(self) -> int:
        return self.arrays["batch/observations"].shape[1]

    @property
    def dims(self) -> tuple[int, int]:
        """observation_dim and action_dim."""
        return self.arrays["batch/observations"].shape[-1], self.arrays["batch/actions"].shape[-1]

    @property
    def compared(self) -> list[int]:
        """The numbers of updates after which the trace holds weights."""
        return sorted({int(match[1]) for name in self.arrays if (match := re.match(r"after_(\d+)/", name))})

    def overrides(self) -> list[str]:
        """The trace's settings and networks as overrides of the configuration. Raises UserError."""
        return [*(self._of_json() if self.meta else self._of_pairs()), *self._of_networks()]

    def _of_json(self) -> list[str]:
        meta = self.meta
        if meta["algorithm"] not in ALGORITHMS:
            raise UserError(f"a trace of {meta['algorithm']}, an algorithm that is not replayed here")
        numbers, schedule = meta["hyperparameters"], meta["policy_schedule"]
        settings = {HYPERPARAMETERS.get(key, key): value for key, value in numbers.items() if key not in _OTHERS}
        name = ALGORITHMS[meta["algorithm"]]
        if name == "iql_fql":  # whose alpha is one of two coefficients
            settings["extraction"] = {"ddpgbc": "ddpg_bc"}.get(settings["extraction"], settings["extraction"])
            settings["beta" if settings["extraction"] == "awr" else "bc_coef"] = settings.pop("alpha")
        if "policy_schedule" in own_algorithms()[name].model_fields:
            settings["policy_schedule"] = schedule["kind"]
        if not numbers.get("double_q", True):
            raise UserError("a trace of an update with a single Q, which is not replayed here")
        rate = numbers.get("lr", numbers.get("critic_lr"))
        if numbers.get("actor_lr", rate) != rate:
            raise UserError("a trace in which the networks' learning rates differ, which is not replayed here")
        return [
            f"algorithm={name}",
            *(f"algorithm.{key}={_text(value)}" for key, value in settings.items()),
            f"optimizer.lr={rate}",
            f"updates={schedule['max_steps'] or 1}",
        ]

    def _of_pairs(self) -> list[str]:
        """From a meta of key=value pairs."""
        meta = str(self.arrays.get("meta", ""))
        found = dict(re.findall(r"(\w+)=([^\s(]+)", meta))
        schedule = re.search(r"actor_schedule=(\w+)\(max_steps=(\d+)\)", meta)
        cosine = schedule is not None and schedule[1] == "cosine"
        return [
            f"algorithm={'iql_gwthomas' if re.match(r'gaussian|deterministic', meta) else 'iql'}",
            f"algorithm.policy_schedule={'cosine' if cosine else 'constant'}",
            f"updates={schedule[2] if schedule else 1}",
            *(f"algorithm.{key}={found[key]}" for key in ("tau", "beta", "discount", "polyak") if key in found),
            *([f"optimizer.lr={found['lr']}"] if "lr" in found else []),
        ]

    def _of_networks(self) -> list[str]:
        fixed = self.meta.get("hyperparameters", {}).get("const_std", False)
        gaussian = fixed or "init/policy/log_std" in self.arrays
        found = [
            f"network={'mlp' if gaussian else 'deterministic'}",
            f"network.activation={'gelu' if 'gelu' in self.meta.get('activation', '') else 'relu'}",
            f"network.policy.distribution={'gaussian' if gaussian else 'deterministic'}",
            f"network.policy.std={1.0 if fixed else 'null'}",
            "network.policy.dropout=null",
        ]
        order = self.meta.get("layer_norm", {}).get("order", "")
        for name in ("value", "q", "policy"):
            copy = NETWORKS[name][0]
            widths: list[int] = []
            while (kernel := f"init/{copy}/{len(widths)}/kernel") in self.arrays:
                widths.append(self.arrays[kernel].shape[-1])
            if not widths:
                continue
            found.append(f"network.{name}.hidden_dims={widths[:-1]}")
            normed = f"init/{copy}/0/norm_scale" in self.arrays
            place = "null" if not normed else "before" if order.startswith("dense, layer_norm") else "after"
            found.append(f"network.{name}.layer_norm={place}")
        return found

    def weights(self, prefix: str) -> dict[str, dict[str, Tensor]]:
        """The weights under `prefix` ("init", "after_5") in the layout of Learner.network_state."""
        found: dict[str, dict[str, Tensor]] = {}
        for network, copies in NETWORKS.items():
            if f"{prefix}/{copies[0]}/0/kernel" not in self.arrays:
                continue
            found[network] = {}
            if f"{prefix}/{copies[0]}/log_std" in self.arrays:
                found[network]["log_std"] = torch.tensor(self.arrays[f"{prefix}/{copies[0]}/log_std"])
            for part, ours in PARAMETERS.items():
                layer = 0
                while f"{prefix}/{copies[0]}/{layer}/{part}" in self.arrays:
                    stacked = np.stack([self.arrays[f"{prefix}/{copy}/{layer}/{part}"] for copy in copies])
                    found[network][f"net.{ours}.{layer}"] = torch.tensor(stacked[0] if len(copies) == 1 else stacked)
                    layer += 1
        return found

    def losses(self) -> dict[str, tuple[str, list[int], np.ndarray]]:
        """For each loss that is compared: the learner's metric, the updates that have one (from 0), and its values."""
        delayed = [number - 1 for number in self.meta.get("policy_updates") or self.meta.get("full_updates") or ()]
        found = {}
        for name, metric in LOSSES.items():
            if (values := self.arrays.get(f"loss/{name}")) is not None:
                updates = delayed if delayed and name == "actor_loss" else list(range(self.updates))
                found[name] = (metric, updates, values)
        return found


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class RecordedBatches(Batches):
    """A trace's batches, asked for as data.sampling.Batches."""

    def __init__(self, trace: GoldenTrace, device: torch.device):
        self._device = device
        arrays = [trace.arrays.get(f"batch/{field}") for field in Batch._fields]
        self._columns = [None if array is None else torch.tensor(array, device=device) for array in arrays]

    def of(self, members: range) -> RecordedBatches:
        return self

    def at(self, update: int) -> Batch:
        return self.gather(torch.tensor([update], device=self._device))

    def draw(self, first: int | Tensor, updates: int) -> Tensor:
        return (torch.arange(updates, device=self._device) + first).unsqueeze(0)

    def gather(self, rows: Tensor) -> Batch:
        return Batch(*(None if column is None else column[rows] for column in self._columns))  # type: ignore[arg-type]


class RecordedNoise(Noise):
    """A trace's random numbers in place of a learner's, by the same names."""

    def __init__(self, trace: GoldenTrace, device: torch.device):
        self._trace, self._device = trace, device

    def of(self, members: range) -> RecordedNoise:
        return self

    def normal(self, name: str, number: int | Tensor, shape: Sequence[int]) -> Tensor:
        drawn = torch.tensor(self._trace.arrays[f"noise/{name}"], device=self._device)
        return drawn[number].view(1, *shape)

    def uniform(self, name: str, number: int | Tensor, shape: Sequence[int]) -> Tensor:
        return (self.normal(name, number, shape) + 1) / 2  # recorded within ±1
