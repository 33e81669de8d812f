"""The protocol that a score was measured under, short names for several of them, and how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from iql.envs.d4rl.mujoco_versions import described

NO_SIMULATOR = "no"
"""The physics of runs without one."""

MEASURES = {"normalised": "normalised score", "return": "return", "success": "success in %"}
"""What a score is."""

HEADLINES = {
    "last10": "mean of the last ten evaluations",
    "last3": "mean of the last three evaluations",
    "final": "final evaluation",
}

TIMINGS = {
    "post": ", success of the state after a step (success_timing post)",
    "pre": ", success of the state before a step (success_timing pre)",
}


@dataclass(frozen=True)
class Protocol:
    """What two scores must share to be in one table.

    measure   "normalised", "return" or "success" (per cent of the episodes)
    physics   the simulator's profile, mujoco its version ("" where there is none)
    exact     whether the d4rl profile was verified against D4RL's dynamics on that version; None for another profile
    success_timing  whether success is of the state after a step (post) or before it (pre); "" where it is no choice
    headline  last10, last3 or final
    every     updates between two evaluations, episodes of each; None without an evaluation
    steps     in the environment after the offline updates, between which are then `every` steps; 0 without finetuning
    """

    measure: str
    updates: int
    headline: str
    every: int | None
    episodes: int
    physics: str
    mujoco: str
    exact: bool | None = None
    success_timing: str = ""
    steps: int = 0

    @property
    def published(self) -> bool:
        """Whether published scores were measured in the same way, but for the evaluations, which stand beside them."""
        if self.measure == "success":
            return self.success_timing == "post"
        return self.measure == "normalised" and self.physics in ("d4rl", "legacy")

    @property
    def has_means(self) -> bool:
        """Whether scores of several tasks have a mean: returns have none."""
        return self.measure != "return"

    def __str__(self) -> str:
        what = MEASURES[self.measure]
        if self.every is None:
            return f"{self.updates:,} updates, not evaluated"
        which = HEADLINES[self.headline]
        simulator = described(self.physics, self.mujoco, self.exact)
        simulator += TIMINGS.get(self.success_timing, "")
        unit, end = ("steps", f" updates, {self.steps:,} steps online among them") if self.steps else ("updates", "")
        evaluation = f"{which} of {self.episodes} episodes every {self.every:,} {unit}, after {self.updates:,}{end}"
        return f"{what}, {evaluation}; {simulator}"


def letters(count: int) -> list[str]:
    """The first `count` of A, B, …, Z, AA, AB, …"""
    return [_letter(number) for number in range(count)]


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def differences(protocols: Mapping[str, Protocol]) -> dict[str, str]:
    """For each protocol, by its letter, the fields in which the protocols differ, with their values."""
    names = [field.name for field in fields(Protocol)]
    differing = [name for name in names if len({getattr(each, name) for each in protocols.values()}) > 1]
    return {
        letter: ", ".join(f"{name} {_text(getattr(protocol, name))}" for name in differing)
        for letter, protocol in protocols.items()
    }


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else f"{value:,}" if isinstance(value, int) else str(value)
