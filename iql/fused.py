"""The update of IQL without autograd: gradients by hand, products into buffers that stay, one Adam kernel a network.

It computes what IQL.update computes (tests/test_fused.py holds them together), for our own networks under Adam.
With bfloat16 the products between hidden layers, the large ones, are taken in it; all else stays float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iql import losses
from iql.diagnostics import diagnostics
from iql.draws import Batch
from iql.networks import Policy, TwinQ, Value

if TYPE_CHECKING:
    from iql.learner import IQL

_adam = torch._fused_adam_  # what torch.optim.Adam(fused=True) calls, without its 60 µs of bookkeeping a step
_relu_backward = torch.ops.aten.threshold_backward.grad_input


class Flat:
    """A network's parameters, a row for each of G = members × copies perceptrons: [G, P].

    The module's parameters become views of `rows`: kernel and bias of each layer, then what else it learns. The
    last kernel lies transposed, [out, in]: with so few columns products are up to ten times faster that way.
    """

    def __init__(self, module: Value | TwinQ | Policy):
        net = module.net
        layers = [p for pair in zip(net.kernels, net.biases, strict=True) for p in pair]
        parameters = layers + [p for p in module.parameters() if all(p is not layer for layer in layers)]
        self.members, self.copies, self.depth = layers[0].shape[0], net.copies, len(net.kernels)
        lead = (self.members,) if self.copies == 1 else (self.members, self.copies)
        self._shapes = [p.shape[len(lead) :] for p in parameters]
        self._last = 2 * (self.depth - 1)
        self._ends = list(accumulate(shape.numel() for shape in self._shapes))
        self.rows = torch.empty(self.members * self.copies, self._ends[-1], device=layers[0].device)
        for parameter, view in zip(parameters, self.views(self.rows), strict=True):
            own = view.unflatten(0, lead)
            own.copy_(parameter.detach())
            parameter.data = own

    def views(self, rows: Tensor) -> list[Tensor]:
        """Each parameter in `rows` [G, P] of some perceptrons, [G, ...]; the last kernel is a transposed view."""
        views = []
        for number, (shape, end) in enumerate(zip(self._shapes, self._ends, strict=True)):
            part = rows[:, end - shape.numel() : end]
            turned = number == self._last
            views.append(part.view(len(rows), *shape[::-1]).mT if turned else part.view(len(rows), *shape))
        return views

    def of_members(self, members: slice) -> Tensor:
        """The members' rows, [members, copies · P]."""
        return self.rows.view(self.members, -1)[members]


class FlatAdam:
    """One member's state of Adam in a network, [copies, P], and steps [copies]; saves and loads as torch's do."""

    def __init__(self, flat: Flat, member: int, settings: dict[str, Any]):
        self.settings = settings
        self.weights = flat.rows.view(flat.members, flat.copies, -1)[member]
        self.first_moments = torch.zeros_like(self.weights)
        self.second_moments = torch.zeros_like(self.weights)
        self.steps = torch.zeros(flat.copies, device=self.weights.device)

    def state_dict(self) -> dict[str, Tensor]:
        return {"exp_avg": self.first_moments, "exp_avg_sq": self.second_moments, "step": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


class _Buffers(dict):
    """Tensors by name and shape. Passes that never overlap in time share them, so that they stay in the cache."""

    def __init__(self, device: torch.device):
        super().__init__()
        self._device = device

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = torch.float32) -> Tensor:
        place = (name, shape, dtype)
        if place not in self:
            self[place] = torch.zeros(*shape, dtype=dtype, device=self._device)
        return self[place]


class _Part:
    """Some perceptrons of a network that are computed as one batch of products.

    rows: of `flat`, those of all members, or one copy of one member. optimizers: the members', none for a target.
    low: the type of the products between hidden layers, None for float32.
    """

    def __init__(
        self, flat: Flat, rows: range, optimizers: Sequence[FlatAdam], buffers: _Buffers, low: torch.dtype | None
    ):
        self.rows = flat.rows[rows.start : rows.stop]
        self.gradients = buffers.take("gradients", *self.rows.shape)
        parameters, gradients = flat.views(self.rows), flat.views(self.gradients)
        layers = 2 * flat.depth
        self.kernels, self.kernel_gradients = parameters[0:layers:2], gradients[0:layers:2]
        self.biases = [bias.unsqueeze(1) for bias in parameters[1:layers:2]]
        self.bias_gradients = [bias.unsqueeze(1) for bias in gradients[1:layers:2]]
        self.others, self.other_gradients = parameters[layers:], gradients[layers:]
        self.buffers, self.low = buffers, low
        large = range(1, flat.depth - 1) if low else ()
        self.low_kernels = {i: self.kernels[i].to(low) for i in large}
        self.low_biases = {i: self.biases[i].to(low) for i in large}
        copies = slice(None) if len(rows) > 1 else slice(rows.start % flat.copies, rows.start % flat.copies + 1)
        self._by_member = self.gradients.view(max(len(optimizers), 1), -1)
        self._steps = [each.steps[copies] for each in optimizers]
        self._adam = self._arguments(optimizers, copies)

    def _arguments(self, optimizers: Sequence[FlatAdam], copies: slice) -> list[tuple[dict[str, Any], tuple]]:
        """Settings and tensors for Adam's kernel: members of one learning rate take their step together."""
        rates: dict[float, list[int]] = {}
        for member, optimizer in enumerate(optimizers):
            rates.setdefault(optimizer.settings["lr"], []).append(member)
        groups: list[tuple[dict[str, Any], tuple]] = []
        for members in rates.values():
            each = [optimizers[member] for member in members]
            weights = [one.weights[copies].view(-1) for one in each]
            first = [one.first_moments[copies].view(-1) for one in each]
            second = [one.second_moments[copies].view(-1) for one in each]
            gradients = [self._by_member[member] for member in members]
            steps = [self._steps[member][0] for member in members]
            groups.append((each[0].settings, (weights, gradients, first, second, [], steps)))
        return groups

    def refresh(self) -> None:
        """Take up weights that have changed."""
        for i, low_kernel in self.low_kernels.items():
            low_kernel.copy_(self.kernels[i])
            self.low_biases[i].copy_(self.biases[i])

    def step(self, factor: float | Tensor = 1.0) -> None:
        """Adam's step, the learning rates times `factor`."""
        torch._foreach_add_(self._steps, 1)
        for settings, tensors in self._adam:
            _adam(
                *tensors,
                lr=settings["lr"] * factor,
                beta1=settings["betas"][0],
                beta2=settings["betas"][1],
                weight_decay=settings["weight_decay"],
                eps=settings["eps"],
                amsgrad=False,
                maximize=False,
            )
        self.refresh()

    def follow(self, other: _Part, polyak: float | Tensor) -> None:
        """The target network's step towards `other`."""
        self.rows.lerp_(other.rows, polyak)
        self.refresh()

    def gradient_norms(self) -> Tensor:
        """[members]."""
        return torch.linalg.vector_norm(self._by_member, dim=1)


class _Pass:
    """A part's way forward from one input, a buffer x [G, B, in], to `output` [G, B, out], and back.

    All views are made here once: an update is then nothing but products and the few steps between them.
    """

    def __init__(self, part: _Part, x: Tensor, larger: _Pass | None = None):
        """larger: a pass of more rows, of which this one is the first."""
        self.part, depth, take = part, len(part.kernels), part.buffers.take
        groups, batch, _ = x.shape
        widths = [kernel.shape[2] for kernel in part.kernels]
        if larger is None:
            hidden = [take(f"hidden {i}", groups, batch, width) for i, width in enumerate(widths[:-1])]
            self._outputs = [*hidden, torch.zeros(groups, batch, widths[-1], device=x.device)]
        else:
            self._outputs = [output[:, :batch] for output in larger._outputs]
        self.output = self._outputs[-1]
        self._inputs = [x, *self._outputs[:-1]]
        self._turned_inputs = [each.mT for each in self._inputs]
        self._gradients = [take(f"gradient {i}", groups, batch, width) for i, width in enumerate(widths[:-1])]
        self._turned_kernels = [kernel.mT for kernel in part.kernels]
        self._turned_gradient = part.kernel_gradients[-1].mT
        self._low: dict[int, tuple[Tensor, ...]] = {}
        for i in part.low_kernels:
            if larger is None:
                around = (("input", widths[i - 1]), ("output", widths[i]))
                low = (take(f"low {name} {i}", groups, batch, width, dtype=part.low) for name, width in around)
                self._low[i] = tuple(low)
            else:
                self._low[i] = tuple(each[:, :batch] for each in larger._low[i])
        self._low_gradients = {i: torch.empty_like(kernel) for i, kernel in part.low_kernels.items()}
        self._outer = torch.mul if widths[-1] == 1 else torch.bmm  # an outer product is slow as bmm
        self._last = depth - 1

    def forward(self, masks: Sequence[Tensor] | None = None) -> Tensor:
        """The output; masks as in MLP.forward."""
        part = self.part
        for i, (bias, x, kernel, output) in enumerate(
            zip(part.biases, self._inputs, part.kernels, self._outputs, strict=True)
        ):
            if i in self._low:
                low_x, low_output = self._low[i]
                low_x.copy_(x)
                output.copy_(torch.baddbmm(part.low_biases[i], low_x, part.low_kernels[i], out=low_output))
            else:
                torch.baddbmm(bias, x, kernel, out=output)
            if i < self._last:
                output.relu_()
                if masks is not None:
                    output.mul_(masks[i])
        return self.output

    def backward(self, gradient: Tensor, dropout: float | None = None) -> None:
        """The part's gradients from that of the output that forward() has just given."""
        part, last = self.part, self._last
        torch.sum(gradient, 1, keepdim=True, out=part.bias_gradients[last])
        torch.bmm(gradient.mT, self._inputs[last], out=self._turned_gradient)
        self._outer(gradient, self._turned_kernels[last], out=self._gradients[last - 1])
        for i in range(last - 1, -1, -1):
            gradient = self._gradients[i]
            # What was dropped is 0 after ReLU too, what was kept was scaled.
            _relu_backward(gradient, self._outputs[i], 0, grad_input=gradient)
            if dropout:
                gradient.mul_(1 / (1 - dropout))
            torch.sum(gradient, 1, keepdim=True, out=part.bias_gradients[i])
            if i in self._low:
                low_x, low_gradient = self._low[i]
                low_gradient.copy_(gradient)
                part.kernel_gradients[i].copy_(torch.bmm(low_x.mT, low_gradient, out=self._low_gradients[i]))
                self._gradients[i - 1].copy_(torch.bmm(low_gradient, part.low_kernels[i].mT, out=low_x))
                continue
            torch.bmm(self._turned_inputs[i], gradient, out=part.kernel_gradients[i])
            if i:
                torch.bmm(gradient, self._turned_kernels[i], out=self._gradients[i - 1])


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
        alone = _Buffers(device) if lanes == 1 and self._side is None else None

        def passes(name: str, *inputs: Tensor) -> list[_Pass]:
            flat, optimizers = flats[name], learner.optimizers.get(name, [])[own]
            first, groups = members.start * flat.copies, self._count * flat.copies
            size = groups if together else 1
            rows = [range(i, i + size) for i in range(first, first + groups, size)]
            return [
                _Pass(_Part(flat, each, optimizers, alone or _Buffers(device), low), x)
                for each, x in zip(rows, inputs, strict=True)
            ]

        kernels = learner.policy.net.kernels
        observation_dim, action_dim = kernels[0].shape[1], kernels[-1].shape[2]
        self._states = torch.zeros(self._count, 2 * batch_size, observation_dim, device=device)
        self._observations = self._states[:, :batch_size]
        self._seen = torch.zeros(self._count, batch_size, observation_dim, device=device)  # by the policy, later
        shape = (self._count, copies if together else 1, batch_size, observation_dim + action_dim)
        self._pairs = [torch.zeros(*shape, device=device) for _ in range(1 if together else copies)]
        (self._v_both,) = passes("value", self._states)
        self._v = _Pass(self._v_both.part, self._observations, larger=self._v_both)
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
        both = self._by_copy(self.q_target)
        target_q = torch.minimum(both[0], both[1])
        if fresh:
            v = self._v.forward().view(-1, size)
        else:
            v, next_v = self._v_both.forward().squeeze(-1).split(size, 1)
        measured: dict[str, Any] = {}
        if measure:
            measured = {"v": v.clone(), "value_loss": losses.value_loss(target_q, v, self._tau)}
        self._v.backward(losses.value_loss_gradient(target_q, v, self._tau).unsqueeze(-1))
        if measure:
            measured["value"] = self._v.part.gradient_norms()
        self._v.part.step()
        if fresh:
            v, next_v = self._v_both.forward().squeeze(-1).split(size, 1)
        advantage = target_q - v
        if measure:
            measured["advantage"] = advantage
        weights = losses.advantage_weights(advantage, self._beta, self._cap)
        return weights, losses.q_target(batch.rewards, batch.masks, next_v, self._discount), measured

    def policy(self, batch: Batch, weights: Tensor, number: int | Tensor, measured: dict[str, Any]) -> None:
        """The policy's step."""
        policy, part, dropout = self._learner.policy, self._policy.part, self._dropout
        self._seen.copy_(batch.observations)
        mean = self._policy.forward(dropout.at(number, self._size) if dropout else None)
        if policy.squash:
            mean.tanh_()
        if part.others:
            raw = part.others[0].unsqueeze(1)
            log_std = raw.clamp(*policy.log_std_range)
            gradient, of_log_std = losses.gaussian_policy_gradient(weights, mean, log_std, batch.actions)
            torch.mul(of_log_std, raw == log_std, out=part.other_gradients[0].unsqueeze(1))
        else:
            log_std, gradient = None, losses.squared_policy_gradient(weights, mean, batch.actions)
        if policy.squash:
            gradient.mul_(1 - mean.square())
        self._policy.backward(gradient, dropout.rate if dropout else None)
        if measured:
            measured["log_std"], measured["policy"] = log_std, part.gradient_norms()
        part.step(self._learner.policy_factor(number))

    def forward_q(self, part: int) -> None:
        self.q[part].forward()

    def backward_q(self, part: int, target: Tensor, measured: dict[str, Any]) -> None:
        """The step of a part of Q, and of the target network's part after it."""
        each = self.q[part]
        gradient = losses.q_loss_gradient(each.output.view(self._count, -1, self._size), target)
        each.backward(gradient.mul_(self._learner.q_loss_scale).view(-1, self._size, 1))
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

    def _by_copy(self, passes: Sequence[_Pass]) -> list[Tensor]:
        """The output of each of the two Q, [M, B]."""
        if len(passes) > 1:
            return [each.output.view(1, -1) for each in passes]
        return list(passes[0].output.view(self._count, 2, self._size).unbind(1))
