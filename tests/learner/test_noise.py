"""An update's random numbers: functions of the seed, their name and the update's number, however they are drawn."""

from __future__ import annotations

import pytest
import torch

from iql.learner import noise
from iql.learner.noise import Noise

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [(3,), (5, 2), (300, 200)])  # of the last one an update alone is a block
def test_numbers_are_those_of_the_update_in_whatever_order_they_are_asked_for(kind, shape):
    draw = getattr(Noise([4, 9], CPU), kind)
    for number in (0, 1, 62, 63, 64, 200, 65, 0):
        alone = getattr(Noise([4, 9], CPU), kind)("a", torch.tensor(number), shape)  # as a CUDA graph draws them
        assert alone.shape == (2, *shape)
        assert torch.equal(draw("a", number, shape), alone)
    member = getattr(Noise([4, 9], CPU).of(range(1, 2)), kind)("a", 64, shape)
    assert torch.equal(member[0], draw("a", 64, shape)[1])
    assert not torch.equal(draw("a", 64, shape), draw("b", 64, shape))
    assert not torch.equal(draw("a", 64, shape)[0], draw("a", 64, shape)[1])


def test_a_block_is_drawn_once(monkeypatch):
    drawn = []
    monkeypatch.setattr(noise, "keys", lambda *_: torch.tensor([5]))
    monkeypatch.setattr(noise, "normal", lambda keys, counters: drawn.append(len(counters)) or counters.float()[None])
    own = Noise([0], CPU)
    numbers = torch.cat([own.normal("a", number, (4,)) for number in range(130)])
    assert drawn == [64 * 4] * 3
    assert torch.equal(numbers.flatten(), torch.arange(130 * 4).float())
