"""The update of IQL without autograd: gradients by hand, products into buffers that stay, one Adam kernel a network.

It computes what IQL.update computes (tests/test_fused.py holds them together), for our own networks under Adam.
With bfloat16 the products between hidden layers, the large ones, are taken in it; all else stays float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iql import losses
from iql.diagnostics import diagnostics
from iql.draws import Batch
from iql.passes import Buffers, Flat, FlatAdam, Part, Pass

if TYPE_CHECKING:
    from iql.learner import IQL


class FusedUpdate:
    """The update of some of a learner's members, in place, in stages that depend on each other as follows.

    load_pairs(i), target(i) of each part → value → policy, and forward_q(i) → backward_q(i) of each part. Nothing
    waits for the policy.

    members: their range in the pack; their weights lie in `flats`. together: all perceptrons of a network are one
    part, as on CUDA; else, for one member on a CPU, each is one of its own. lanes: how many threads will run the
    stages; with one, all share their buffers, which then stay in the cache. low: the type of the large products,
    None for float32.
    """

    def __init__(
        self,
        learner: IQL,
        flats: dict[str, Flat],
        members: range,
        batch_size: int,
        *,
        together: bool,
        lanes: int = 1,
        low: torch.dtype | None = None,
    ):
        self._learner, self._size, self._count = learner, batch_size, len(members)
        device, own = learner.device, slice(members.start, members.stop)
        self._tau, self._beta, self._discount = learner.tau[own], learner.beta[own], learner.discount[own]
        self._cap, self._lr = learner.advantage_cap[own], torch.tensor(learner.lr[own], device=device)
        self._optimizers = [each for optimizers in learner.optimizers.values() for each in optimizers[own]]
        copies = flats["q"].copies
        self._polyak = learner.polyak[own].repeat_interleave(copies, 0) if together else float(learner.polyak[own])
        self._dropout = learner.dropout.of(members) if learner.dropout else None
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        alone = Buffers(device) if lanes == 1 and self._side is None else None

        def passes(name: str, *inputs: Tensor) -> list[Pass]:
            flat, optimizers = flats[name], learner.optimizers.get(name, [])[own]
            first, groups = members.start * flat.copies, self._count * flat.copies
            size = groups if together else 1
            rows = [range(i, i + size) for i in range(first, first + groups, size)]
            parts = [self._part(flat, each, optimizers, alone or Buffers(device), low) for each in rows]
            return [part.pass_of(x) for part, x in zip(parts, inputs, strict=True)]

        kernels = learner.policy.net.kernels
        observation_dim, action_dim = kernels[0].shape[1], kernels[-1].shape[2]
        self._states = torch.zeros(self._count, 2 * batch_size, observation_dim, device=device)
        self._observations = self._states[:, :batch_size]
        self._seen = torch.zeros(self._count, batch_size, observation_dim, device=device)  # by the policy, later
        shape = (self._count, copies if together else 1, batch_size, observation_dim + action_dim)
        self._pairs = [torch.zeros(*shape, device=device) for _ in range(1 if together else copies)]
        (self._v_both,) = passes("value", self._states)
        self._v = self._v_both.part.pass_of(self._observations, larger=self._v_both)
        (self._policy,) = passes("policy", self._seen)
        self.q = passes("q", *(pairs.flatten(0, 1) for pairs in self._pairs))
        self.q_target = passes("q_target", *(pairs.flatten(0, 1) for pairs in self._pairs))

    def refresh(self) -> None:
        """Take up weights that were loaded."""
        for each in (self._v, self._policy, *self.q, *self.q_target):
            each.part.refresh()

    def state(self) -> list[Tensor]:
        """All that an update changes for good."""
        adam = [tensor for each in self._optimizers for tensor in each.state_dict().values()]
        return [each.part.rows for each in (self._v, self._policy, *self.q, *self.q_target)] + adam

    def update(self, batch: Batch, number: int | Tensor, measure: bool) -> dict[str, Tensor] | None:
        """All stages of the members' update `number`, a tensor [] where a graph counts."""
        for part in range(len(self.q_target)):
            self.load_pairs(batch, part)
            self.target(part)
        weights, target, measured = self.value(batch, measure)
        with self._beside():
            self.policy(batch, weights, number, measured)
        for part in range(len(self.q)):
            self.forward_q(part)
            self.backward_q(part, target, measured)
        self._join()
        return self.metrics(batch, number, weights, target, measured)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """On CUDA, work that runs beside what follows, until _join()."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            yield

    def _join(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)

    def load_pairs(self, batch: Batch, part: int) -> None:
        """What a part of the Q networks sees."""
        pairs = self._pairs[part]
        torch.cat([batch.observations, batch.actions], -1, out=pairs[:, 0])
        for copy in range(1, pairs.shape[1]):
            pairs[:, copy].copy_(pairs[:, 0])

    def target(self, part: int) -> None:
        self.q_target[part].forward()

    def value(self, batch: Batch, measure: bool) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """V's step; returns the policy's weights and Q's targets, [M, B], and what was measured."""
        fresh, size = self._learner.fresh_value, self._size
        torch.cat([batch.observations, batch.next_observations], 1, out=self._states)
        if fresh:
            v = self._v.forward().view(-1, size)
        else:
            v, next_v = self._v_both.forward().squeeze(-1).split(size, 1)
        target_q, gradient = self._value_gradient(self._by_copy(self.q_target), v)
        measured: dict[str, Any] = {}
        if measure:
            measured = {"v": v.clone(), "value_loss": losses.value_loss(target_q, v, self._tau)}
        self._v.backward(gradient.unsqueeze(-1))
        if measure:
            measured["value"] = self._v.part.gradient_norms()
        self._v.part.step()
        if fresh:
            v, next_v = self._v_both.forward().squeeze(-1).split(size, 1)
        advantage, weights, target = self._weigh(target_q, v, next_v, batch)
        if measure:
            measured["advantage"] = advantage
        return weights, target, measured

    def policy(self, batch: Batch, weights: Tensor, number: int | Tensor, measured: dict[str, Any]) -> None:
        """The policy's step."""
        policy, part, dropout = self._learner.policy, self._policy.part, self._dropout
        self._seen.copy_(batch.observations)
        mean = self._policy.forward(dropout.at(number, self._size) if dropout else None)
        if policy.squash:
            mean.tanh_()
        self._policy.backward(self._policy_gradient(weights, mean, batch.actions), dropout.rate if dropout else None)
        if measured:
            measured["log_std"], measured["policy"] = self._log_std(), part.gradient_norms()
        part.step(self._learner.policy_factor(number))

    def forward_q(self, part: int) -> None:
        self.q[part].forward()

    def backward_q(self, part: int, target: Tensor, measured: dict[str, Any]) -> None:
        """The step of a part of Q, and of the target network's part after it."""
        each = self.q[part]
        each.backward(self._q_gradient(part, target))
        if measured:
            measured[f"q{part}"] = each.part.gradient_norms()
        each.part.step()
        self.q_target[part].part.follow(each.part, self._polyak)

    def metrics(
        self, batch: Batch, number: int | Tensor, weights: Tensor, target: Tensor, measured: dict[str, Any]
    ) -> dict[str, Tensor] | None:
        """The metrics of the update that ended last, [M] each, if it was measured."""
        if not measured:
            return None
        q, mean, log_std = torch.stack(self._by_copy(self.q), 1), self._policy.output, measured["log_std"]
        if log_std is None:
            log_prob = losses.squared_log_prob(mean, batch.actions)
        else:
            log_prob = losses.gaussian_log_prob(mean, log_std, batch.actions)
        q_norms = torch.stack([measured[f"q{part}"] for part in range(len(self.q))])
        return diagnostics(
            losses={
                "value": measured["value_loss"],
                "q": self._learner.q_loss_scale * losses.q_loss(q, target),
                "policy": losses.policy_loss(weights, log_prob),
            },
            v=measured["v"],
            q=q,
            advantage=measured["advantage"],
            weights=weights,
            cap=self._cap,
            log_std=log_std,
            gradient_norms={
                "value": measured["value"],
                "q": torch.linalg.vector_norm(q_norms, dim=0),
                "policy": measured["policy"],
            },
            policy_lr=self._lr * self._learner.policy_factor(number),
        )

    def _by_copy(self, passes: Sequence[Pass]) -> list[Tensor]:
        """The output of each of the two Q, [M, B]."""
        if len(passes) > 1:
            return [each.output.view(1, -1) for each in passes]
        return list(passes[0].output.view(self._count, 2, self._size).unbind(1))

    def _part(
        self, flat: Flat, rows: range, optimizers: Sequence[FlatAdam], buffers: Buffers, low: torch.dtype | None
    ) -> Part:
        return Part(flat, rows, optimizers, buffers, low)

    def _value_gradient(self, both: Sequence[Tensor], v: Tensor) -> tuple[Tensor, Tensor]:
        """The smaller of both Q and the gradient of V's loss, [M, B]."""
        target_q = torch.minimum(both[0], both[1])
        return target_q, losses.value_loss_gradient(target_q, v, self._tau)

    def _weigh(self, target_q: Tensor, v: Tensor, next_v: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Advantages, the policy's weights and Q's targets, [M, B]."""
        advantage = target_q - v
        weights = losses.advantage_weights(advantage, self._beta, self._cap)
        return advantage, weights, losses.q_target(batch.rewards, batch.masks, next_v, self._discount)

    def _log_std(self) -> Tensor | None:
        """[M, 1, action_dim]."""
        others = self._policy.part.others
        return others[0].unsqueeze(1).clamp(*self._learner.policy.log_std_range) if others else None

    def _policy_gradient(self, weights: Tensor, mean: Tensor, actions: Tensor) -> Tensor:
        """The gradient of the policy's loss before the mean is squashed; that of its log std is put into its part."""
        part, log_std = self._policy.part, self._log_std()
        if log_std is None:
            gradient = losses.squared_policy_gradient(weights, mean, actions)
        else:
            gradient, of_log_std = losses.gaussian_policy_gradient(weights, mean, log_std, actions)
            within = part.others[0].unsqueeze(1) == log_std
            torch.mul(of_log_std, within, out=part.other_gradients[0].unsqueeze(1))
        return gradient.mul_(1 - mean.square()) if self._learner.policy.squash else gradient

    def _q_gradient(self, part: int, target: Tensor) -> Tensor:
        """That of the loss of a part of Q, as its output."""
        gradient = losses.q_loss_gradient(self.q[part].output.view(self._count, -1, self._size), target)
        return gradient.mul_(self._learner.q_loss_scale).view(-1, self._size, 1)
