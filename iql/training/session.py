"""Training as a command or a sweep's job asks for it: runs that are done are skipped, the others trained in packs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from iql.config.schema import constructor_arguments
from iql.config.settings import Settings, check_data
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.execution import paths
from iql.execution.devices import check_memory, choose, cores, memory_may_run_out, set_precision
from iql.reporting import run_figures
from iql.runs.footprint import member_bytes, widths
from iql.runs.run import Run
from iql.runs.saved_networks import identity, start_file
from iql.tasks.task import Task
from iql.training.build import build_learner, load_starts
from iql.training.loop import Training
from iql.training.resume import code_path, packs_of

log = logging.getLogger("iql")


def train(members: Sequence[Settings], defaults: Settings, overrides: Sequence[list[str]]) -> float | None:
    """Train the members of a pack side by side, skipping those that are done.

    defaults: the settings of the same task without overrides, which runs are named by. overrides: those behind each
    member. Returns the mean over the members of the mean score of their last ten evaluations, None without an
    evaluation. Raises UserError, Stopped on a signal, LeaseLost.
    """
    task = instantiate(constructor_arguments("env", members[0]["env"]), _convert_="all")
    data = task.transitions()
    check_data(members[0], getattr(task, "discrete", False))
    starts = [start_file(settings) for settings in members]
    runs = [
        Run(settings, defaults, identity(task.digest, start), own)
        for settings, start, own in zip(members, starts, overrides, strict=True)
    ]
    for run in runs:
        if run.summary is not None:
            log.info("done already: %s", run.directory)
            run.delete_leftovers()
    for pack in packs_of(runs):
        _train_pack(pack, [starts[runs.index(run)] for run in pack], task, data)
    finished = [run.directory for run in runs if run.summary is not None]
    for directory in filter(run_figures.figures_missing, finished):  # killed before they were drawn, or a full disk
        run_figures.draw(directory)
    return _conclude(runs, task)


def _train_pack(runs: list[Run], starts: list[Path | None], task: Task, data: Transitions) -> None:
    """Build the learner of a pack from its settings and what its members start from, and run it to its end."""
    settings = [run.settings for run in runs]
    shared = settings[0]
    device, threads, path = choose(shared["device"]), cores(shared["threads"]), code_path(runs)
    set_precision(shared["precision"], device)
    # The data lies in memory already; on CUDA it comes beside the pack.
    check_memory(
        member_bytes(shared, widths(shared, task)),
        data.nbytes if device.type == "cuda" else 0,
        len(runs),
        device,
    )
    with memory_may_run_out(device):
        learner = build_learner(settings, task.observation_dim, task.action_dim, device)
        load_starts(learner, starts, data)
        execution = paths.choose(learner, shared["batch_size"], path, threads)
        trackers = [[instantiate(node) for node in each["tracker"].values()] for each in settings]
        Training(
            runs=runs,
            trackers=trackers,
            learner=learner,
            execution=execution,
            task=task,
            data=data,
            draw=run_figures.draw,
        ).run()


def _conclude(runs: list[Run], task: Task) -> float | None:
    """Print the results of the finished runs; returns the mean of their last-ten scores, None without an evaluation."""
    summaries = [(run, run.summary) for run in runs]
    for run, summary in summaries:
        if summary is None:
            print(f"not finished: {run.directory}")
            continue
        own = ", data of your own" if summary["data"].get("custom") else ""
        speed = f"{summary['updates_per_second']:.0f} updates/s, {summary['wall_seconds']:.0f} s"
        print(f"{run.label}: {outcome(summary)}{own}, {speed}")
        print(f"  {run.directory}")
    for line in getattr(task, "baselines", list)():
        print(line)
    scores = [summary["last10_score"] for _, summary in summaries if summary is not None]
    if len(scores) < len(runs):
        raise UserError("not every run finished; see above")
    return None if None in scores else sum(scores) / len(scores)


def outcome(summary: dict[str, Any]) -> str:
    """A finished run's score, or without an evaluation its losses, in a few words."""
    if not summary["evaluations"]:
        losses = ", ".join(f"{name} {loss:.3g}" for name, loss in summary["losses"].items() if loss is not None)
        return f"not evaluated, losses at the end: {losses or 'not logged'}"
    plain = summary["data"].get("scored") == "return"
    kind = {"return": "return", "success": "success in %"}.get(summary["data"].get("scored"), "score")
    shown = f"{kind} {_number(summary['score'])} ({summary['headline']}"
    shown += f"{', no references for a score' if plain else ''}), best {_number(summary['best_score'])}"
    if finetune := summary.get("finetune"):
        shown = f"{_number(finetune['offline_score'])} → {shown} after {finetune['steps']:,} steps online"
        shown += f", regret {finetune['regret']:.2f}" if finetune["regret"] is not None else ""
    reached = f", goal reached in {summary['success_rate']:.0%}" if summary["success_rate"] is not None else ""
    return f"{shown}{reached}, {summary['episodes']} episodes an evaluation"


def _number(score: float | None) -> str:
    return "not finite" if score is None else f"{score:.1f}"
