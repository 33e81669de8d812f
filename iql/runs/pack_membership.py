"""The packs in which runs resume: those in which they began, so that numbers equal those of an undisturbed pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from iql.runs import checkpoints
from iql.runs.run import Run


def continued(chosen: Sequence[Run], known: Mapping[str, Run], idle: Callable[[str], bool]) -> list[list[Run]]:
    """The packs in which those of the chosen runs that began earlier resume.

    A pack resumes whole if each of its members is either chosen or `idle` (by id), which means that it only keeps its
    place in the pack. A member that was killed before its manifest was written begins with the others. If a member is
    unavailable, was begun again or has since been trained without the others, the chosen members resume without it
    and lose nothing.

    known: the available runs, by id.
    """
    began = {run.id: tuple(run.attempts[-1]["pack"]) for run in chosen if run.attempts}
    fresh = {run.id for run in chosen} - began.keys()
    packs = []
    for pack in dict.fromkeys(began.values()):
        own = [run for run in pack if began.get(run) == pack]
        unsaved = not any(checkpoints.updates_in(known[run].checkpoints) for run in own)
        available = [run in own or (run in known and idle(run)) or (run in fresh and unsaved) for run in pack]
        packs.append([known[run] for run in (pack if all(available) else own)])
    return packs
