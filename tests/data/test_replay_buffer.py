"""The replay buffer against a trace of the authors' own, and what a pack and a share of offline rows mean for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_transitions

from iql.data.replay_buffer import OnlineRow, ReplayBuffer
from iql.data.sampling import Batch, Batches
from iql.data.transitions import Transitions

TRACE = dict(np.load(Path(__file__).with_name("buffer.npz")))
RUNS = json.loads(str(TRACE["meta"]))["runs"]
COLUMNS = ("observations", "actions", "rewards", "masks", "next_observations")


def recorded(run: str) -> Transitions:
    """The trace's data set, each of whose rows stands before its successor."""
    columns = {name: TRACE[f"{run}/dataset/{name}"] for name in COLUMNS}
    pairs = np.stack([columns["observations"], columns["next_observations"]], 1).reshape(-1, 4)
    return Transitions(
        observations=pairs,
        **{name: np.repeat(columns[name], 2, axis=0) for name in ("actions", "rewards", "masks")},
        rows=np.arange(0, len(pairs), 2),
        observation_mean=np.zeros(4, np.float32),
        observation_std=np.ones(4, np.float32),
    )


def buffer_of(run: str) -> ReplayBuffer:
    settings = RUNS[run]
    return ReplayBuffer(
        recorded(run), [0], settings["batch_size"], "cpu",
        capacity=settings["capacity"], steps=settings["online_steps"], offline_share=None,
    )  # fmt: skip


def online_rows(run: str) -> list[np.ndarray]:
    """The rows as the authors insert them, who bootstrap at every time limit and do not transform rewards."""
    names = ("observations", "sampled_actions", "rewards", "terminals", "at_time_limit", "next_observations")
    online = {name: TRACE[f"{run}/online/{name}"] for name in names}
    masks = np.where(online["at_time_limit"] > 0, 1.0, 1.0 - online["terminals"])
    columns = (online["observations"], online["sampled_actions"].clip(-1, 1), online["rewards"], masks)
    return [OnlineRow(*row).packed() for row in zip(*columns, online["next_observations"], strict=True)]


def at_slots(buffer: ReplayBuffer, slots: np.ndarray) -> Batch:
    """The rows in these slots [B]: a draw that is the slot's number."""
    return buffer.gather(buffer._places(torch.from_numpy(slots).view(1, 1, -1)).squeeze(1))


@pytest.mark.parametrize("run", RUNS)
def test_contents_and_batches_are_those_of_the_authors_also_when_it_wraps_around(run):
    buffer, settings = buffer_of(run), RUNS[run]
    stages = sorted(
        int(name.split("/")[1][6:]) for name in TRACE if name.startswith(f"{run}/stage_") and "size" in name
    )
    assert settings["capacity"] in [int(TRACE[f"{run}/stage_{stage}/size"]) for stage in stages]
    compared = 0
    for inserted, row in enumerate([None, *online_rows(run)]):
        if row is not None:
            buffer.insert(0, row)
            drawn = settings["pretraining_updates"] + inserted - 1
            batch = at_slots(buffer, TRACE[f"{run}/samples/indices"][drawn])
            shift = (
                1.0 if run == "antmaze" else 0.0
            )  # which the authors subtract from every batch, and we from the rows
            for name, own in zip(COLUMNS, batch, strict=False):
                expected = TRACE[f"{run}/samples/{name}"][drawn] + (shift if name == "rewards" else 0)
                np.testing.assert_allclose(own[0].numpy(), expected, atol=1e-6)
        if inserted in stages:
            size = int(TRACE[f"{run}/stage_{inserted}/size"])
            for name, own in zip(COLUMNS, at_slots(buffer, np.arange(size)), strict=False):
                np.testing.assert_array_equal(own[0].numpy(), TRACE[f"{run}/stage_{inserted}/{name}"])
            compared += 1
    assert compared == len(stages) >= 4


def noise_row(number: int) -> np.ndarray:
    """A row whose every entry tells its number."""
    return OnlineRow(
        *(np.full(size, 1000.0 + number) for size in (3, 2)), 1000.0 + number, 1.0, np.full(3, -number)
    ).packed()


def filled(seeds: list[int], rows: list[int], **settings) -> ReplayBuffer:
    settings = {"capacity": 2000, "steps": 300, "offline_share": None} | settings
    buffer = ReplayBuffer(random_transitions(3, 2), seeds, 64, "cpu", **settings)
    for member, count in enumerate(rows):
        for number in range(count):
            buffer.insert(member, noise_row(1000 * member + number))
    return buffer


def test_without_online_rows_the_batches_are_those_of_the_offline_phase():
    data = random_transitions(3, 2)
    plain, buffer = Batches(data, [1, 2], 64, "cpu"), filled([1, 2], [0, 0])
    for update in (0, 63, 64, 700):
        for one, other in zip(plain.at(update)[:5], buffer.at(update)[:5], strict=True):
            assert torch.equal(one, other)


def test_a_member_draws_its_own_rows_the_same_alone_and_in_a_pack():
    pack, alone = filled([5, 6], [40, 70]), filled([6], [0])
    alone.restore(0, np.stack([noise_row(1000 + number) for number in range(70)]))
    part = pack.of(range(1, 2))
    part.at(3)  # what is inserted later is seen too
    pack.insert(1, noise_row(1999))
    alone.insert(0, noise_row(1999))
    seen = set()
    for update in range(200):
        batches = [pack.at(update), part.at(update), alone.at(update)]
        for own in zip(*(batch[:5] for batch in batches), strict=True):
            assert torch.equal(own[0][1:], own[1]) and torch.equal(own[1], own[2])
        seen |= set(batches[1].rewards[batches[1].rewards > 900].tolist())
        first = batches[0].rewards[0]
        assert ((first < 900) | ((first >= 1000) & (first < 1040))).all()
    assert len(seen) == 71 and 2999 in seen


@pytest.mark.parametrize(("share", "online"), [(0.5, 32), (0.0, 64), (0.25, 48), (1.0, 0)])
def test_a_share_of_every_batch_comes_from_the_data(share, online):
    buffer = filled([0], [30], offline_share=share)
    for update in range(20):
        assert int((buffer.at(update).rewards >= 1000).sum()) == online


def test_with_a_share_only_online_rows_leave_a_full_buffer():
    buffer = filled([0], [300], offline_share=0.5, capacity=100)
    batches = [buffer.at(update) for update in range(200)]
    online = torch.cat([batch.rewards[0, 32:] for batch in batches])
    assert online.min() == 1200 and online.max() == 1299  # the newest hundred
    assert all(batch.rewards[0, :32].max() < 1000 for batch in batches)


def test_draws_of_a_graph_are_those_of_single_updates():
    """A graph counts updates in a tensor, and draws several at once."""
    buffer = filled([3, 4], [50, 20])
    together = buffer.gather(buffer.draw(torch.tensor(130), 2).transpose(0, 1))
    for place in range(2):
        for one, other in zip(together[:5], buffer.at(130 + place)[:5], strict=True):
            assert torch.equal(one[place], other)


def test_a_capacity_below_the_data_is_refused():
    with pytest.raises(ValueError, match="capacity of 400 is less than the data's 499"):
        filled([0], [0], capacity=400)
