"""How a pack begins or continues: which runs train together, on which code path, from which checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from iql.config.phases import Phases
from iql.errors import UserError
from iql.runs import checkpoints
from iql.runs.pack_membership import continued
from iql.runs.provenance import differences, this_attempt
from iql.runs.run import Run
from iql.system.atomic_files import remove_temporaries
from iql.tracking import RunInfo
from iql.training.pack import Member, Pack, Position

log = logging.getLogger(__name__)

_ADVICE = "Put a sound one back, or delete the runs' directories to train them anew"


def packs_of(runs: Sequence[Run]) -> list[list[Run]]:
    """The unfinished runs as the packs in which they are trained.

    Runs that began as one pack continue as it (see `continued`), its finished ones idle; runs that have checkpoints
    and no pack continue alone; the new ones make one pack.
    """
    by_id = {run.id: run for run in runs}
    unfinished = [run for run in runs if run.summary is None]
    together = continued(unfinished, by_id, lambda run: by_id[run].summary is not None)
    left = [run for run in unfinished if not any(run in pack for pack in together)]
    alone = [run for run in left if checkpoints.updates_in(run.checkpoints)]
    fresh = [run for run in left if run not in alone]
    return together + [[run] for run in alone] + [fresh] * bool(fresh)


def code_path(runs: Sequence[Run]) -> str:
    """The code path of a pack: the one on which its unfinished runs began, else what the settings say.

    Raises UserError where the settings ask for another one: a run never changes its code path.
    """
    asked = runs[0].settings["code_path"]
    began = {
        run.attempts[-1]["code_path"] for run in runs if run.summary is None and checkpoints.updates_in(run.checkpoints)
    }
    kept = {"fused" if path == "graphs" else path for path in began}
    if not kept:
        return asked
    if len(kept) > 1 or asked not in ("auto", *kept):
        raise UserError(
            f"code_path={asked}: the run began as {' and '.join(sorted(kept))}, and a run never changes its path; "
            "leave code_path out, or choose another sweep.name= to train it anew"
        )
    return kept.pop()


class Resumed(NamedTuple):
    """Where a pack goes on; of its members, by place, the pending evaluations and the states of their exploration."""

    position: Position
    evaluations: dict[int, dict[str, Any]]
    online: dict[int, dict[str, Any]]


def resume(pack: Pack, facts: dict[str, Any]) -> Resumed:
    """Load the newest checkpoint that all live members have into the learner, or leave it at update 0.

    Adds this process to each live run's manifest and starts its trackers. Raises UserError if damaged or lost
    checkpoints leave none in common: nothing is restarted without a word.
    """
    states, damaged = {}, []
    for member in pack.live:
        states[member.place], lines = checkpoints.read_undamaged(
            member.run.checkpoints, Phases.of(member.run.settings).total
        )
        damaged += lines
    _set_failed_aside(pack)
    update = _newest_in_common({member.run: set(states[member.place]) for member in pack.live}, damaged)
    for line in damaged:
        log.warning("%s; going on from %s", line, f"update {update}" if update else "the start")
    for member in pack.live:  # all are checked before anything of one is changed
        _load(pack, member, states[member.place].get(update))
    # What is evaluated of a run that has no offline phase begins with update 0.
    position = Position(evaluated=0 if Phases.of(pack.members[0].run.settings).offline else -1)
    evaluations, online = {}, {}
    for member in pack.members:
        if member.idle:
            _load_final_networks(pack, member)
            continue
        state = states[member.place].get(update)
        _begin(pack, member, state, update, facts)
        if state is not None:
            position = Position(**state["position"])
            if state.get("evaluation") is not None:
                evaluations[member.place] = state["evaluation"]
            if state.get("online") is not None:
                online[member.place] = state["online"]
    pack.learner.update_count = update
    pack.execution.refresh()
    return Resumed(position, evaluations, online)


def _set_failed_aside(pack: Pack) -> None:
    # A failed member must not hold the others back; when only failed ones are left, they are tried again.
    sound = [member for member in pack.live if member.run.failure is None]
    if sound:
        for member in pack.live:
            member.idle = member not in sound


def _newest_in_common(kept: dict[Run, set[int]], damaged: list[str]) -> int:
    """The newest update that all runs have a checkpoint of; 0 if some were stopped before their first."""
    common = set.intersection(*kept.values())
    lost = [run for run, updates in kept.items() if not updates and run.was_saved]
    if common or not (lost or all(kept.values())):
        return max(common, default=0)
    if len(kept) == 1:
        raise UserError(f"{lost[0].checkpoints}: no checkpoint is left, though there were some. {_ADVICE}")
    have = [f"{run.id}: {', '.join(map(str, sorted(updates))) or 'none'}" for run, updates in kept.items()]
    lines = "; ".join([*have, *damaged])
    raise UserError(f"the pack's runs have no sound checkpoint in common: {lines}. {_ADVICE}")


def _load(pack: Pack, member: Member, state: dict[str, Any] | None) -> None:
    """Load a member's state into the learner. Raises UserError where it or its records are not this run's."""
    run = member.run
    if state is None:
        run.metrics.check(0, None)
        return
    try:
        policy = state.get("policy") or {}
        for name, own in (("seed", run.seed), ("task", run.settings["env"]["name"])):
            if policy.get(name, own) != own:
                raise ValueError(f"its {name} is {policy[name]}, not {own}")
        Position(**state["position"])
        pending = state.get("evaluation")
        if pending is not None and not {"update", "weights", "held"} <= set(pending):
            raise ValueError("its pending evaluation is none")
        pack.learner.load(member.place, state["learner"])
        covered = int(state["metrics_bytes"])
        online = state.get("online")
        if online is not None and not {"steps", "episode", "length", "taken_back", "bytes", "sha256"} <= set(online):
            raise ValueError("its state of exploration is none")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        path = checkpoints.path_of(run.checkpoints, state["learner"]["update"])
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a checkpoint of this run ({type(error).__name__}: {reason}). {_ADVICE}"
        ) from error
    run.metrics.check(covered, state.get("metrics_sha256"))
    if online is not None:
        run.online_rows.check(online["bytes"], online["sha256"])


def _load_final_networks(pack: Pack, member: Member) -> None:
    # Nothing of an idle member is written, but its policy is evaluated with the others: trained weights do not drive
    # a simulator out of its range.
    try:
        saved = checkpoints.read(member.run.directory / "networks.ckpt")
        pack.learner.load_networks(member.place, saved["networks"])
    except (OSError, checkpoints.Damaged, KeyError, TypeError, ValueError):
        return


def _begin(pack: Pack, member: Member, state: dict[str, Any] | None, update: int, facts: dict[str, Any]) -> None:
    """Cut the metrics back to the checkpoint, add this process to the manifest, start the trackers."""
    run = member.run
    attempt = this_attempt(
        [other.run.id for other in pack.members],
        update,
        str(pack.learner.device),
        pack.execution.threads,
        pack.execution.name,
        torch.backends.cpu.get_cpu_capability(),
    )
    run.online_rows.cut(((state or {}).get("online") or {}).get("bytes", 0))
    if state is None:
        run.metrics.cut(0)
    else:
        for difference in differences(run.attempts[-1], attempt) if run.attempts else ():
            log.warning("%s: %s; the last bits may differ from an undisturbed run's", run.id, difference)
        run.metrics.cut(state["metrics_bytes"])
    (run.directory / "failed.json").unlink(missing_ok=True)
    remove_temporaries(run.directory)
    tracking_id = run.begin_attempt(attempt, facts)
    info = RunInfo(
        directory=run.directory,
        id=tracking_id,
        name=run.id,
        group=run.group,
        job_type=run.env,
        tags=(run.env, run.settings["sweep"]["name"]),
        config=run.tracked_settings,
        metrics=run.metrics.path,
        resumed=update > 0,
    )
    for tracker in member.trackers:
        tracker.start(info)
