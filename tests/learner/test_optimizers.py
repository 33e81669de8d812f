"""The optimizers of a pack against torch's own."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch

from iql.learner.optimizers import MemberOptimizers, PackAdam, adam_settings, in_pieces
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


def test_a_saved_state_holds_its_own_member_alone():
    """torch.save writes all that a view is of: 32 checkpoints of a pack of 32 would be 32 times too large."""
    flat = FlatParameters(network())
    optimizer, buffer = PackAdam(flat, LR, adam_settings(torch.optim.Adam)), io.BytesIO()
    state = optimizer.state(1)
    torch.save(state, buffer)
    numbers = sum(p[0].numel() for p in flat.parameters)
    assert [tuple(each.shape) for each in state.values()] == [(2, numbers // 2), (2, numbers // 2), (2,)]
    assert sum(each.untyped_storage().nbytes() for each in state.values()) == 4 * (2 * numbers + 2)


def test_what_pads_a_row_stays_zero():
    module = network()
    flat = FlatParameters(module)
    optimizer = PackAdam(flat, LR, adam_settings(FACTORIES["its settings"]))
    for number in range(3):
        step(optimizer, module, number)
    assert flat.rows.shape[1] % 32 == 0
    assert flat.rows.shape[1] > flat.size
    assert flat.rows[:, flat.size :].abs().max() == 0


@pytest.mark.parametrize(("rows", "size"), [(1, 70_016), (2, 70_016), (5, 9_001), (40, 5_000), (1, 100)])
def test_adam_in_pieces_of_rows_takes_the_same_step(rows, size):
    """As on CUDA, where few large tensors would leave a GPU idle."""
    random = torch.Generator().manual_seed(0)
    whole = [torch.rand(rows, size, generator=random) for _ in range(4)]
    pieces = [each.clone() for each in whole]
    split = {}
    for name, matrices in (("whole", whole), ("pieces", pieces)):
        steps = torch.full((rows,), 3.0)
        lists = (*(list(each) for each in matrices), list(steps))
        split[name] = lists if name == "whole" else in_pieces(lists, 36)
        weights, gradients, first, second, counted = split[name]
        settings = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False, "maximize": False}
        torch._fused_adam_(weights, gradients, first, second, [], counted, lr=1e-3, **settings)
    assert len({len(each) for each in split["pieces"]}) == 1
    assert len(split["pieces"][0]) <= max(36, rows)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
