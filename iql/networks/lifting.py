"""Networks made for a pack: our own know the member axis; a user's own are written for one run and lifted over it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from iql.data.random_streams import key
from iql.networks.distributions import Categorical, Gaussian, distribution


def build(factory: Callable, names: Sequence[str], seeds: Sequence[int], **dims: int) -> nn.Module:
    """The network that `factory` (a class with its settings bound) makes for the members' seeds.

    Our own classes take the seeds and know the member axis; any other is made once a member and lifted.
    """
    cls = getattr(factory, "func", factory)
    if getattr(cls, "member_axis", False):
        return factory(seeds=seeds, **dims)
    return Lifted(lambda: factory(**dims), seeds, names)


class Lifted(nn.Module):
    """A module written for one run, [B, ...] → [B, ...], applied to M members one after another.

    Its parameters are stacked to [M, ...], or [M, copies, ...] for the twin Q, whose output is then [M, copies, B].
    Buffers stay those of the first member: a module that changes its buffers while training (batch normalisation) is
    refused. What it draws (torch.nn.Dropout) is a function of (seed, name, `update_number`). product_dtype: the type of
    its products (torch.autocast), or None for that of the weights; its output is float32.
    """

    update_number: int | Tensor = 0  # the learner counts it up
    draws: bool | None = None
    """Whether the module draws random numbers while training; None until it was trained."""
    product_dtype: torch.dtype | None = None

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
        lowered = torch.autocast(inputs[0].device.type, self.product_dtype, enabled=self.product_dtype is not None)
        with torch.random.fork_rng(devices=[], enabled=self.training), lowered:
            return _stack([self._member(member, [x[member] for x in inputs]) for member in range(len(self._keys))])

    def train(self, mode: bool = True) -> Lifted:
        self._template[0].train(mode)
        return super().train(mode)

    def _member(self, member: int, inputs: list[Tensor]):
        seeded = None
        # A module that draws is never captured in a CUDA graph, where a generator cannot be seeded.
        captured = inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()
        if self.training and not captured:
            torch.manual_seed((self._keys[member] + int(self.update_number)) % (1 << 63))
            seeded = _generator_state(inputs[0].device) if self.draws is None else None
        places = [(member,)] if self.copies == 1 else [(member, copy) for copy in range(self.copies)]
        outputs = [
            functional_call(
                self._template[0],
                {name: p[place] for name, p in zip(self._names, self.stacked, strict=True)},
                tuple(inputs),
            )
            for place in places
        ]
        if seeded is not None:
            self.draws = not torch.equal(seeded, _generator_state(inputs[0].device))
        return outputs[0] if self.copies == 1 else torch.stack(outputs)


def _generator_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


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

    def forward(self, observations: Tensor) -> Gaussian | Categorical:
        """observations [B, observation_dim] → mean or logits [B, action_dim], log_std that broadcasts or None."""
        given = distribution(self.module(observations[None] if self.lead else observations))
        if not self.lead:
            return given
        if isinstance(given, Categorical):
            return Categorical(given.logits[0])
        return Gaussian(given.mean[0], None if given.log_std is None else given.log_std[0])


def _stack(outputs: list):
    if isinstance(outputs[0], tuple):
        parts = [_stack(list(each)) for each in zip(*outputs, strict=True)]
        return Categorical(*parts) if isinstance(outputs[0], Categorical) else tuple(parts)
    return None if outputs[0] is None else torch.stack(outputs).float()
