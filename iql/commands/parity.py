"""Replay a golden trace through our learner and print the largest relative error of every array.

    python scripts/parity.py TRACE.npz [--path lanes] [--algorithm iql_gwthomas] [--tau 0.7] [--beta 3.0] ...
    python scripts/parity.py TRACE.npz --device cuda --path graphs --precision ieee

--path: how the updates are carried out: plain (autograd), fused (on one thread), lanes (fused on two) or graphs (as on
CUDA; on a CPU without graphs). A trace holds initial weights, batches and the weights after some updates, as another
implementation computed them. Settings not given are read from the trace's `meta`. Exit code 1 above the tolerance.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from iql.commands.exit_codes import exit_code_of
from iql.config.folders import CONF
from iql.config.settings import read
from iql.data.sampling import Batch, Batches
from iql.errors import UserError
from iql.execution.devices import choose as choose_device
from iql.execution.devices import set_precision
from iql.execution.paths import choose
from iql.learner.learner import Learner
from iql.training.build import build_learner

# What a trace may report of each update, by the names of the learner's metrics.
LOSSES = {
    "value_loss": "value_loss",
    "critic_loss": "q_loss",
    "actor_loss": "policy_loss",
    "v": "v",
    "q": "q",
}


ALGORITHMS = {"BC": "bc"}
"""Our names of the algorithms that a trace's meta may name."""

PATHS = {
    "plain": ("plain", 1),
    "fused": ("fused", 1),
    "fused lanes": ("fused", 2),
    "native": ("native", 1),
    "lanes": ("native", 2),
    "graphs": ("graphs", 1),
}
"""Code path and threads (execution.paths.choose) by --path."""

OPTIONS = {
    "algorithm": str,
    "tau": float,
    "beta": float,
    "discount": float,
    "polyak": float,
    "lr": float,
    "policy_schedule": str,
    "updates": int,
}
CHOICES = {"algorithm": ("iql", "iql_gwthomas", "bc"), "policy_schedule": ("cosine", "constant")}
IQL_ONLY = ("tau", "beta", "discount", "polyak")

NETWORKS = {"value": ["v"], "q": ["q1", "q2"], "policy": ["policy"], "q_target": ["q1_target", "q2_target"]}
"""The learner's networks: what the copies of each are called in a trace."""


def settings_of(trace: dict[str, np.ndarray], options: argparse.Namespace) -> dict:
    """The trace's own settings, replaced by what the options give."""
    meta = str(trace["meta"]) if "meta" in trace else ""
    settings = _of_json(json.loads(meta)) if meta.startswith("{") else _of_pairs(meta)
    settings.update({key: value for key, value in vars(options).items() if key in OPTIONS and value is not None})
    needed = [key for key in OPTIONS if settings["algorithm"] != "bc" or key not in IQL_ONLY]
    missing = [key for key in needed if key not in settings]
    if missing:
        raise UserError(
            f"the trace's meta does not give {', '.join(missing)}: pass " + " ".join(f"--{m}" for m in missing)
        )
    return settings


def _of_pairs(meta: str) -> dict:
    """The settings in a meta of key=value pairs."""
    found = dict(re.findall(r"(\w+)=([^\s(]+)", meta))
    schedule = re.search(r"actor_schedule=(\w+)\(max_steps=(\d+)\)", meta)
    return {
        "algorithm": "iql_gwthomas" if re.match(r"gaussian|deterministic", meta) else "iql",
        "policy_schedule": "cosine" if schedule and schedule[1] == "cosine" else "constant",
        "updates": int(schedule[2]) if schedule else 1,
        **{key: float(found[key]) for key in (*IQL_ONLY, "lr") if key in found},
    }


def _of_json(meta: dict) -> dict:
    """The settings in a meta written as JSON."""
    if meta["algorithm"] not in ALGORITHMS:
        raise UserError(f"a trace of {meta['algorithm']}, an algorithm that is not replayed here")
    schedule = meta["policy_schedule"]
    return {
        "algorithm": ALGORITHMS[meta["algorithm"]],
        "policy_schedule": schedule["kind"],
        "updates": schedule["max_steps"] or 1,
        **{key: meta["hyperparameters"][key] for key in OPTIONS if key in meta["hyperparameters"]},
    }


def network_weights(trace: dict[str, np.ndarray], prefix: str) -> dict[str, dict[str, torch.Tensor]]:
    """The trace's weights under `prefix` in the learner's layout (Learner.network_state)."""

    def layers(network: str) -> list[list[np.ndarray]]:
        count = len([key for key in trace if re.fullmatch(rf"{prefix}/{network}/\d+/kernel", key)])
        return [[trace[f"{prefix}/{network}/{i}/{part}"] for part in ("kernel", "bias")] for i in range(count)]

    def named(networks: list[str]) -> dict[str, torch.Tensor]:
        copies = [layers(network) for network in networks]
        weights = {}
        for i in range(len(copies[0])):
            for part, plural in enumerate(("kernels", "biases")):
                stacked = [copy[i][part] for copy in copies]
                weights[f"net.{plural}.{i}"] = torch.tensor(stacked[0] if len(stacked) == 1 else np.stack(stacked))
        return weights

    present = {name: copies for name, copies in NETWORKS.items() if f"{prefix}/{copies[0]}/0/kernel" in trace}
    weights = {name: named(copies) for name, copies in present.items()}
    if f"{prefix}/policy/log_std" in trace:
        weights["policy"] = {"log_std": torch.tensor(trace[f"{prefix}/policy/log_std"]), **weights["policy"]}
    return weights


class Recorded(Batches):
    """The trace's batches, asked for as data.sampling.Batches."""

    def __init__(self, trace: dict[str, np.ndarray], device: torch.device):
        self._device = device
        self._columns = [torch.tensor(trace[f"batch/{field}"], device=device) for field in Batch._fields]
        self.shape = self._columns[0].shape[:2]  # updates, batch size

    def of(self, members: range) -> Recorded:
        return self

    def at(self, update: int) -> Batch:
        return self.gather(torch.tensor([update], device=self._device))

    def draw(self, first: int | torch.Tensor, updates: int) -> torch.Tensor:
        return (torch.arange(updates, device=self._device) + first).unsqueeze(0)

    def gather(self, rows: torch.Tensor) -> Batch:
        return Batch(*(column[rows] for column in self._columns))


def learner_for(trace: dict[str, np.ndarray], settings: dict, precision: str, device: torch.device) -> Learner:
    """A learner of one member with the trace's shapes and initial weights, else as conf/ has it."""
    weights = network_weights(trace, "init")
    network = "mlp" if "log_std" in weights["policy"] else "deterministic"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (member,) = read(compose("config", [f"algorithm={settings['algorithm']}", f"network={network}"]))
    for key in (*IQL_ONLY, "policy_schedule"):
        if key in member["algorithm"]:
            member["algorithm"][key] = settings[key]
    for name in ("value", "q", "policy"):
        kernels = [kernel for parameter, kernel in weights.get(name, {}).items() if ".kernels." in parameter]
        member["network"][name]["hidden_dims"] = [kernel.shape[-1] for kernel in kernels[:-1]]
    member["network"]["policy"]["dropout"] = None
    member["optimizer"]["lr"] = settings["lr"]
    member |= {"updates": settings["updates"], "precision": precision}
    learner = build_learner([member], trace["batch/observations"].shape[-1], trace["batch/actions"].shape[-1], device)
    learner.load_networks(0, weights)
    return learner


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the array's largest magnitude."""
    scale = max(float(np.abs(theirs).max()), np.finfo(np.float32).tiny)
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / scale)


def replay(
    trace: dict[str, np.ndarray], settings: dict, path: str = "plain", precision: str = "float32", device: str = "cpu"
) -> dict[str, float]:
    """The relative error of every array of the trace that the learner computes too."""
    where = choose_device(device)
    set_precision(precision, where)
    learner = learner_for(trace, settings, precision, where)
    batches = Recorded(trace, where)
    code_path, threads = PATHS[path]
    execution = choose(learner, batches.shape[1], code_path, threads)
    compared = {int(match[1]) for key in trace if (match := re.match(r"after_(\d+)/", key))}
    errors: dict[str, float] = {}
    reported: dict[str, list[float]] = {name: [] for name in LOSSES if f"loss/{name}" in trace}
    for number in range(batches.shape[0]):
        metrics = execution.advance(batches, 1, measure=True) or {}
        for name in reported:
            reported[name].append(float(metrics[LOSSES[name]]))
        if number + 1 in compared:
            theirs = network_weights(trace, f"after_{number + 1}")
            for network, parameters in learner.network_state(0).items():
                for name, ours in parameters.items():
                    label = f"after_{number + 1}/{network}/{name.removeprefix('net.')}"
                    errors[label] = relative_error(ours.numpy(), theirs[network][name].numpy())
    for name, values in reported.items():
        errors[f"loss/{name}"] = relative_error(np.array(values), trace[f"loss/{name}"])
    if "eval/observations" in trace:
        observations = torch.tensor(trace["eval/observations"], device=where).unsqueeze(0)
        actions = learner.mean_actions(observations)[0].cpu().numpy()
        errors["eval/mean_actions"] = relative_error(actions, trace["eval/mean_actions"].clip(-1, 1))
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest relative error allowed")
    parser.add_argument("--path", choices=PATHS, default="plain", help="how the updates are carried out")
    parser.add_argument(
        "--precision", choices=("float32", "ieee", "bf16"), default="float32", help="of the products; as in conf/"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... or auto")
    for name, kind in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, choices=CHOICES.get(name))
    options = parser.parse_args()
    return exit_code_of(lambda: compare(options), "interrupted")


def compare(options: argparse.Namespace) -> int:
    """Print the errors and the verdict; returns the exit code. Raises UserError for a file that is no trace."""
    try:
        with np.load(options.trace, allow_pickle=False) as file:
            trace = dict(file)
        if "loss/q1" in trace:
            trace["loss/q"] = (trace["loss/q1"] + trace["loss/q2"]) / 2
        errors = replay(trace, settings_of(trace, options), options.path, options.precision, options.device)
    except (UserError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{options.trace}: {error}") from error
    for name, size in errors.items():
        print(f"{size:9.1e}  {name}" + ("  ABOVE" if not size <= options.tolerance else ""))
    worst = max(errors, key=errors.__getitem__)
    passed = errors[worst] <= options.tolerance
    verdict = "equal" if passed else "DIFFERENT"
    print(f"{verdict}: {len(errors)} arrays, largest relative error {errors[worst]:.1e} ({worst})")
    return 0 if passed else 1
