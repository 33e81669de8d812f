"""Value, twin Q and policy networks, each for a whole pack: every parameter leads with the member axis.

A network of a user's own is written for one run and lifted over the members by `lift`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from iql.draws import key


class MLP(nn.Module):
    """`copies` perceptrons with ReLU for each of M members, as one batched product a layer.

    Input [M, B, widths[0]], output [M, B, widths[-1]] for one copy, [M, copies, B, widths[-1]] for more.
    Kernels are [M, (copies,) in, out]. `initialization`: orthogonal (gain √2 on every layer, zero biases:
    the authors') or pytorch (uniform within ±1/√in, biases too: gwthomas, CORL).
    Weights are drawn on the CPU from (seed, name), so a pack does not change them. low: the type of the products
    between hidden layers, the large ones, or None for that of the weights.
    """

    low: torch.dtype | None = None

    def __init__(self, widths: Sequence[int], seeds: Sequence[int], names: Sequence[str], initialization: str):
        super().__init__()
        self.copies = len(names)
        drawn = [[_draw_layers(widths, seed, name, initialization) for name in names] for seed in seeds]
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in range(len(widths) - 1):
            for parameters, part in ((self.kernels, 0), (self.biases, 1)):
                stacked = torch.stack([torch.stack([copy[layer][part] for copy in member]) for member in drawn])
                parameters.append(nn.Parameter(stacked.squeeze(1) if self.copies == 1 else stacked))

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """masks: what each hidden layer's output is multiplied by (dropout), [M, B, width] each."""
        members, batch, _ = x.shape
        if self.copies > 1:
            x = x.unsqueeze(1).expand(-1, self.copies, -1, -1).reshape(members * self.copies, batch, -1)
        last = len(self.kernels) - 1
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            bias, kernel = bias.flatten(0, -2).unsqueeze(1), kernel.flatten(0, -3)
            if self.low is not None and 0 < layer < last:
                x = torch.baddbmm(bias.to(self.low), x.to(self.low), kernel.to(self.low)).to(x.dtype)
            else:
                x = torch.baddbmm(bias, x, kernel)
            if layer < last:
                x = torch.relu(x)
                if masks is not None:
                    x = x * masks[layer]
        return x if self.copies == 1 else x.view(members, self.copies, batch, -1)


def _draw_layers(widths: Sequence[int], seed: int, name: str, initialization: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(key(seed, f"initialization/{name}"))
    layers = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        kernel, bias = torch.empty(fan_in, fan_out), torch.zeros(fan_out)
        if _choice(initialization, "orthogonal", "pytorch"):
            nn.init.orthogonal_(kernel, gain=2**0.5, generator=generator)
        else:
            for parameter in (kernel, bias):
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers.append((kernel, bias))
    return layers


class Value(nn.Module):
    """V(s): observations [M, B, observation_dim] → [M, B]."""

    member_axis = True

    def __init__(self, observation_dim: int, seeds: Sequence[int], hidden_dims: Sequence[int], initialization: str):
        super().__init__()
        self.net = MLP([observation_dim, *hidden_dims, 1], seeds, ["value"], initialization)

    def forward(self, observations: Tensor) -> Tensor:
        return self.net(observations).squeeze(-1)


class TwinQ(nn.Module):
    """Two Q(s, a): observations [M, B, observation_dim], actions [M, B, action_dim] → [M, 2, B]."""

    member_axis = True

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        hidden_dims: Sequence[int],
        initialization: str,
    ):
        super().__init__()
        widths = [observation_dim + action_dim, *hidden_dims, 1]
        self.net = MLP(widths, seeds, ["q1", "q2"], initialization)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.net(torch.cat([observations, actions], -1)).squeeze(-1)


class Policy(nn.Module):
    """The policy: observations [M, B, observation_dim] → mean [M, B, action_dim] and log_std.

    distribution: gaussian, whose log_std [M, 1, action_dim] is a parameter that does not depend on the
    state, starts at 0 and is clipped to `log_std_range`; or deterministic, whose log_std is None and which
    learns by least squares. mean: tanh (the authors, CORL) or linear (gwthomas' Gaussian).
    """

    member_axis = True

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        hidden_dims: Sequence[int],
        initialization: str,
        distribution: str,
        mean: str,
        dropout: float | None,
        log_std_range: Sequence[float],
    ):
        super().__init__()
        self.net = MLP([observation_dim, *hidden_dims, action_dim], seeds, ["policy"], initialization)
        gaussian = _choice(distribution, "gaussian", "deterministic")
        self.log_std = nn.Parameter(torch.zeros(len(seeds), action_dim)) if gaussian else None
        self.squash = _choice(mean, "tanh", "linear")
        self.dropout = dropout
        self.hidden_dims = tuple(hidden_dims)
        self.log_std_range = tuple(log_std_range)

    def forward(self, observations: Tensor, masks: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        mean = self.net(observations, masks)
        log_std = None if self.log_std is None else self.log_std.clamp(*self.log_std_range).unsqueeze(1)
        return torch.tanh(mean) if self.squash else mean, log_std


def _choice(value: str, yes: str, no: str) -> bool:
    if value not in (yes, no):
        raise ValueError(f"must be {yes} or {no}, got {value!r}")
    return value == yes


class Lifted(nn.Module):
    """A module written for one run, [B, ...] → [B, ...], made to serve M members in a loop.

    Its parameters are stacked to [M, ...], or [M, copies, ...] for the twin Q, whose output is then
    [M, copies, B]. Buffers stay those of the first member: a module that learns in its buffers (batch
    normalisation) is refused. What it draws (torch.nn.Dropout) is a function of (seed, name, `update`). low: the
    type of its products (torch.autocast), or None for that of the weights; its output is float32.
    """

    update = 0  # the learner counts it up
    low: torch.dtype | None = None

    def __init__(self, make: Callable[[], nn.Module], seeds: Sequence[int], names: Sequence[str]):
        super().__init__()
        self.copies = len(names)
        modules = []
        for seed in seeds:
            for name in names:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(key(seed, f"initialization/{name}"))
                    modules.append(make())
        if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in modules[0].modules()):
            raise ValueError(f"{type(modules[0]).__name__} learns in its buffers, which members would share")
        self._template = [modules[0]]  # in a list: its own parameters are not this module's
        self._names = [name for name, _ in modules[0].named_parameters()]
        self._keys = [key(seed, f"draws/{names[0]}") for seed in seeds]
        lead = (len(seeds),) if self.copies == 1 else (len(seeds), self.copies)
        self.stacked = nn.ParameterList(
            nn.Parameter(torch.stack([dict(module.named_parameters())[name].detach() for module in modules]))
            for name in self._names
        )
        for parameter in self.stacked:
            parameter.data = parameter.data.view(*lead, *parameter.shape[1:])

    def forward(self, *inputs: Tensor):
        lowered = torch.autocast(inputs[0].device.type, self.low, enabled=self.low is not None)
        with torch.random.fork_rng(devices=[], enabled=self.training), lowered:
            return _stack([self._member(member, [x[member] for x in inputs]) for member in range(len(self._keys))])

    def train(self, mode: bool = True) -> Lifted:
        self._template[0].train(mode)
        return super().train(mode)

    def _member(self, member: int, inputs: list[Tensor]):
        if self.training:
            torch.manual_seed((self._keys[member] + self.update) % (1 << 63))
        places = [(member,)] if self.copies == 1 else [(member, copy) for copy in range(self.copies)]
        outputs = [
            functional_call(
                self._template[0],
                {name: p[place] for name, p in zip(self._names, self.stacked, strict=True)},
                tuple(inputs),
            )
            for place in places
        ]
        return outputs[0] if self.copies == 1 else torch.stack(outputs)


class Single(nn.Module):
    """A policy with one member's weights, without the member axis: not trained any more, on the CPU.

    policy   the pack's, of our own class or of a user's
    weights  the member's parameters by name, without the member axis
    """

    def __init__(self, policy: nn.Module, weights: Mapping[str, Tensor]):
        super().__init__()
        template = policy._template[0] if isinstance(policy, Lifted) else policy
        self.lead = template is policy
        self.module = copy.deepcopy(template).requires_grad_(False).cpu().eval()
        for parameter, saved in zip(self.module.parameters(), weights.values(), strict=True):
            parameter.data = saved[None] if self.lead else saved

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor | None]:
        """observations [B, observation_dim] → mean [B, action_dim]; log_std that broadcasts to it, or None."""
        mean, log_std = self.module(observations[None] if self.lead else observations)
        return (mean[0], None if log_std is None else log_std[0]) if self.lead else (mean, log_std)


def _stack(outputs: list):
    if isinstance(outputs[0], tuple):
        return tuple(_stack(list(parts)) for parts in zip(*outputs, strict=True))
    return None if outputs[0] is None else torch.stack(outputs).float()


def build(factory: Callable, names: Sequence[str], seeds: Sequence[int], **dims: int) -> nn.Module:
    """The network that `factory` (a class with its settings bound) makes for the members' seeds.

    Our own classes take the seeds and know the member axis; any other is made once a member and lifted.
    """
    cls = getattr(factory, "func", factory)
    if getattr(cls, "member_axis", False):
        return factory(seeds=seeds, **dims)
    return Lifted(lambda: factory(**dims), seeds, names)
