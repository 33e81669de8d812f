"""Evaluate a trained policy: more episodes than during training, a video, a picture, a JSON file.

python scripts/evaluate.py RUN                                   # 100 episodes: score with its 95 % interval
python scripts/evaluate.py RUN --episodes 20 --video rollout.mp4
python scripts/evaluate.py RUN --picture paths.png               # mazes: the trajectories, over V
python scripts/evaluate.py RUN --save scores.json
python scripts/evaluate.py RUN --episodes 1000 --keep            # kept in the run's directory, for report.py --budget

RUN is a run's directory; of an unfinished run the newest checkpoint is taken. Episodes are played with the mean
action (of discrete ones the likeliest) and seeds of their own: the same --seed gives every policy the same episodes.
"""

from __future__ import annotations

import argparse
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Videos are made in this process, whose products must equal the rollout workers' to the last bit: on one thread.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np

from iql.commands.exit_codes import exit_code_of
from iql.commands.usage import usage
from iql.envs.d4rl.mujoco_versions import described
from iql.errors import UserError
from iql.evaluation.numpy_policies import NumpyCategorical
from iql.evaluation.rollout import Episodes
from iql.policies.video import choose_backend, film
from iql.reporting import statistics
from iql.reporting.protocols import MEASURES
from iql.runs import kept_episodes
from iql.runs.saved_networks import Trained, read_trained
from iql.system.atomic_files import write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=usage(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="(default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default 0)")
    parser.add_argument(
        "--workers", type=int, help="rollout workers, processes that run episodes (default: one a core)"
    )
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="make a video of the first episodes")
    parser.add_argument("--filmed", type=int, default=3, metavar="N", help="how many, at most 5 (default 3)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="in mazes: the trajectories, over V")
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="every episode's return, length and seed")
    parser.add_argument("--keep", action="store_true", help="keep them in the directory of RUN, which must be done")
    parser.add_argument("--trust", action="store_true", help="run classes that the run names and iql does not have")
    options = parser.parse_args()
    return exit_code_of(lambda: evaluate(options))


def check(options: argparse.Namespace) -> None:
    """Raises UserError for invalid options, before any episode is run."""
    for name, least in (("episodes", 1), ("workers", 1), ("filmed", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    for name, suffix in (("video", ".mp4"), ("picture", ".png"), ("save", ".json")):
        file = getattr(options, name)
        if file is not None and file.suffix != suffix:
            raise UserError(f"--{name} {file}: must end in {suffix}")
        if file is not None and not file.parent.is_dir():
            raise UserError(f"--{name} {file}: there is no folder {file.parent}; make it first")


def check_keeping(run: Path, episodes: int) -> None:
    """Raises UserError unless the run is done and keeps no more episodes yet."""
    if not (run / "summary.json").is_file():
        raise UserError(f"--keep: {run} is not the directory of a finished run; let it train to its end first")
    try:
        before = kept_episodes.read(run)
    except UserError:  # damaged, or of networks that are there no more: replaced
        return
    if before is not None and len(before.scores) > episodes:
        raise UserError(
            f"--keep: {run / kept_episodes.FILE} has {len(before.scores)} episodes, more than --episodes {episodes}; "
            "delete it first, or play more"
        )


@dataclass(frozen=True)
class Outcome:
    """The episodes and their results. scores, reached (None outside mazes) [E]; facts: of the simulator.

    action: which one was played, the mean or the likeliest.
    """

    trained: Trained
    action: str
    task: Any
    seed: int
    seeds: list[int]
    episodes: Episodes
    scores: np.ndarray
    reached: np.ndarray | None
    facts: dict[str, Any]


def evaluate(options: argparse.Namespace) -> None:
    """Run the episodes, print the results, and write the files that were asked for. Raises UserError."""
    check(options)
    trained = read_trained(options.run)
    if trained.manifest is None:
        raise UserError(f"{options.run}: has no manifest.json beside it, which names its task; give a run's directory")
    if options.keep:
        check_keeping(options.run, options.episodes)
    if options.video is not None:
        choose_backend()  # before mujoco is imported, with the task

    from iql.config.task_configs import recorded_task
    from iql.policies.rollout import act_of, play, seeds_of
    from iql.training.summary import kept_of, successes

    task = recorded_task(trained.manifest, str(options.run), options.trust)
    act = act_of(trained, options.trust)
    if options.picture is not None and task.maze is None:
        raise UserError(f"--picture: {task.name} is no maze; --video FILE.mp4 films it")
    seeds = seeds_of(trained, task, options.seed, options.episodes)
    if options.video is not None:  # first, so that a missing encoder is reported before the episodes are run
        filmed = film(task, act, seeds, options.filmed, options.video)
    keep = task.maze is not None and (options.picture is not None or task.maze.dense)
    episodes = play(act, task, seeds, options.workers, keep)
    if options.video is not None and not np.array_equal(filmed, episodes.returns[: len(filmed)]):
        played = episodes.returns[: len(filmed)]
        print(f"the episodes of the video have other returns ({filmed}, not {played}): their seeds have no effect")
    scores = task.score(episodes.returns)
    reached = successes(task.maze, episodes) if task.maze is not None else None
    facts = task.simulator_facts() if hasattr(task, "simulator_facts") else task.facts()
    action = "likeliest" if isinstance(act, NumpyCategorical) else "mean"
    outcome = Outcome(trained, action, task, options.seed, seeds, episodes, scores, reached, facts)
    show(outcome)
    if options.picture is not None:
        picture(options.picture, outcome, options.trust)
    if options.save is not None:
        save(options.save, outcome)
    if options.keep:
        kept_episodes.write(options.run, kept_of(task, episodes, options.seed))
    kept = options.run / kept_episodes.FILE if options.keep else None
    for file in (options.video, options.picture, options.save, kept):
        if file is not None:
            print(f"written: {file}")


def show(outcome: Outcome) -> None:
    """Print the score with its interval and how it was measured."""
    trained, scores, episodes, facts = outcome.trained, outcome.scores, outcome.episodes, outcome.facts
    simulator = described(str(facts.get("physics")), facts.get("mujoco"), facts.get("exact_physics"))
    print(f"{trained.policy['task']}, seed {trained.policy['seed']}, update {trained.update:,}")
    print(f"{len(scores)} episodes with the {outcome.action} action, seed {outcome.seed}; {simulator}")
    scored = (trained.manifest or {})["facts"].get("scored")
    measure = MEASURES[scored] if scored in ("return", "success") else MEASURES["normalised"]
    print(f"{measure:<18} {scores.mean():.1f} {interval(scores)}  (± {scores.std():.1f} over episodes)")
    if measure == MEASURES["normalised"]:
        returns = episodes.returns
        print(f"{'return':<18} {returns.mean():.2f} {interval(returns, 2)}  {returns.min():.2f} to {returns.max():.2f}")
    if outcome.reached is not None:
        bounds = statistics.share_interval(outcome.reached)
        shown = "" if bounds is None else f" [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]"
        print(f"{'goal reached':<18} {100 * outcome.reached.mean():.0f} %{shown}")
    print(f"{'length':<18} {episodes.lengths.mean():.0f}, {episodes.lengths.min()} to {episodes.lengths.max()}")
    if len(scores) == 1:
        print("one episode, so no interval")
    else:
        print("In brackets: 95 % bootstrap interval of the mean over episodes; other training seeds vary more.")


def interval(values: np.ndarray, digits: int = 1) -> str:
    """[low, high] of the mean; nothing for one value."""
    bounds = statistics.mean_interval(values)
    return "" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def picture(path: Path, outcome: Outcome, trust: bool) -> None:
    """Draw the trajectories over V."""
    from iql.policies.rollout import values_of
    from iql.reporting.run_figures import draw_value_map
    from iql.training.summary import value_map

    trained = outcome.trained
    title = f"{trained.policy['task']}  ·  seed {trained.policy['seed']}  ·  update {trained.update:,}"
    content = value_map(outcome.task.maze, values_of(trained, trust), outcome.episodes)
    draw_value_map(io.BytesIO(content), title, path)


def save(path: Path, outcome: Outcome) -> None:
    """Everything that was measured, as JSON."""
    bounds = statistics.mean_interval(outcome.scores)
    content = {
        "source": str(outcome.trained.source.resolve()),
        "task": outcome.trained.policy["task"],
        "update": outcome.trained.update,
        "action": outcome.action,
        "episodes": len(outcome.scores),
        "seed": outcome.seed,
        "physics": outcome.facts.get("physics"),
        "mujoco": outcome.facts.get("mujoco"),
        "exact_physics": outcome.facts.get("exact_physics"),
        "score": float(outcome.scores.mean()),
        "score_interval": None if bounds is None else list(bounds),
        "score_std": float(outcome.scores.std()),
        "return_mean": float(outcome.episodes.returns.mean()),
        "length_mean": float(outcome.episodes.lengths.mean()),
        "success_rate": None if outcome.reached is None else float(outcome.reached.mean()),
        "scores": outcome.scores.tolist(),
        "returns": outcome.episodes.returns.tolist(),
        "lengths": outcome.episodes.lengths.tolist(),
        "reached": None if outcome.reached is None else outcome.reached.tolist(),
        "seeds": outcome.seeds,
    }
    write_json(path, content)
