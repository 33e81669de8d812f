"""The learner of a pack: networks, targets, optimizers, and one update of the algorithm on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iql.algorithms.algorithm import Algorithm
from iql.data.sampling import Batch
from iql.learner.noise import Noise
from iql.learner.optimizers import MemberOptimizers, PackAdam, adam_settings
from iql.learner.parameters import FlatParameters
from iql.learner.schedules import SCHEDULES, Horizon
from iql.networks.actors import CategoricalPolicy, Policy
from iql.networks.critics import DiscreteTwinQ, TwinQ, Value
from iql.networks.distributions import distribution
from iql.networks.dropout import DropoutMasks
from iql.networks.lifting import Lifted
from iql.networks.mlp import MLP, PRODUCT_TYPES

Metrics = dict[str, Tensor]

_WITHOUT_MODES = (Value, TwinQ, DiscreteTwinQ)
"""Networks that compute the same in training and evaluation: to switch takes as long as a small product."""


class Learner:
    """M runs of one algorithm, updated side by side.

    networks   by the names of `algorithm.networks`; every parameter leads with the member axis
    optimizer  makes a torch optimizer from (parameters, lr=)
    seeds, lr  one number a member
    horizon    the run's length, which schedules refer to
    precision  of products: float32, ieee or bf16

    Afterwards `networks` holds the target networks too, as NAME_target, and `flats` the parameters of each, laid out
    as rows of one tensor.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        networks: Mapping[str, nn.Module],
        *,
        optimizer: Callable[..., torch.optim.Optimizer],
        seeds: Sequence[int],
        lr: Sequence[float],
        horizon: Horizon,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ):
        self.algorithm = algorithm
        self.device = torch.device(device)
        self.seeds, self.lr = list(seeds), list(lr)
        self.horizon, self.precision = horizon, precision
        self._lr = torch.tensor(self.lr, device=self.device)
        self.update_count = 0
        self.networks: dict[str, Any] = {name: networks[name].to(self.device) for name in algorithm.networks}
        for network in self.networks.values():
            for module in network.modules():
                if isinstance(module, MLP | Lifted):
                    module.product_dtype = PRODUCT_TYPES[precision]
        for name in algorithm.targets:
            target = copy.deepcopy(self.networks[name]).requires_grad_(False).eval()
            self.networks[f"{name}_target"] = target
        self.schedules = {name: algorithm.schedules.get(name, "constant") for name in algorithm.networks}
        for name, schedule in self.schedules.items():
            if schedule not in SCHEDULES:
                raise ValueError(f"the schedule of {name} must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
        self.flats = {name: FlatParameters(network) for name, network in self.networks.items()}
        settings = adam_settings(optimizer)
        self.optimizers: dict[str, PackAdam | MemberOptimizers] = {}
        for name in algorithm.networks:
            flat = self.flats[name]
            if settings is None:
                self.optimizers[name] = MemberOptimizers(optimizer, flat, self.lr)
            else:
                self.optimizers[name] = PackAdam(flat, self.lr, settings)
        self.noise = Noise(self.seeds, self.device)
        self.frozen = {name: _without_gradients(network) for name, network in self.networks.items()}
        self.minimized: str | None = None
        """The network that takes a step, while its gradients are computed: nobody asks for those of others."""

    def of(self, members: range) -> Learner:
        """Some members' own learner, whose tensors are parts of these: of this project's networks, under Adam."""
        own, chosen = copy.copy(self), slice(members.start, members.stop)
        own.algorithm = self.algorithm.of(chosen)
        own.seeds, own.lr, own._lr = self.seeds[chosen], self.lr[chosen], self._lr[chosen]
        own.networks = {name: _part(network, chosen) for name, network in self.networks.items()}
        own.flats = {name: flat.of(members, own.networks[name]) for name, flat in self.flats.items()}
        own.optimizers = {
            name: adam.of(members, own.flats[name])
            for name, adam in self.optimizers.items()
            if isinstance(adam, PackAdam)
        }
        own.noise = self.noise.of(members)
        own.frozen = {name: _without_gradients(network) for name, network in own.networks.items()}
        return own

    def update(self, batch: Batch, number: int | Tensor, phase: int, measure: bool = False) -> Metrics | None:
        """Update `number`, counted from 0, with autograd; a tensor [] in a CUDA graph, which counts on the device.

        phase: the number modulo the algorithm's cycle. Returns the update's metrics, [M] each, if `measure`. Nothing is
        synchronised to the host.
        `update_count` is advanced by the caller.
        """
        for network in self.networks.values():
            if isinstance(network, Lifted | Policy | CategoricalPolicy):
                network.update_number = number
        step = _Step(self, batch, number, phase, measure)
        self.algorithm.update(step)
        return step.metrics() if measure else None

    def phase(self, number: int) -> int:
        """The place of an update in the algorithm's cycle."""
        return number % self.algorithm.cycle

    def rate_factor(self, name: str, number: int | Tensor) -> float | Tensor:
        """What the learning rate of a network is multiplied by in update `number`."""
        return self.algorithm.lr_factors.get(name, 1.0) * self.horizon.rate_factor(self.schedules[name], number)

    def metrics(
        self,
        losses: Metrics,
        recorded: Metrics,
        gradient_norms: Metrics,
        number: int | Tensor,
        members: slice = slice(None),
    ) -> Metrics:
        """The metrics of `members` as they are logged, [M] each; losses and gradient norms by network."""
        names = self.algorithm.networks
        # A constant rate is known from the settings; the policy's is logged always, so that all runs have its curve.
        rates = {
            f"{name}_lr": self._lr[members] * self.rate_factor(name, number)
            for name in names
            if self.schedules[name] != "constant" or name == "policy"
        }
        return {
            **{f"{name}_loss": losses[name] for name in names if name in losses},
            **{name: metric.detach() for name, metric in recorded.items()},
            **{f"grad_norm_{name}": gradient_norms[name] for name in names if name in gradient_norms},
            **rates,
        }

    def mean_actions(self, observations: Tensor) -> Tensor:
        """The policy's greedy actions, within ±1 or one-hot: [M, B, observation_dim] → [M, B, action_dim]."""
        return distribution(self.frozen["policy"](observations)).greedy()

    def state(self, member: int) -> dict[str, Any]:
        """The state needed to resume one member: networks, optimizers, number of updates."""
        return {
            "update": self.update_count,
            "networks": self.network_state(member),
            "optimizers": {name: optimizer.state(member) for name, optimizer in self.optimizers.items()},
        }

    def network_state(self, member: int) -> dict[str, dict[str, Tensor]]:
        """One member's weights on the CPU, without the member axis: {network: {parameter: tensor}}."""
        return {
            network: {name: p.detach()[member].cpu().clone() for name, p in module.named_parameters()}
            for network, module in self.networks.items()
        }

    def load_networks(self, member: int, networks: dict[str, dict[str, Tensor]]) -> None:
        """Put one member's weights in place; shapes and names must be equal. Raises ValueError."""
        for network, module in self.networks.items():
            own = dict(module.named_parameters())
            if own.keys() != networks[network].keys():
                raise ValueError(f"{network}: parameters {sorted(networks[network])}, expected {sorted(own)}")
            for name, saved in networks[network].items():
                if saved.shape != own[name].shape[1:]:
                    raise ValueError(f"{network}.{name} is {tuple(saved.shape)}, not {tuple(own[name].shape[1:])}")
                own[name].data[member].copy_(saved)

    def load(self, member: int, state: dict[str, Any]) -> None:
        """Continue one member from `state`."""
        self.load_networks(member, state["networks"])
        for name, optimizer in self.optimizers.items():
            optimizer.load(member, state["optimizers"][name])
        self.update_count = state["update"]

    def finite(self) -> list[bool]:
        """For each member whether all its weights are finite."""
        finite = torch.ones(len(self.seeds), dtype=torch.bool, device=self.device)
        for flat in self.flats.values():
            finite &= flat.rows.isfinite().view(flat.members, -1).all(1)
        return finite.tolist()


class _Step:
    """One update with autograd, as iql.algorithms.algorithm.Step describes it."""

    def __init__(self, learner: Learner, batch: Batch, number: int | Tensor, phase: int, measured: bool):
        self._learner, self._number = learner, number
        self.batch, self.phase, self.measured = batch, phase, measured
        self.networks, self.frozen = learner.networks, learner.frozen
        self.targets = {name: learner.frozen[f"{name}_target"] for name in learner.algorithm.targets}
        noise = learner.noise.at(number)
        self.normal, self.uniform = noise.normal, noise.uniform
        self._losses: Metrics = {}
        self._norms: Metrics = {}
        self._recorded: Metrics = {}

    def minimize(self, name: str, loss: Tensor) -> None:
        learner = self._learner
        if loss.shape != (len(learner.seeds),):
            raise ValueError(f"the loss of {name} must be [members], one number a member, not {list(loss.shape)}")
        self._losses[name] = loss.detach()
        # A loss may leave a parameter out, as that of the mean alone does a log std: its gradient is 0.
        learner.minimized = name
        try:
            gradients = torch.autograd.grad(loss.sum(), learner.flats[name].parameters, materialize_grads=True)
        finally:
            learner.minimized = None
        learner.optimizers[name].step(gradients, learner.rate_factor(name, self._number))
        if self.measured:
            squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
            self._norms[name] = torch.stack(squares).sum(0).sqrt()

    def move_target(self, name: str, polyak: Tensor) -> None:
        flat, target = self._learner.flats[name], self._learner.flats[f"{name}_target"]
        with torch.no_grad():
            target.rows.lerp_(flat.rows, polyak.repeat_interleave(flat.copies, 0))

    def record(self, **metrics: Tensor) -> None:
        for name, metric in metrics.items():
            if not isinstance(metric, Tensor) or metric.shape != (len(self._learner.seeds),):
                raise ValueError(f"the metric {name} must be a tensor [members], one number a member")
            taken = {f"{network}_loss" for network in self._losses} | self._recorded.keys()
            if name in taken or name.endswith("_lr") or name.startswith("grad_norm_"):
                raise ValueError(f"the metric {name} is recorded already; use another name")
        self._recorded |= metrics

    def metrics(self) -> Metrics:
        return self._learner.metrics(self._losses, self._recorded, self._norms, self._number)


def _part(network: nn.Module, members: slice) -> nn.Module:
    """The network of some members, whose parameters are views of this one's."""
    parts: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach()[members], parameter.requires_grad)
        for parameter in network.parameters()
    }
    for module in network.modules():
        if isinstance(module, DropoutMasks):
            parts[id(module.keys)] = module.keys[:, members]
        if isinstance(module, Policy) and module.fixed_log_std is not None:
            parts[id(module.fixed_log_std)] = module.fixed_log_std[members]
    return copy.deepcopy(network, parts)


def _without_gradients(network: nn.Module) -> Callable[..., Any]:
    """Calls the network without gradients and in evaluation mode, in which dropout is switched off."""

    def forward(*inputs: Tensor) -> Any:
        with torch.no_grad():
            if not network.training or type(network) in _WITHOUT_MODES:
                return network(*inputs)
            network.eval()
            try:
                return network(*inputs)
            finally:
                network.train()

    return forward
