"""Batches: which rows they hold, and the data's next actions."""

from __future__ import annotations

import torch
from conftest import random_transitions

from iql.data.random_streams import keys, uniform
from iql.data.sampling import Batches


def test_next_actions_are_those_of_the_row_after():
    data = random_transitions(3, 2)
    batches = Batches(data, [0, 1], 64, "cpu", next_actions=True)
    rows = batches.draw(5, 1)[:, 0]
    batch = batches.at(5)
    assert torch.equal(batch.actions, torch.tensor(data.actions)[rows])
    assert torch.equal(batch.next_actions, torch.tensor(data.actions)[rows + 1])
    assert torch.equal(batch.next_observations, torch.tensor(data.observations)[rows + 1])


def test_batches_are_the_same_with_and_without_next_actions():
    data = random_transitions(3, 2)
    plain, more = Batches(data, [7], 16, "cpu").at(70), Batches(data, [7], 16, "cpu", next_actions=True).at(70)
    assert plain.next_actions is None
    assert all(torch.equal(one, other) for one, other in zip(plain[:5], more[:5], strict=True))


def test_uniform_numbers_fill_zero_to_one():
    drawn = uniform(keys([0, 1], "noise/random_actions"), torch.arange(200_000))
    assert drawn.shape == (2, 200_000) and drawn.dtype == torch.float32
    assert 0 <= drawn.min() < 1e-4 and 1 - 1e-4 < drawn.max() < 1
    assert (drawn.mean(1) - 0.5).abs().max() < 0.005 and (drawn.std(1) - 12**-0.5).abs().max() < 0.005
