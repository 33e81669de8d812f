"""Train Implicit Q-Learning: compose a configuration, build its objects, train. The same command resumes.

python train.py
python train.py env=hopper-medium-v2 algorithm.tau=0.7 'seed=[0,1,2]'
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main(): Ctrl-C amid the imports ends without a traceback

import logging
import os
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from iql import config as configuration
from iql.complaints import problem
from iql.config import Settings
from iql.errors import UserError
from iql.leases import LeaseLost
from iql.schema import constructor_arguments
from iql.signals import Stopped, hand_over
from iql.sizes import member_bytes, widths

log = logging.getLogger("iql")

SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def compose_and_train(config: DictConfig) -> float | None:
    """One command line: validate first, import what is slow afterwards."""
    try:
        members = configuration.read(config)
        choices = HydraConfig.get().runtime.choices
        defaults = configuration.read(hydra.compose("config", [f"env={choices['env']}"]))[0]
        overrides = list(HydraConfig.get().overrides.task)
        return train(members, defaults, [overrides] * len(members))
    except Exception as error:
        raise SystemExit(exit_code(error)) from error


def job(members: list[Settings], defaults: Settings, overrides: list[list[str]]) -> None:
    """Train as a job of a sweep (iql.launching.jobs): the log shows what a terminal would, the exit code follows."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        train(members, defaults, overrides)
    except Exception as error:
        raise SystemExit(exit_code(error)) from error


def train(members: list[Settings], defaults: Settings, overrides: list[list[str]]) -> float | None:
    """Train the members of a pack side by side, skipping those that are done; overrides: the words behind each.

    Returns the mean over the members of the mean score of their last ten evaluations, None without an evaluation.
    """
    shared = members[0]
    task = instantiate(constructor_arguments("env", shared["env"]), _convert_="all")
    data = task.transitions()

    from iql.packs import packs_of
    from iql.reporting import figures
    from iql.runs import Run

    runs = [Run(settings, defaults, task.digest, words) for settings, words in zip(members, overrides, strict=True)]
    for run in runs:
        if run.summary is not None:
            log.info("done already: %s", run.directory)
            run.drop_leftovers()
    for pack in packs_of(runs):
        train_pack(pack, task, data)
    for run in runs:
        if run.summary is not None and figures.undrawn(run.directory):  # killed before, or the disk was full
            figures.draw(run.directory)
    return conclude(runs, task)


def train_pack(runs: list[Any], task: Any, data: Any) -> None:
    """Build the learner of a pack from its settings, and run it to its end."""
    import torch

    from iql.devices import check_memory, choose, cores, set_precision
    from iql.networks import build
    from iql.packs import code_path
    from iql.reporting import figures
    from iql.training import Training

    settings = [run.settings for run in runs]
    shared = settings[0]
    device, threads, path = choose(shared["device"]), cores(shared["threads"]), code_path(runs)
    set_precision(shared["precision"], device)
    torch.set_num_threads(1)  # initial weights must not depend on how many there are
    seeds = [run.seed for run in runs]
    dims = {"observation_dim": task.observation_dim}
    sizes = {"value": dims, "q": {**dims, "action_dim": task.action_dim}}
    sizes["policy"] = sizes["q"]
    names = {"value": ["value"], "q": ["q1", "q2"], "policy": ["policy"]}

    def networks(seeds: list[int]) -> dict[str, torch.nn.Module]:
        factories = {part: instantiate(shared["network"][part], _partial_=True, _convert_="all") for part in names}
        return {part: build(factory, names[part], seeds, **sizes[part]) for part, factory in factories.items()}

    # The data lies in memory already; on CUDA it comes beside the pack.
    check_memory(
        member_bytes(**widths(shared["network"], task), batch_size=shared["batch_size"]),
        data.nbytes if device.type == "cuda" else 0,
        len(runs),
        device,
    )

    optimizer = {key: value for key, value in shared["optimizer"].items() if key != "lr"}
    algorithm = constructor_arguments("algorithm", shared["algorithm"])
    varying = {
        key: [each["algorithm"][key] for each in settings]
        for key in ("tau", "beta", "discount", "polyak", "advantage_cap")
        if key in algorithm
    }
    learner = instantiate(
        {key: value for key, value in algorithm.items() if key not in varying},
        _partial_=True,
        _convert_="all",
    )(
        **networks(seeds),
        optimizer=instantiate(optimizer, _partial_=True, _convert_="all"),
        seeds=seeds,
        lr=[each["optimizer"]["lr"] for each in settings],
        updates=shared["updates"],
        device=device,
        precision=shared["precision"],
        **varying,
    )
    learner.take_path(path, shared["batch_size"], threads)
    trackers = [[instantiate(node) for node in each["tracker"].values()] for each in settings]
    Training(runs=runs, trackers=trackers, learner=learner, task=task, data=data, draw=figures.draw).run()


def conclude(runs: list[Any], task: Any) -> float | None:
    """Print what the finished runs came to; returns the mean of their last-ten scores, None without an evaluation."""
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
    shown = f"{'return' if plain else 'score'} {_number(summary['score'])} ({summary['headline']}"
    shown += f"{', no references for a score' if plain else ''}), best {_number(summary['best_score'])}"
    reached = f", goal reached in {summary['success_rate']:.0%}" if summary["success_rate"] is not None else ""
    return f"{shown}{reached}, {summary['episodes']} episodes an evaluation"


def _number(score: float | None) -> str:
    return "not finite" if score is None else f"{score:.1f}"


def main() -> None:
    """Run the command line; every error that a user can mend is one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing its own many lines
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        compose_and_train()
    except KeyboardInterrupt:
        print("train.py: interrupted before training began; nothing is lost", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sys.exit(exit_code(error))


def exit_code(error: BaseException) -> int:
    """Print the one line for an error and return the exit code; what nobody foresaw is raised again.

    With HYDRA_FULL_ERROR=1 in the user's environment every error comes with its traceback.
    """
    if SHOW_TRACEBACKS and not isinstance(error, Stopped):
        raise error
    if line := problem(error):
        print(f"train.py: {line}", file=sys.stderr)
        return 1
    if isinstance(error, Stopped):
        print(f"train.py: {error}; the same command goes on from there", file=sys.stderr)
        return hand_over(error.number)
    if isinstance(error, LeaseLost):
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    raise error


if __name__ == "__main__":
    main()
