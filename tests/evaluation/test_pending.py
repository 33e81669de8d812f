"""Pending evaluations: a copy of the policies as they were, the order of the records, the part in a checkpoint."""

from __future__ import annotations

import io
import logging
import os
import pickle
import sys
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from iql.errors import UserError
from iql.evaluation.pending import Evaluator, PendingEvaluation, actor, episode_seeds, policy_weights
from iql.evaluation.rollout import CHUNK, Episodes
from iql.networks.actors import Policy
from iql.networks.lifting import Lifted, build

OBSERVATIONS, ACTIONS, SEEDS = 3, 2, [0, 1, 2]
MEAN, STD = np.array([1, 2, 3], np.float32), np.array([0.5, 1, 2], np.float32)


def our_policy(mean: str = "tanh", distribution: str = "gaussian", *more: Any) -> Policy:
    torch.manual_seed(0)
    policy = Policy(OBSERVATIONS, ACTIONS, SEEDS, [16, 8], "pytorch", distribution, mean, 0.1, (-5.0, 2.0), *more)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter))
    return policy


class Residual(nn.Module):
    """A user's policy for one run, which is another while it learns."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(observation_dim, 8), nn.Dropout(0.5), nn.ReLU())
        self.head = nn.Linear(8, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.register_buffer("gain", torch.tensor(3.0))

    def forward(self, observations):
        return self.gain * self.head(self.inner(observations)), self.log_std


class Doubled(Policy):
    """A user's policy that knows the member axis."""

    def forward(self, observations):
        mean, log_std = super().forward(observations)
        return 2 * mean, log_std


class Sealed(Residual):
    """Holds what no other process can have."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__(observation_dim, action_dim)
        self.activation = lambda x: x


def residual(cls=Residual) -> Lifted:
    policy = build(cls, ["policy"], SEEDS, observation_dim=OBSERVATIONS, action_dim=ACTIONS)
    assert isinstance(policy, Lifted)
    return policy


def doubled() -> Doubled:
    return Doubled(OBSERVATIONS, ACTIONS, SEEDS, [8], "orthogonal", "gaussian", "tanh", None, (-5.0, 2.0))


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda kind=kind: our_policy(*kind)
            for kind in (
                *(("tanh", "gaussian"), ("linear", "deterministic"), ("linear", "gaussian", None, "gelu", 1.0)),
                *(
                    ("linear", "gaussian", norm, activation)
                    for norm in ("before", "after")
                    for activation in ("relu", "gelu")
                ),
            )
        ),
        residual,
        doubled,
    ],
)
def test_the_sent_policy_acts_as_the_learners(make):
    policy = make()
    rows = np.random.default_rng(0).normal(size=(CHUNK, OBSERVATIONS)).astype(np.float32)
    inputs = torch.from_numpy((rows - MEAN) / STD).expand(len(SEEDS), -1, -1)
    policy.eval()
    with torch.no_grad():
        expected = policy(inputs)[0].clamp(-1, 1).numpy()
    policy.train()
    assert (np.abs(expected) == 1).any()
    for place in range(len(SEEDS)):
        act = pickle.loads(pickle.dumps(actor(policy, policy_weights(policy, place), MEAN, STD)))
        np.testing.assert_allclose(act(rows), expected[place], rtol=0, atol=5e-6)
    assert policy.training


def test_a_copy_of_strided_weights_is_plain_and_stays_as_it_was():
    policy = our_policy()
    with torch.no_grad():
        for parameter in policy.net.kernels:
            parameter.data = parameter.transpose(1, 2).contiguous().transpose(1, 2)
    rows = np.ones((CHUNK, OBSERVATIONS), np.float32)
    weights = policy_weights(policy, 1)
    assert all(each.is_contiguous() for each in weights.values())
    before = actor(policy, weights, MEAN, STD)(rows)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(actor(policy, weights, MEAN, STD)(rows), before)
    assert np.abs(before).max() > 0


def test_our_own_policy_is_sent_without_torch():
    sent = pickle.dumps(actor(our_policy(), policy_weights(our_policy(), 0), MEAN, STD))
    assert b"torch" not in sent


def test_a_policy_that_cannot_be_sent_is_refused_at_once():
    with pytest.raises(UserError, match="the policy Lifted cannot be sent"):
        evaluator(residual(Sealed))


class ManualWorkers:
    """Workers whose chunks end when and as the test says."""

    def __init__(self) -> None:
        self.given: list[tuple[bytes, list[int], Future]] = []

    def check_start(self) -> None:
        pass

    def play(self, act, seeds, keep_observations):
        chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
        self.given += [(act, chunk, Future()) for chunk in chunks]
        return [future for _, _, future in self.given[-len(chunks) :]]

    def result(self, future):
        return future.result()

    def finish(self, number: int) -> None:
        _, seeds, future = self.given[number]
        future.set_result(Episodes(np.array(seeds, float), np.ones(len(seeds), int), []))


def evaluator(policy=None, workers=None) -> Evaluator:
    return Evaluator(workers or ManualWorkers(), policy or our_policy(), MEAN, STD, SEEDS, 7, False)


def never() -> bool:
    return False


def test_it_is_collected_once_all_chunks_are_played_in_whatever_order():
    workers = ManualWorkers()
    own = evaluator(workers=workers)
    assert own.collect(never) is None
    own.begin(20, [0, 2])
    assert len(workers.given) == 4
    for number in (3, 0, 2):
        workers.finish(number)
        assert own.collect(never) is None
    workers.finish(1)
    evaluation, played = own.collect(never)
    assert (evaluation.update, evaluation.seconds > 0, own.pending) == (20, True, None)
    for place in (0, 2):
        assert played[place].returns.tolist() == episode_seeds(SEEDS[place], 20, 7)


def test_records_are_deferred_only_while_an_evaluation_is_pending():
    workers = ManualWorkers()
    own = evaluator(workers=workers)
    assert not own.defer(0, {"update": 20})
    own.begin(20, [0])
    assert own.defer(0, {"update": 25})
    assert not own.defer(1, {"update": 25})
    assert own.defer(0, {"update": 30})
    for number in range(2):
        workers.finish(number)
    evaluation, _ = own.collect(never)
    assert evaluation.deferred == {0: [{"update": 25}, {"update": 30}]}
    assert not own.defer(0, {"update": 35})


def test_what_a_checkpoint_holds_is_enough_to_play_it_again():
    workers = ManualWorkers()
    policy = our_policy()
    own = evaluator(policy, workers)
    assert own.state(0) is None
    own.begin(20, [0, 1])
    own.defer(1, {"kind": "train", "update": 25, "value_loss": 0.5, "policy_lr": None})
    saved = io.BytesIO()
    torch.save({place: own.state(place) for place in (0, 1)}, saved)
    assert own.state(2) is None
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()  # a resumed life has later weights
    saved.seek(0)
    again = ManualWorkers()
    later = evaluator(policy, again)
    later.resume(torch.load(saved, weights_only=True))
    assert [given[:2] for given in again.given] == [given[:2] for given in workers.given]
    assert later.pending.deferred == own.pending.deferred
    later.resume({})
    assert later.pending.update == 20


def test_the_first_chunk_that_fails_ends_the_wait_and_is_raised():
    workers = ManualWorkers()
    own = evaluator(workers=workers)
    own.begin(20, [0])
    workers.given[1][2].set_exception(ZeroDivisionError("in the simulator"))
    with pytest.raises(ZeroDivisionError):
        own.collect(lambda: True)


def test_a_wait_ends_when_it_is_told_to():
    own = evaluator()
    own.begin(20, [0])
    answers = iter([True, True, False])
    assert own.collect(lambda: next(answers)) is None
    assert own.pending is not None


def test_seeds_depend_on_run_update_and_episode_and_on_nothing_else():
    assert episode_seeds(0, 5000, 10)[:3] == episode_seeds(0, 5000, 3)
    drawn = [seed for run in (0, 1) for update in (5000, 10000) for seed in episode_seeds(run, update, 10)]
    assert len(set(drawn)) == 40
    assert all(0 <= seed < 2**31 for seed in drawn)


@pytest.mark.parametrize(
    "module",
    [f"iql.evaluation.{name}" for name in ("workers", "worker_process", "numpy_policies", "rollout")]
    + ["iql.tasks.d4rl"],
)
def test_what_workers_import_needs_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0


def test_an_evaluation_that_is_waited_for_long_is_logged_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    evaluation = PendingEvaluation(40, {}, {})
    played, playing = Future(), Future()
    evaluation.watch({0: [played, playing]})
    played.set_result(None)
    evaluation.log_if_slow()
    assert caplog.text == ""
    monkeypatch.setattr("iql.evaluation.pending.SLOW_SECONDS", -1.0)
    evaluation.log_if_slow()
    evaluation.log_if_slow()
    assert caplog.text.count("waiting for the evaluation after update 40") == 1
    assert f"1 of 2 chunks of {CHUNK} episodes are played" in caplog.text
