"""Which runs train in one pack again: those that began as one, so that numbers stay those of an undisturbed pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from iql import checkpoints
from iql.runs import Run


def continued(chosen: Sequence[Run], known: Mapping[str, Run], idle: Callable[[str], bool]) -> list[list[Run]]:
    """The packs in which those of the chosen runs that began earlier go on.

    A pack goes on whole where all of it is at hand: chosen, or one that only keeps its place (`idle`, by id). A member
    that was killed before its manifest was written begins with the others. Where one is not at hand, was begun anew
    or trained without the rest since, those chosen go on together and leave it out: its loss costs them nothing.

    known: the runs at hand, by id.
    """
    began = {run.id: tuple(run.lives[-1]["pack"]) for run in chosen if run.lives}
    fresh = {run.id for run in chosen} - began.keys()
    packs = []
    for pack in dict.fromkeys(began.values()):
        own = [run for run in pack if began.get(run) == pack]
        unsaved = not any(checkpoints.updates_in(known[run].checkpoints) for run in own)
        at_hand = [run in own or (run in known and idle(run)) or (run in fresh and unsaved) for run in pack]
        packs.append([known[run] for run in (pack if all(at_hand) else own)])
    return packs
