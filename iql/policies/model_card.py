"""A model card: what a policy is, where it comes from, how well it does and how to load it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tabulate import tabulate

from iql.config.phases import Phases
from iql.errors import UserError
from iql.policies.policy import TrainedPolicy
from iql.reporting import statistics
from iql.reporting.algorithm_names import algorithm_name
from iql.reporting.protocols import HEADLINES
from iql.reporting.report import compile_report
from iql.reporting.results import Result
from iql.reporting.run_records import Reader
from iql.reporting.tables.cells import brackets, number, spread
from iql.system.atomic_files import read_json

_LOADING = {
    ".safetensors": 'import iql\n\npolicy = iql.load_policy("{name}")\naction = policy.act(observation)',
    ".onnx": (
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}")\n'
        'action, mean, *log_std = session.run(None, {{"observations": observations}})  # [B, {size}] float32'
    ),
    ".pt2": (
        'import torch\n\npolicy = torch.export.load("{name}").module()\n'
        "action, mean, *log_std = policy(observations)  # [B, {size}] float32"
    ),
}


_DISCRETE_LOADING = {
    ".safetensors": _LOADING[".safetensors"],
    ".onnx": _LOADING[".onnx"].replace("action, mean, *log_std", "action, logits"),
    ".pt2": _LOADING[".pt2"].replace("action, mean, *log_std", "action, logits"),
}


def model_card(policy: TrainedPolicy, run: Path, files: list[Path]) -> str:
    """The card of a policy exported to `files` from the directory `run`, as Markdown with Hugging Face's front matter.

    Raises UserError where the run's manifest is gone.
    """
    manifest, summary = read_json(run / "manifest.json"), read_json(run / "summary.json")
    if manifest is None:
        raise UserError(f"{run}: has no manifest.json, which the model card is made of")
    settings, facts = manifest["settings"], manifest["facts"]
    name = algorithm_name(settings["algorithm"])
    algorithm = "Implicit Q-Learning" if name == "IQL" else name
    licence, licence_words = _licence(settings["env"], facts)
    front = {
        "library_name": "iql",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "offline-rl", re.sub(r"\W+", "-", algorithm.lower()), policy.task],
        "license": licence,
    }
    git, life = manifest.get("git") or {}, manifest["lives"][-1]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {algorithm} on {policy.task}, seed {settings['seed']}",
        "",
        f"A policy trained offline with {algorithm} for {policy.update:,} updates"
        + ("." if summary else f" of {settings['updates']:,}: its run has not ended."),
        f"Observations have {policy.observation_dim} entries, {_actions(policy)}",
        "",
        "## Use",
        "",
    ]
    for file in files:
        loading = _DISCRETE_LOADING if policy.discrete else _LOADING
        code = loading[file.suffix].format(name=file.name, size=policy.observation_dim)
        lines += ["```python", code, "```", ""]
    lines += ["## Scores", "", *_scores(run, settings, summary), ""]
    physics = summary or facts
    rows = {
        "data": Path(str(facts.get("dataset"))).name + (", data of its user's own" if facts.get("custom") else ""),
        "rows": f"{facts['rows']:,}" if facts.get("rows") else "unknown",
        "licence of the data": licence_words,
        "physics": physics.get("physics") or "none",
        "mujoco": physics.get("mujoco") or "none",
        "commit": (git.get("commit") or "unknown") + (", edited since" if git.get("dirty") else ""),
        "packages": ", ".join(f"{name} {version}" for name, version in manifest.get("packages", {}).items()),
        "device": f"{life['device']}, code path {life.get('code_path', 'unknown')}",
        "made by": "`" + " ".join(["python train.py", *manifest.get("overrides", [])]) + "`",
    }
    algorithm, network = settings["algorithm"], settings["network"]["policy"]
    chosen = {
        **{key: value for key, value in algorithm.items() if key not in ("_target_", "initialization", "policy_mean")},
        **{f"policy {key}": value for key, value in network.items() if key != "_target_"},
        "learning rate": settings["optimizer"]["lr"],
        "batch size": settings["batch_size"],
        "updates": Phases.of(settings).total,
        "normalised observations": settings["env"].get("normalize"),
        "rewards": settings["env"].get("reward"),
    }
    for title, table in (("Where it comes from", rows), ("Settings", chosen)):
        lines += [
            f"## {title}",
            "",
            tabulate(list(table.items()), ["", ""], tablefmt="pipe", disable_numparse=True),
            "",
        ]
    lines += [
        "## Limits",
        "",
        "It was evaluated in simulation alone, in the physics named above; elsewhere its score may be another.",
        "It has seen the states that its data holds, and nothing says what it does far from them.",
        "",
    ]
    return "\n".join(lines)


def _actions(policy: TrainedPolicy) -> str:
    if policy.discrete:
        return f"an action is a whole number, 0 to {policy.action_dim - 1}. Normalisation of observations is inside."
    return f"actions {policy.action_dim} within ±1. Normalisation of observations and bounds of actions are inside."


def _scores(run: Path, settings: dict[str, Any], summary: dict[str, Any] | None) -> list[str]:
    """This run's scores with the final evaluation's interval over episodes, and its configuration's over seeds."""
    if summary is None or not summary["evaluations"]:
        return ["Not evaluated."]
    success = summary["data"].get("scored") == "success"
    low, high = (0, 1) if success else (settings["env"].get("ref_min"), settings["env"].get("ref_max"))
    returns = np.array(summary["final_returns"], float)
    plain = low is None or high is None
    scores = returns if plain else 100 * (returns - low) / (high - low)
    interval = statistics.mean_interval(scores)
    kind = "success in %" if success else "return" if plain else "normalised score (0 random, 100 expert)"
    lines = [
        f"| {kind} | | 95 % |",
        "|:--|--:|--:|",
        f"| final evaluation, {len(scores)} episodes | {number(scores.mean())} | {brackets(interval)} |",
        f"| mean of the last ten evaluations | {number(summary['last10_score'])} | |",
        f"| best evaluation | {number(summary['best_score'])} | |",
    ]
    result = _over_seeds(run, settings["seed"])
    if result is not None and len(result.scores) > 1:
        seeds = f"{len(result.scores)} seeds, {result.protocol.headline}"
        lines.append(f"| {seeds} | {spread(result.mean, result.std)} | {brackets(result.mean_interval)} |")
    headline = HEADLINES[summary["headline"]]
    lines += ["", f"The headline is the {headline}. The interval of the final evaluation is over its episodes."]
    if result is None or len(result.scores) < 2:
        lines.append("One seed was trained: there is no interval over seeds, which is the wider one.")
    return lines


def _over_seeds(run: Path, seed: int) -> Result | None:
    """The result of all seeds beside the run that share its protocol."""
    report = compile_report(Reader([run.resolve().parent]))
    results = (result for table in report.tables for result in table.results)
    return next((result for result in results if seed in (each.seed for each in result.runs)), None)


def _licence(env: dict[str, Any], facts: dict[str, Any]) -> tuple[str, str]:
    """Hugging Face's name and words for the licence of what the policy was trained on."""
    if facts.get("custom"):
        return "unknown", "unknown here: it is the user's own"
    if "dataset" in env:
        ogbench = env["_target_"] == "iql.tasks.ogbench.OGBenchTask"
        where = "OGBench's data: see its repository" if ogbench else f"Minari's {env['dataset']}: see its metadata"
        return "unknown", f"that of {where}"
    if env.get("url"):
        return "cc-by-4.0", "CC BY 4.0 (D4RL, Fu et al. 2020)"
    return "mit", "none: made by this project's own controller"
