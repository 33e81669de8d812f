"""The protocol that a score was measured under, short names for several of them, and how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from iql.envs.d4rl.mujoco_versions import described


@dataclass(frozen=True)
class Protocol:
    """What two scores must share to be in one table.

    measure   "normalised" or "return"
    physics   the simulator's profile, mujoco its version ("" where there is none)
    exact     whether the d4rl profile was verified against D4RL's dynamics on that version; None for another profile
    headline  last10 or final
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
    steps: int = 0

    def __str__(self) -> str:
        what = "return" if self.measure == "return" else "normalised score"
        if self.every is None:
            return f"{self.updates:,} updates, not evaluated"
        which = {"last10": "mean of the last ten evaluations", "final": "final evaluation"}[self.headline]
        simulator = described(self.physics, self.mujoco, self.exact)
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
