"""A pack's evaluations: begun from a copy of its policies and played beside training, one at a time."""

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

from iql.acting import Module, Perceptron
from iql.draws import key
from iql.errors import UserError
from iql.evaluation import EpisodeError, Episodes, joined
from iql.metrics import Record
from iql.networks import Policy, Single
from iql.players import CHUNK, Act, Players, pickled

LOOK = 0.1
"""Seconds between two looks at whether a wait should be given up."""

LONG = 60.0
"""Seconds after which an evaluation that training waits for is spoken of."""

log = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]


def episode_seeds(
    seed: int, update: int, episodes: int, run_seeded: bool = False, again: int | None = None
) -> list[int]:
    """The environment seeds of one evaluation, each below 2³¹.

    With `run_seeded` the bits from 31 up hold a number of the run's own, never 0, for what all its episodes
    share (antmaze v0's goal). again: other episodes than training's, the same for every run and update.
    """
    shared = (1 + key(seed, "evaluation") % (1 << 31)) << 31 if run_seeded else 0
    which = (seed, f"evaluation/{update}") if again is None else (again, "again")
    return [shared + key(which[0], f"{which[1]}/{episode}") % (1 << 31) for episode in range(episodes)]


def policy_weights(policy: nn.Module, place: int) -> Weights:
    """A copy of one member's weights on the CPU, without the member axis."""
    return {
        name: p.detach()[place].cpu().clone(memory_format=torch.contiguous_format)
        for name, p in policy.named_parameters()
    }


def actor(policy: nn.Module, weights: Weights, mean: np.ndarray, std: np.ndarray) -> Act:
    """One member's policy with these weights, for a process of its own: in NumPy, a user's own class in torch.

    mean, std: [observation_dim] float32, what observations are shifted and divided by.
    """
    if type(policy) is Policy:
        layers = range(len(policy.net.kernels))
        kernels, biases = ([weights[f"net.{part}.{n}"].numpy() for n in layers] for part in ("kernels", "biases"))
        return Perceptron(kernels, biases, policy.squash, mean, std)
    return Module(Single(policy, weights), mean, std)


class Flight:
    """An evaluation under way: of the policies as they were after `update`.

    weights  each member's, by place; with held all that a later life needs to play it again
    held     the members' later records, which are written after the evaluation's
    seconds  from its beginning to the last episode's end, once `over` is set
    """

    def __init__(self, update: int, weights: dict[int, Weights], held: dict[int, list[Record]]) -> None:
        self.update, self.weights, self.held = update, weights, held
        self.seconds = 0.0
        self.over = threading.Event()
        self._began, self._told = time.monotonic(), False

    def watch(self, parts: dict[int, list[Future[Episodes]]]) -> None:
        """Take the members' chunks; the last one, or the first that fails, ends the flight."""
        self.parts = parts
        for future in self.futures:
            future.add_done_callback(self._note)

    def tell_if_long(self) -> None:
        """Say once that it takes long and how far it is: an environment may hang."""
        seconds = time.monotonic() - self._began
        if seconds > LONG and not self._told:
            self._told = True
            played = sum(future.done() for future in self.futures)
            log.info(
                "waiting for the evaluation after update %d, %.0f s so far: %d of %d chunks of %d episodes are played",
                self.update,
                seconds,
                played,
                len(self.futures),
                CHUNK,
            )

    @property
    def futures(self) -> list[Future[Episodes]]:
        return [future for parts in self.parts.values() for future in parts]

    def _note(self, future: Future[Episodes]) -> None:
        if all(each.done() for each in self.futures) or (not future.cancelled() and future.exception()):
            self.seconds = time.monotonic() - self._began
            self.over.set()


class Evaluations:
    """What a pack's players play.

    policy     the pack's, trained on while copies of it are evaluated
    mean, std  as in `actor`
    seeds      the members'
    run_seeded as in `episode_seeds`

    Raises UserError for a policy that cannot be sent to another process.
    """

    def __init__(
        self,
        players: Players,
        policy: nn.Module,
        mean: np.ndarray,
        std: np.ndarray,
        seeds: Sequence[int],
        episodes: int,
        run_seeded: bool,
    ) -> None:
        self.flight: Flight | None = None
        self._players, self._policy = players, policy
        self._mean, self._std = mean, std
        self._seeds, self._episodes, self._run_seeded = seeds, episodes, run_seeded
        self._act(policy_weights(policy, 0))

    def begin(self, update: int, places: Sequence[int], keep_observations: bool = False) -> None:
        """Evaluate these members' policies as they are now, after `update`."""
        weights = {place: policy_weights(self._policy, place) for place in places}
        self._submit(Flight(update, weights, {place: [] for place in places}), keep_observations)

    def take_up(self, states: dict[int, dict[str, Any]]) -> None:
        """Play again what was under way when the members' checkpoints were written, `states` by place."""
        if states:
            (update,) = {state["update"] for state in states.values()}
            weights = {place: state["weights"] for place, state in states.items()}
            self._submit(Flight(update, weights, {place: state["held"] for place, state in states.items()}))

    def state(self, place: int) -> dict[str, Any] | None:
        """What a checkpoint must hold of a member's evaluation under way: tensors, numbers and texts."""
        flight = self.flight
        if flight is None or place not in flight.weights:
            return None
        return {"update": flight.update, "weights": flight.weights[place], "held": flight.held[place]}

    def hold(self, place: int, record: Record) -> bool:
        """Keep a record back until the evaluation before it is written; False where none is under way."""
        if self.flight is None or place not in self.flight.held:
            return False
        self.flight.held[place].append(record)
        return True

    def landed(self, patience: Callable[[], bool]) -> tuple[Flight, dict[int, Episodes]] | None:
        """The evaluation under way with its episodes by place, once they are played; it is then under way no more.

        None where there is none, or before it is done: that is waited for while `patience()`. Raises what a
        player raised.
        """
        self._players.check_start()
        flight = self.flight
        if flight is None:
            return None
        while not flight.over.is_set() and patience():
            flight.over.wait(LOOK)
            flight.tell_if_long()
        if not flight.over.is_set():
            return None
        try:
            for future in flight.futures:  # whatever failed comes first: the others may not be done
                if future.done():
                    self._players.result(future)
        except EpisodeError as error:
            raise UserError(
                f"the evaluation after update {flight.update} failed: {error}. The run keeps its checkpoints; the same "
                "command goes on from the last one"
            ) from error
        self.flight = None
        return flight, {
            place: joined([self._players.result(part) for part in parts]) for place, parts in flight.parts.items()
        }

    def _submit(self, flight: Flight, keep_observations: bool = False) -> None:
        parts = {}
        for place, weights in flight.weights.items():
            seeds = episode_seeds(self._seeds[place], flight.update, self._episodes, self._run_seeded)
            parts[place] = self._players.play(self._act(weights), seeds, keep_observations)
        flight.watch(parts)
        self.flight = flight

    def _act(self, weights: Weights) -> bytes:
        act = actor(self._policy, weights, self._mean, self._std)
        return pickled(act, f"the policy {type(self._policy).__name__}")
