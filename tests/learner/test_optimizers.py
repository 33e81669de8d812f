"""The optimizers of a pack against torch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from iql.learner.optimizers import MemberOptimizers, PackAdam, adam_settings
from iql.learner.parameters import FlatParameters
from iql.networks.critics import TwinQ

LR = [1e-3, 1e-2]
FACTORIES = {
    "Adam": torch.optim.Adam,
    "its settings": partial(torch.optim.Adam, betas=(0.8, 0.95), eps=1e-5, weight_decay=0.1, fused=True),
}


def network() -> TwinQ:
    return TwinQ(3, 2, seeds=[0, 1], hidden_dims=[7], initialization="pytorch")


def gradients_of(module: TwinQ, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in module.parameters()]


def stepped_by_torch(factory, steps: int) -> tuple[list[torch.Tensor], list[torch.optim.Optimizer]]:
    """The parameters after so many steps of one torch optimizer for each member."""
    module = network()
    own = [[p.detach()[member].clone() for p in module.parameters()] for member in range(2)]
    optimizers = [factory(parameters, lr=lr) for parameters, lr in zip(own, LR, strict=True)]
    for step in range(steps):
        for member, optimizer in enumerate(optimizers):
            for parameter, gradient in zip(own[member], gradients_of(module, step), strict=True):
                parameter.grad = gradient[member].clone()
            optimizer.step()
    return [torch.stack(pair) for pair in zip(*own, strict=True)], optimizers


def step(optimizer: PackAdam | MemberOptimizers, module: TwinQ, number: int) -> None:
    optimizer.step(gradients_of(module, number), 1.0)


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("kind", [PackAdam, MemberOptimizers])
def test_its_steps_are_those_of_torch(factory, kind):
    """Also notices if torch changes the kernel that it calls by name."""
    expected, _ = stepped_by_torch(factory, 20)
    module = network()
    flat = FlatParameters(module)
    optimizer = PackAdam(flat, LR, adam_settings(factory)) if kind is PackAdam else kind(factory, flat, LR)
    for number in range(20):
        step(optimizer, module, number)
    for parameter, theirs in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), theirs, rtol=1e-5, atol=1e-6)


def test_it_continues_from_what_torch_saved():
    """As checkpoints of version 0.1 hold it that were written on the plain path."""
    half, theirs = stepped_by_torch(torch.optim.Adam, 10)
    expected, _ = stepped_by_torch(torch.optim.Adam, 20)
    module = network()
    flat = FlatParameters(module)
    optimizer = PackAdam(flat, LR, adam_settings(torch.optim.Adam))
    for parameter, weights in zip(module.parameters(), half, strict=True):
        parameter.data.copy_(weights)
    for member, each in enumerate(theirs):
        optimizer.load(member, each.state_dict())
    for number in range(10, 20):
        step(optimizer, module, number)
    for parameter, weights in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "factory",
    [
        torch.optim.AdamW,
        partial(torch.optim.Adam, amsgrad=True),
        partial(torch.optim.Adam, maximize=True),
        lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
    ],
)
def test_any_other_optimizer_keeps_its_own_class(factory):
    assert adam_settings(factory) is None


def test_a_state_of_another_shape_is_refused():
    optimizer = PackAdam(FlatParameters(network()), LR, adam_settings(torch.optim.Adam))
    state = {name: tensor.clone() for name, tensor in optimizer.state(0).items()}
    state["exp_avg"] = state["exp_avg"][:, 1:]
    with pytest.raises(ValueError, match="exp_avg"):
        optimizer.load(0, state)
