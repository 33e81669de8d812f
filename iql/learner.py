"""Implicit Q-Learning: the state of a pack and its update."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from iql import losses
from iql.diagnostics import diagnostics
from iql.draws import Batch, Batches, DropoutMasks
from iql.execution import LOW, Fused, Graphs, fuse
from iql.networks import MLP, Lifted, Policy

# What keeps torch's compiler away from an optimizer imports it first, which takes a second; nothing here compiles.
_add_param_group = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", None)
if _add_param_group is not None:
    _add_param_group.__dynamo_disable = _add_param_group


class IQL:
    """The networks, targets and optimizers of M runs, updated side by side.

    One update is the authors': V, policy, Q, target, where policy and Q target see the V of this update
    (`fresh_value`); gwthomas and CORL let both see the V before it, and halve the Q loss
    (`q_loss_scale` 0.5). The advantage always takes the target Q before its own update.

    tau, beta, discount, polyak, advantage_cap, lr: one number a member (paper's names; lr the learning
    rate of all three networks). policy_schedule: "cosine" takes the policy's lr to 0 over `updates` and
    holds it there, "constant" leaves it. optimizer: makes a torch optimizer from (parameters, lr=).
    precision: of products, see `execution.LOW`.
    """

    def __init__(
        self,
        *,
        value: nn.Module,
        q: nn.Module,
        policy: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        seeds: Sequence[int],
        lr: Sequence[float],
        tau: Sequence[float],
        beta: Sequence[float],
        discount: Sequence[float],
        polyak: Sequence[float],
        advantage_cap: Sequence[float],
        fresh_value: bool,
        q_loss_scale: float,
        policy_schedule: str,
        updates: int,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ):
        self.device = torch.device(device)
        self.seeds = list(seeds)
        self.networks: dict[str, Any] = {
            "value": value.to(self.device),
            "q": q.to(self.device),
            "policy": policy.to(self.device),
        }
        for network in self.networks.values():
            for module in network.modules():
                if isinstance(module, MLP | Lifted):
                    module.low = LOW[precision]
        self.networks["q_target"] = copy.deepcopy(self.networks["q"]).requires_grad_(False).eval()
        self.value, self.q, self.policy, self.q_target = self.networks.values()

        def column(numbers: Sequence[float]) -> Tensor:
            return torch.tensor(list(numbers), dtype=torch.float32, device=self.device).unsqueeze(1)

        self.tau, self.beta, self.discount = column(tau), column(beta), column(discount)
        self.polyak, self.advantage_cap = column(polyak), column(advantage_cap)
        self.lr = list(lr)
        self.fresh_value = fresh_value
        self.q_loss_scale = q_loss_scale
        self.policy_schedule = policy_schedule
        self.updates = updates
        self.precision = precision
        self.update_count = 0
        self.fused: Fused | Graphs | None = None
        self.dropout = None  # a user's policy brings its own
        if isinstance(policy, Policy) and policy.dropout:
            self.dropout = DropoutMasks(policy.dropout, policy.hidden_dims, self.seeds, self.device)
        self._parameters = {name: list(net.parameters()) for name, net in self.networks.items()}
        self._views = {
            name: [[p.detach()[m] for p in self._parameters[name]] for m in range(len(self.seeds))]
            for name in ("value", "q", "policy")
        }
        self.optimizers: dict[str, list[Any]] = {  # of torch, or fused.FlatAdam
            name: [optimizer(leaves, lr=member_lr) for leaves, member_lr in zip(members, self.lr, strict=True)]
            for name, members in self._views.items()
        }

    def take_path(self, code_path: str, batch_size: int, threads: int) -> None:
        """Settle how updates are carried out from now on: execution.fuse, on a CPU with so many threads."""
        torch.set_num_threads(threads)
        self.threads = threads
        self.fused = fuse(self, batch_size, code_path, threads)
        self.code_path = self.fused.name if self.fused is not None else "plain"

    def advance(self, batches: Batches, count: int, measure: bool = False) -> dict[str, Tensor] | None:
        """`count` updates on their batches; returns the last one's metrics, each [M], if `measure`."""
        if self.fused is not None:
            metrics = self.fused.advance(batches, self.update_count, count, measure)
            self.update_count += count
            return metrics
        metrics = None
        for left in reversed(range(count)):
            metrics = self.update(batches.at(self.update_count), measure=measure and left == 0)
        return metrics

    def update(self, batch: Batch, measure: bool = False) -> dict[str, Tensor] | None:
        """One gradient step of V, the policy and Q, then of the target.

        Returns the update's metrics, each [M], if `measure`; nothing is synchronised to the host.
        """
        observations, actions, rewards, masks, next_observations = batch
        for network in self.networks.values():
            if isinstance(network, Lifted):
                network.update = self.update_count

        with torch.no_grad():
            target_q = self.q_target(observations, actions).amin(1)
            if not self.fresh_value:
                with evaluating(self.value):
                    next_v = self.value(next_observations)

        v = self.value(observations)
        value_loss = losses.value_loss(target_q, v, self.tau)
        value_gradients = self._step("value", value_loss)

        with torch.no_grad():
            if self.fresh_value:
                with evaluating(self.value):
                    both = self.value(torch.cat([observations, next_observations], 1))
                seen_v, next_v = both.split(observations.shape[1], 1)
            else:
                seen_v = v
            advantage = target_q - seen_v
            weights = losses.advantage_weights(advantage, self.beta, self.advantage_cap)
            target = losses.q_target(rewards, masks, next_v, self.discount)

        policy_lr = self._schedule_policy()
        policy_loss, log_std = self._policy_loss(observations, actions, weights)
        policy_gradients = self._step("policy", policy_loss)

        q = self.q(observations, actions)
        q_loss = self.q_loss_scale * losses.q_loss(q, target)
        q_gradients = self._step("q", q_loss)

        self._step_target()
        self.update_count += 1
        if not measure:
            return None
        return diagnostics(
            losses={"value": value_loss, "q": q_loss, "policy": policy_loss},
            v=v,
            q=q,
            advantage=advantage,
            weights=weights,
            cap=self.advantage_cap,
            log_std=log_std,
            gradient_norms={
                "value": _norms(value_gradients),
                "q": _norms(q_gradients),
                "policy": _norms(policy_gradients),
            },
            policy_lr=torch.tensor(policy_lr, device=self.device),
        )

    def mean_actions(self, observations: Tensor) -> Tensor:
        """The policy's deterministic actions, clipped to ±1: [M, E, observation_dim] → [M, E, action_dim]."""
        with torch.no_grad(), evaluating(self.policy):
            mean, _ = self.policy(observations)
        return mean.clamp(-1, 1)

    def state(self, member: int) -> dict[str, Any]:
        """All that one member's future depends on: networks, optimizers, number of updates."""
        return {
            "update": self.update_count,
            "networks": self.network_state(member),
            "optimizers": {name: each[member].state_dict() for name, each in self.optimizers.items()},
        }

    def network_state(self, member: int) -> dict[str, dict[str, Tensor]]:
        """One member's weights on the CPU, without the member axis: {network: {parameter: tensor}}."""
        return {
            network: {name: p.detach()[member].cpu().clone() for name, p in module.named_parameters()}
            for network, module in self.networks.items()
        }

    def load_networks(self, member: int, networks: dict[str, dict[str, Tensor]]) -> None:
        """Put one member's weights in place; shapes and names must be equal."""
        for network, module in self.networks.items():
            own = dict(module.named_parameters())
            if own.keys() != networks[network].keys():
                raise ValueError(f"{network}: parameters {sorted(networks[network])}, expected {sorted(own)}")
            for name, saved in networks[network].items():
                if saved.shape != own[name].shape[1:]:
                    raise ValueError(f"{network}.{name} is {tuple(saved.shape)}, not {tuple(own[name].shape[1:])}")
                own[name].data[member].copy_(saved)
        if self.fused is not None:
            self.fused.refresh()

    def load(self, member: int, state: dict[str, Any]) -> None:
        """Continue one member from `state`."""
        self.load_networks(member, state["networks"])
        for name, each in self.optimizers.items():
            each[member].load_state_dict(state["optimizers"][name])
        self.update_count = state["update"]

    def finite(self) -> list[bool]:
        """For each member whether all its weights are finite."""
        finite = torch.ones(len(self.seeds), dtype=torch.bool, device=self.device)
        for parameters in self._parameters.values():
            for p in parameters:
                finite &= p.isfinite().flatten(1).all(1)
        return finite.tolist()

    def _policy_loss(self, observations: Tensor, actions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.dropout is None:
            mean, log_std = self.policy(observations)
        else:
            mean, log_std = self.policy(observations, self.dropout.at(self.update_count, observations.shape[1]))
        if log_std is not None and log_std.dim() == 2:  # of a user's policy that gives [action_dim] for one run
            log_std = log_std.unsqueeze(1)
        if log_std is None:
            log_prob = losses.squared_log_prob(mean, actions)
        else:
            log_prob = losses.gaussian_log_prob(mean, log_std, actions)
        return losses.policy_loss(weights, log_prob), log_std

    def policy_factor(self, number: int | Tensor) -> float | Tensor:
        """What the policy's learning rate is multiplied by in update `number`; [] float32 for a tensor []."""
        if self.policy_schedule == "constant":
            return 1.0
        # torch's CosineAnnealingLR climbs back up past the end; this holds it at 0.
        if isinstance(number, Tensor):
            return (0.5 * (1 + torch.cos(math.pi * (number.double() / self.updates).clamp(max=1.0)))).float()
        return 0.5 * (1 + math.cos(math.pi * min(number / self.updates, 1.0)))

    def _schedule_policy(self) -> list[float]:
        factor = self.policy_factor(self.update_count)
        rates = [lr * float(factor) for lr in self.lr]
        for optimizer, lr in zip(self.optimizers["policy"], rates, strict=True):
            optimizer.param_groups[0]["lr"] = lr
        return rates

    def _step(self, name: str, loss: Tensor) -> list[Tensor]:
        """One optimizer step of a network on the members' losses [M]; returns the gradients."""
        parameters = self._parameters[name]
        gradients = torch.autograd.grad(loss.sum(), parameters)
        for member, optimizer in enumerate(self.optimizers[name]):
            for leaf, gradient in zip(self._views[name][member], gradients, strict=True):
                leaf.grad = gradient[member]
            optimizer.step()
        return list(gradients)

    @torch.no_grad()
    def _step_target(self) -> None:
        for target, p in zip(self._parameters["q_target"], self._parameters["q"], strict=True):
            target.lerp_(p, self.polyak.view(-1, *[1] * (p.dim() - 1)))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network as it is where nothing is learned from its output: a user's dropout rests."""
    network.eval()
    try:
        yield
    finally:
        network.train()


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """Each member's norm of all gradients [M, ...], [M]."""
    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
