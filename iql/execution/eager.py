"""Updates with autograd, one after the other: works for every algorithm, network and optimizer."""

from __future__ import annotations

from iql.data.sampling import Batches
from iql.learner.learner import Learner, Metrics


class Eager:
    """All members at once, on torch's threads or a GPU."""

    name = "plain"

    def __init__(self, learner: Learner, threads: int):
        self.threads = threads
        self._learner = learner

    def refresh(self) -> None:
        """Nothing is derived from the weights."""

    def advance(self, batches: Batches, count: int, measure: bool = False) -> Metrics | None:
        """`count` updates of every member; returns the last one's metrics, [M] each, if `measure`."""
        learner, metrics = self._learner, None
        for left in reversed(range(count)):
            number = learner.update_count
            metrics = learner.update(batches.at(number), number, learner.phase(number), measure and left == 0)
            learner.update_count += 1
        return metrics
