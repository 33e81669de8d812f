"""The update of IQL without autograd: gradients are written out, products go into buffers that are kept.

It computes what iql.algorithms.iql.IQL.update computes, also with the losses of SQL, EQL and XQL (compared in
tests/execution, test_paths.py and test_written_out.py), for this project's own networks under Adam. With bfloat16 the
products between hidden layers, the large ones, have that type; everything else stays float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from iql.algorithms import losses
from iql.algorithms.iql import IQL, iql_diagnostics
from iql.data.sampling import Batch
from iql.execution.mlp_passes import Buffers, Part, Pass
from iql.learner.learner import Learner, Metrics
from iql.learner.optimizers import PackAdam
from iql.learner.parameters import FlatParameters
from iql.networks.distributions import Gaussian
from iql.networks.mlp import PRODUCT_TYPES


class IQLGradients:
    """The update of some of a learner's members, in place, in stages that depend on each other as follows.

    load_pairs(i), target(i) of each part → value → weigh → policy, and forward_q(i) → backward_q(i) of each part after
    value. Of an algorithm that is `simultaneous` weigh also waits for each forward_q(i). Nothing waits for the policy.

    members: their range in the pack. together: all perceptrons of a network are one part, as on CUDA; otherwise, for
    one member on a CPU, each perceptron is a part. streams: how many CPU threads will run the stages; with one, all
    parts share their buffers, which then stay in the cache.
    """

    def __init__(self, learner: Learner, members: range, batch_size: int, *, together: bool, streams: int = 1):
        device, own = learner.device, slice(members.start, members.stop)
        algorithm = learner.algorithm.of(own)
        assert isinstance(algorithm, IQL)
        self._algorithm = algorithm
        self._learner, self._policy_network, self._members = learner, learner.networks["policy"], own
        self._noise = learner.noise.of(members)
        self._size, self._count = batch_size, len(members)
        polyak, copies = algorithm.polyak, learner.flats["q"].copies
        self._polyak = polyak.repeat_interleave(copies, 0) if together else float(polyak)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        shared = Buffers(device) if streams == 1 and self._side is None else None
        low = PRODUCT_TYPES[learner.precision]

        def passes(name: str, *inputs: Tensor) -> list[Pass]:
            flat, adam = learner.flats[name], learner.optimizers.get(name)
            assert adam is None or isinstance(adam, PackAdam)
            first, groups = members.start * flat.copies, self._count * flat.copies
            size = groups if together else 1
            rows = [range(i, i + size) for i in range(first, first + groups, size)]
            parts = [self._part(flat, each, adam, shared or Buffers(device), low) for each in rows]
            return [part.pass_of(x) for part, x in zip(parts, inputs, strict=True)]

        kernels = self._policy_network.net.kernels
        observation_dim, action_dim = kernels[0].shape[1], kernels[-1].shape[2]
        self._states = torch.zeros(self._count, 2 * batch_size, observation_dim, device=device)
        self._observations = self._states[:, :batch_size]
        self._policy_observations = torch.zeros_like(self._observations)  # whose step may come later
        rows = batch_size * (1 + algorithm.further)  # of the target Q; of Q the first ones
        shape = (self._count, copies if together else 1, rows, observation_dim + action_dim)
        self._pairs = [torch.zeros(*shape, device=device) for _ in range(1 if together else copies)]
        (self._v_both,) = passes("value", self._states)
        self._v = self._v_both.part.pass_of(self._observations, larger=self._v_both)
        (self._policy,) = passes("policy", self._policy_observations)
        self.q = passes("q", *(pairs.flatten(0, 1)[:, :batch_size] for pairs in self._pairs))
        self.q_target = passes("q_target", *(pairs.flatten(0, 1) for pairs in self._pairs))

    def refresh(self) -> None:
        """Copy weights that were loaded into what is derived from them."""
        for each in (self._v, self._policy, *self.q, *self.q_target):
            each.part.refresh()

    def state(self) -> list[Tensor]:
        """All tensors that an update changes for good."""
        weights = [each.part.rows for each in (self._v, self._policy, *self.q, *self.q_target)]
        adams = [each for each in self._learner.optimizers.values() if isinstance(each, PackAdam)]
        return weights + [tensor for adam in adams for tensor in adam.tensors()]

    def update(self, batch: Batch, number: int | Tensor, phase: int, measure: bool) -> Metrics | None:
        """All stages of the members' update `number`, a tensor [] where a graph counts; each is of the same phase."""
        for part in range(len(self.q_target)):
            self.load_pairs(batch, number, part)
            self.target(part)
        target_q, v, target, measured = self.value(batch, measure)
        parts, q_first = range(len(self.q)), self._algorithm.simultaneous
        if q_first:
            for part in parts:
                self.forward_q(part)
                if self._side is None:  # parts may share buffers
                    self.backward_q(part, target, measured)
        weights = self.weigh(target_q, v, measured)
        with self._on_side_stream():
            self.policy(batch, weights, number, measured)
        for part in parts:
            if not q_first:
                self.forward_q(part)
            if not q_first or self._side is not None:
                self.backward_q(part, target, measured)
        self._join()
        return self.metrics(batch, number, weights, target, measured)

    @contextlib.contextmanager
    def _on_side_stream(self) -> Iterator[None]:
        """On CUDA, work that runs at the same time as what follows, until _join()."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            yield

    def _join(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)

    def load_pairs(self, batch: Batch, number: int | Tensor, part: int) -> None:
        """What a part of the Q networks sees."""
        pairs, size, further = self._pairs[part], self._size, self._algorithm.further
        torch.cat([batch.observations, batch.actions], -1, out=pairs[:, 0, :size])
        if further:
            actions = self._algorithm.further_actions(batch.actions, self._noise.at(number))
            torch.cat([batch.observations.repeat_interleave(further, 1), actions], -1, out=pairs[:, 0, size:])
        for twin in range(1, pairs.shape[1]):
            pairs[:, twin].copy_(pairs[:, 0])

    def target(self, part: int) -> None:
        self.q_target[part].forward()

    def value(self, batch: Batch, measure: bool) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """V's step; returns the target Q, V and what Q is regressed on, [M, B], and what was measured."""
        algorithm, size, fresh = self._algorithm, self._size, self._algorithm.fresh_value
        torch.cat([batch.observations, batch.next_observations], 1, out=self._states)
        target_q = aim = self._smaller(self._by_copy(self.q_target))
        if algorithm.further:
            target_q, further_q = target_q[:, :size], target_q[:, size:]
            aim = algorithm.value_targets(target_q, further_q)
        measured: dict[str, Any] = {}
        for left in reversed(range(algorithm.value_updates)):
            if fresh:
                v = self._v.forward().view(-1, size)
            else:
                v, next_v = self._v_both.forward().squeeze(-1).split(size, 1)
            gradient = self._value_gradient(aim, v)
            if measure and left == 0:
                measured = {"v": v.clone(), "value_loss": algorithm.value_loss(aim, v)}
            self._v.backward(gradient.unsqueeze(-1))
            if measure and left == 0:
                measured["value"] = self._v.part.gradient_norms()
            self._v.part.step()
        if fresh:
            v, next_v = self._v_both.forward().squeeze(-1).split(size, 1)
        return target_q, v, self._q_target(next_v, batch), measured

    def weigh(self, target_q: Tensor, v: Tensor, measured: dict[str, Any]) -> Tensor:
        """The policy's weights, [M, B]; of a `simultaneous` algorithm by Q in place of its target."""
        q = self._smaller(self._by_copy(self.q)) if self._algorithm.simultaneous else target_q
        advantage, weights = self._weigh(q, v)
        if measured:
            measured["advantage"] = advantage
        return weights

    def policy(self, batch: Batch, weights: Tensor, number: int | Tensor, measured: dict[str, Any]) -> None:
        """The policy's passes and step."""
        self._policy.forward(self.load_policy(batch, number))
        self.step_policy(batch, weights, number, measured)

    def load_policy(self, batch: Batch, number: int | Tensor) -> list[Tensor] | None:
        """What the policy sees; returns its dropout masks."""
        self._policy_observations.copy_(batch.observations)
        dropout = self._policy_network.dropout
        return dropout.at(number, self._size, self._members) if dropout else None

    def step_policy(self, batch: Batch, weights: Tensor, number: int | Tensor, measured: dict[str, Any]) -> None:
        """The policy's step after its forward pass."""
        part, dropout, mean = self._policy.part, self._policy_network.dropout, self._policy.output
        if self._policy_network.squash:
            mean.tanh_()
        self._policy.backward(self._policy_gradient(weights, mean, batch.actions), dropout.rate if dropout else None)
        if measured:
            measured["log_std"], measured["policy"] = self._log_std(), part.gradient_norms()
        part.step(self._learner.rate_factor("policy", number))

    def forward_q(self, part: int) -> None:
        self.q[part].forward()

    def backward_q(self, part: int, target: Tensor, measured: dict[str, Any]) -> None:
        """The step of a part of Q, and of the target network's part after it."""
        self.q[part].backward(self._q_gradient(part, target))
        self.step_q(part, measured)

    def step_q(self, part: int, measured: dict[str, Any]) -> None:
        """The same, after the backward pass."""
        each = self.q[part]
        if measured:
            measured[f"q{part}"] = each.part.gradient_norms()
        if self._algorithm.simultaneous:
            self.q_target[part].part.follow(each.part, self._polyak)
        each.part.step()
        if not self._algorithm.simultaneous:
            self.q_target[part].part.follow(each.part, self._polyak)

    def metrics(
        self, batch: Batch, number: int | Tensor, weights: Tensor, target: Tensor, measured: dict[str, Any]
    ) -> Metrics | None:
        """The metrics of the update that ended last, [M] each, if it was measured."""
        if not measured:
            return None
        q, policy = torch.stack(self._by_copy(self.q), 1), Gaussian(self._policy.output, measured["log_std"])
        cap = self._algorithm.advantage_cap
        log_prob = losses.policy_log_prob(policy, batch.actions)
        q_norms = torch.stack([measured[f"q{part}"] for part in range(len(self.q))])
        return self._learner.metrics(
            losses={
                "value": measured["value_loss"],
                "q": self._algorithm.q_loss(q, target),
                "policy": losses.policy_loss(weights, log_prob),
            },
            recorded=iql_diagnostics(measured["v"], q, measured["advantage"], weights, cap, policy),
            gradient_norms={
                "value": measured["value"],
                "q": torch.linalg.vector_norm(q_norms, dim=0),
                "policy": measured["policy"],
            },
            number=number,
            members=self._members,
        )

    def _by_copy(self, passes: Sequence[Pass]) -> list[Tensor]:
        """The output of each of the two Q, [M, rows]."""
        if len(passes) > 1:
            return [each.output.view(1, -1) for each in passes]
        return list(passes[0].output.view(self._count, 2, -1).unbind(1))

    def _part(
        self, flat: FlatParameters, rows: range, adam: PackAdam | None, buffers: Buffers, low: torch.dtype | None
    ) -> Part:
        return Part(flat, rows, adam, buffers, low)

    def _smaller(self, both: Sequence[Tensor]) -> Tensor:
        """The smaller of both Q, [M, rows]."""
        return torch.minimum(both[0], both[1])

    def _value_gradient(self, aim: Tensor, v: Tensor) -> Tensor:
        """That of V's loss, [M, B]."""
        return self._algorithm.value_loss_gradient(aim, v)

    def _q_target(self, next_v: Tensor, batch: Batch) -> Tensor:
        """What Q is regressed on, [M, B]."""
        return losses.q_target(batch.rewards, batch.masks, next_v, self._algorithm.discount)

    def _weigh(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and the policy's weights, [M, B]."""
        advantage = q - v
        return advantage, self._algorithm.policy_weights(advantage)

    def _log_std(self) -> Tensor | None:
        """[M, 1, action_dim]."""
        policy, others = self._policy_network, self._policy.part.others
        if others:
            return others[0].unsqueeze(1).clamp(*policy.log_std_range)
        return None if policy.fixed_log_std is None else policy.fixed_log_std[self._members].unsqueeze(1)

    def _policy_gradient(self, weights: Tensor, mean: Tensor, actions: Tensor) -> Tensor:
        """The gradient of the policy's loss before the mean is squashed; that of its log std is put into its part."""
        part, log_std = self._policy.part, self._log_std()
        if log_std is None:
            gradient = losses.squared_policy_gradient(weights, mean, actions)
        else:
            gradient, of_log_std = losses.gaussian_policy_gradient(weights, mean, log_std, actions)
            if part.others:
                within = part.others[0].unsqueeze(1) == log_std
                torch.mul(of_log_std, within, out=part.other_gradients[0].unsqueeze(1))
        return gradient.mul_(1 - mean.square()) if self._policy_network.squash else gradient

    def _q_gradient(self, part: int, target: Tensor) -> Tensor:
        """That of the loss of a part of Q, as its output."""
        q = self.q[part].output.view(self._count, -1, self._size)
        return self._algorithm.q_loss_gradient(q, target).view(-1, self._size, 1)
