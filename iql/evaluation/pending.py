"""A pack's evaluations: each begun from a copy of the policies and played beside training, one at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from torch import nn

from iql.data.random_streams import key
from iql.errors import UserError
from iql.evaluation.numpy_policies import NumpyCategorical, NumpyPerceptron, NumpyPolicy, TorchPolicy
from iql.evaluation.rollout import CHUNK, Act, EpisodeError, Episodes, joined
from iql.evaluation.workers import RolloutWorkers, pickled
from iql.networks.actors import CategoricalPolicy, Policy
from iql.networks.lifting import Single
from iql.networks.mlp import LAYER_NORM_EPSILON, MLP
from iql.runs.metrics_file import Record

KEPT_SEED = 0
"""Which episodes a training plays to be kept: those of evaluate.py's --seed 0."""

POLL_SECONDS = 0.1
"""Seconds between two checks of whether to go on waiting."""

SLOW_SECONDS = 60.0
"""Seconds after which a line is logged about an evaluation that training waits for."""

log = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]


def episode_seeds(
    seed: int, update: int, episodes: int, run_seeded: bool = False, again: int | None = None
) -> list[int]:
    """The environment seeds of one evaluation, each below 2³¹.

    With `run_seeded` the bits from 31 up hold a number of the run, never 0, for what all its episodes share
    (antmaze v0's goal). again: seeds of other episodes than training's, the same for every run and update.
    """
    shared = _shared(seed, run_seeded)
    which = (seed, f"evaluation/{update}") if again is None else (again, "again")
    return [shared + key(which[0], f"{which[1]}/{episode}") % (1 << 31) for episode in range(episodes)]


def training_seed(seed: int, episode: int, run_seeded: bool = False) -> int:
    """The environment seed of an episode of exploration; what a run's episodes share is that of its evaluations."""
    return _shared(seed, run_seeded) + key(seed, f"online/{episode}") % (1 << 31)


def _shared(seed: int, run_seeded: bool) -> int:
    return (1 + key(seed, "evaluation") % (1 << 31)) << 31 if run_seeded else 0


def policy_weights(policy: nn.Module, place: int) -> Weights:
    """A copy of one member's weights on the CPU, without the member axis."""
    return {
        name: p.detach()[place].cpu().clone(memory_format=torch.contiguous_format)
        for name, p in policy.named_parameters()
    }


def actor(policy: nn.Module, weights: Weights, mean: np.ndarray, std: np.ndarray) -> Act:
    """One member's policy with these weights, for another process: in NumPy, a user's own class in torch.

    mean, std: [observation_dim] float32, what observations are shifted and divided by.
    """
    if isinstance(policy, Policy | CategoricalPolicy) and type(policy) in (Policy, CategoricalPolicy):
        net = _perceptron(policy.net, weights)
        if isinstance(policy, CategoricalPolicy):
            return NumpyCategorical(net, mean, std)
        return NumpyPolicy(net, policy.squash, mean, std)
    return TorchPolicy(Single(policy, weights), mean, std)


def _perceptron(net: MLP, weights: Weights) -> NumpyPerceptron:
    parts = ("kernels", "biases", "norm_scales", "norm_biases")
    kernels, biases, scales, shifts = (
        [weights[f"net.{part}.{n}"].numpy() for n in range(len(getattr(net, part)))] for part in parts
    )
    return NumpyPerceptron(kernels, biases, net.activation, net.layer_norm, LAYER_NORM_EPSILON, scales, shifts)


class PendingEvaluation:
    """An evaluation in progress, of the policies as they were after `update`.

    weights   each member's, by place; with `deferred` enough to play the evaluation again after a resume
    deferred  the members' later records, which are written after the evaluation's
    seconds   from its beginning to the end of its last episode, once `finished` is set
    """

    def __init__(self, update: int, weights: dict[int, Weights], deferred: dict[int, list[Record]]) -> None:
        self.update, self.weights, self.deferred = update, weights, deferred
        self.seconds = 0.0
        self.finished = threading.Event()
        self._began, self._logged = time.monotonic(), False

    def watch(self, parts: dict[int, list[Future[Episodes]]]) -> None:
        """Set `finished` when the last of the members' chunks is done, or the first one fails."""
        self.parts = parts
        for future in self.futures:
            future.add_done_callback(self._note)

    def log_if_slow(self) -> None:
        """Log once that it takes long and how far it is: an environment may hang."""
        seconds = time.monotonic() - self._began
        if seconds > SLOW_SECONDS and not self._logged:
            self._logged = True
            log.info(
                "waiting for the evaluation after update %d, %.0f s so far: %d of %d chunks of %d episodes are played",
                self.update,
                seconds,
                sum(future.done() for future in self.futures),
                len(self.futures),
                CHUNK,
            )

    @property
    def futures(self) -> list[Future[Episodes]]:
        return [future for parts in self.parts.values() for future in parts]

    def _note(self, future: Future[Episodes]) -> None:
        if all(each.done() for each in self.futures) or (not future.cancelled() and future.exception()):
            self.seconds = time.monotonic() - self._began
            self.finished.set()


class Evaluator:
    """Evaluates a pack's policies on rollout workers, one evaluation at a time.

    policy     the pack's, which is trained on while copies of it are evaluated
    mean, std  as in `actor`
    seeds      the members'
    run_seeded as in `episode_seeds`
    pending    the evaluation in progress, or None

    Raises UserError for a policy that cannot be sent to another process.
    """

    def __init__(
        self,
        workers: RolloutWorkers,
        policy: nn.Module,
        mean: np.ndarray,
        std: np.ndarray,
        seeds: Sequence[int],
        episodes: int,
        run_seeded: bool,
    ) -> None:
        self.pending: PendingEvaluation | None = None
        self._workers, self._policy = workers, policy
        self._mean, self._std = mean, std
        self._seeds, self._episodes, self._run_seeded = seeds, episodes, run_seeded
        self._pickled_actor(policy_weights(policy, 0))

    def begin(
        self, update: int, places: Sequence[int], keep_observations: bool = False, kept: int | None = None
    ) -> None:
        """Evaluate these members' policies as they are now, after `update`.

        kept: play so many episodes to be kept instead of the evaluation's.
        """
        weights = {place: policy_weights(self._policy, place) for place in places}
        self._submit(PendingEvaluation(update, weights, {place: [] for place in places}), keep_observations, kept)

    def resume(self, states: dict[int, dict[str, Any]]) -> None:
        """Play again the evaluation that was pending when the checkpoints were written; `states` by member's place."""
        if states:
            (update,) = {state["update"] for state in states.values()}
            weights = {place: state["weights"] for place, state in states.items()}
            deferred = {place: state["held"] for place, state in states.items()}
            self._submit(PendingEvaluation(update, weights, deferred))

    def state(self, place: int) -> dict[str, Any] | None:
        """A member's part of the pending evaluation for its checkpoint: tensors, numbers and texts."""
        evaluation = self.pending
        if evaluation is None or place not in evaluation.weights:
            return None
        return {
            "update": evaluation.update,
            "weights": evaluation.weights[place],
            "held": evaluation.deferred[place],
        }

    def defer(self, place: int, record: Record) -> bool:
        """Keep a record back until the pending evaluation is written; False where none is pending for the member."""
        if self.pending is None or place not in self.pending.deferred:
            return False
        self.pending.deferred[place].append(record)
        return True

    def collect(self, keep_waiting: Callable[[], bool]) -> tuple[PendingEvaluation, dict[int, Episodes]] | None:
        """The pending evaluation with its episodes by place, once all are played; none is pending afterwards.

        Waits while `keep_waiting()` is true. Returns None where no evaluation is pending, or it is not finished by
        then. Raises what a worker raised.
        """
        self._workers.check_start()
        evaluation = self.pending
        if evaluation is None:
            return None
        while not evaluation.finished.is_set() and keep_waiting():
            evaluation.finished.wait(POLL_SECONDS)
            evaluation.log_if_slow()
        if not evaluation.finished.is_set():
            return None
        try:
            for future in evaluation.futures:  # a failure first: the other chunks may not be done
                if future.done():
                    self._workers.result(future)
        except EpisodeError as error:
            raise UserError(
                f"the evaluation after update {evaluation.update} failed: {error}. The run keeps its checkpoints; the "
                "same command goes on from the last one"
            ) from error
        self.pending = None
        return evaluation, {
            place: joined([self._workers.result(part) for part in parts]) for place, parts in evaluation.parts.items()
        }

    def _submit(self, evaluation: PendingEvaluation, keep_observations: bool = False, kept: int | None = None) -> None:
        parts = {}
        count, again = (self._episodes, None) if kept is None else (kept, KEPT_SEED)
        for place, weights in evaluation.weights.items():
            seeds = episode_seeds(self._seeds[place], evaluation.update, count, self._run_seeded, again)
            parts[place] = self._workers.play(self._pickled_actor(weights), seeds, keep_observations)
        evaluation.watch(parts)
        self.pending = evaluation

    def _pickled_actor(self, weights: Weights) -> bytes:
        act = actor(self._policy, weights, self._mean, self._std)
        return pickled(act, f"the policy {type(self._policy).__name__}")
