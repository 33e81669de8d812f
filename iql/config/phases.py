"""The offline and the online phase of a run, as numbers of updates and of environment steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Phases:
    """`offline` updates on the data; then `steps` steps in the environment with updates between them.

    steps             0 for a run that is not finetuned
    start_after       steps before the first online update
    updates_per_step  updates after each step that is not one of these
    every             steps between two evaluations of the online phase

    Everything follows from the number of updates that are done: the steps before update number u (counted from 0) are
    made just before it. So a checkpoint needs no other counter.
    """

    offline: int
    steps: int = 0
    start_after: int = 0
    updates_per_step: int = 1
    every: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Phases:
        """The phases of a run's settings, also of one from before there was finetuning."""
        finetune = settings.get("finetune")
        if not finetune:
            return cls(settings["updates"])
        return cls(
            offline=settings["updates"],
            steps=finetune["steps"],
            start_after=finetune["start_after"],
            updates_per_step=finetune["updates_per_step"],
            every=finetune["evaluate_every"],
        )

    @property
    def total(self) -> int:
        """The updates of both phases."""
        return self.offline + (self.steps - self.start_after) * self.updates_per_step if self.steps else self.offline

    def online(self, update: int) -> bool:
        """Whether update number `update` belongs to the online phase."""
        return self.steps > 0 and update >= self.offline

    def steps_before(self, update: int) -> int:
        """The environment steps that are made before update number `update`."""
        if not self.online(update):
            return 0
        return self.start_after + (update - self.offline) // self.updates_per_step + 1

    def steps_after(self, updates: int) -> int:
        """The environment steps that are made when so many updates are done."""
        return self.steps_before(updates - 1) if updates > self.offline else 0

    def evaluation_due(self, updates: int) -> bool:
        """Whether the online phase's policy is evaluated after so many updates: at every `every` steps, and last."""
        return updates > self.offline and self.next_evaluation(updates - 1) == updates

    def next_evaluation(self, updates: int) -> int:
        """The number of updates, above `updates`, after which the online phase's next evaluation is due."""
        following = self.start_after + max(updates - self.offline, 0) // self.updates_per_step + 1
        step = -(-following // self.every) * self.every
        return min(self.offline + (step - self.start_after) * self.updates_per_step, self.total)
