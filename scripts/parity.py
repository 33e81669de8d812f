"""Replay a golden trace through our learner and print the largest relative error of every array.

    python scripts/parity.py TRACE.npz [--path lanes] [--algorithm iql_gwthomas] [--tau 0.7] [--beta 3.0] ...

--path: how the updates are carried out: plain (autograd), fused (on one thread), lanes (fused on two) or graphs (as on
CUDA, here without graphs). A trace holds initial weights, batches and the weights after some updates, as another
implementation computed them. Settings not given are read from the trace's `meta`. Exit code 1 above the tolerance.
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from iql.draws import Batch, Batches  # noqa: E402
from iql.errors import UserError  # noqa: E402
from iql.learner import IQL  # noqa: E402
from iql.networks import Policy, TwinQ, Value  # noqa: E402

# What a trace may report of each update, by the names of the learner's metrics.
LOSSES = {
    "value_loss": "value_loss",
    "critic_loss": "q_loss",
    "actor_loss": "policy_loss",
    "v": "v",
    "q": "q",
}


def settings_of(trace: dict[str, np.ndarray], options: argparse.Namespace) -> dict:
    """The trace's own settings, replaced by what the options give."""
    meta = str(trace["meta"]) if "meta" in trace else ""
    found = dict(re.findall(r"(\w+)=([^\s(]+)", meta))
    schedule = re.search(r"actor_schedule=(\w+)\(max_steps=(\d+)\)", meta)
    variant = "iql_gwthomas" if re.match(r"gaussian|deterministic", meta) else "iql"
    settings = {
        "algorithm": variant,
        "policy_schedule": "cosine" if schedule and schedule[1] == "cosine" else "constant",
        "updates": int(schedule[2]) if schedule else 1,
        **{key: float(found[key]) for key in ("tau", "beta", "discount", "polyak", "lr") if key in found},
    }
    settings.update({key: value for key, value in vars(options).items() if key in OPTIONS and value is not None})
    missing = [key for key in OPTIONS if key not in settings]
    if missing:
        raise UserError(
            f"the trace's meta does not give {', '.join(missing)}: pass " + " ".join(f"--{m}" for m in missing)
        )
    return settings


PATHS = {
    "plain": ("plain", 1),
    "fused": ("fused", 1),
    "fused lanes": ("fused", 2),
    "native": ("native", 1),
    "lanes": ("native", 2),
    "graphs": ("graphs", 1),
}
"""Code path and threads (execution.fuse) by --path."""

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
CHOICES = {"algorithm": ("iql", "iql_gwthomas"), "policy_schedule": ("cosine", "constant")}


def network_weights(trace: dict[str, np.ndarray], prefix: str) -> dict[str, dict[str, torch.Tensor]]:
    """The trace's weights under `prefix` in the learner's layout (IQL.network_state)."""

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

    policy = named(["policy"])
    if f"{prefix}/policy/log_std" in trace:
        policy = {"log_std": torch.tensor(trace[f"{prefix}/policy/log_std"]), **policy}
    return {
        "value": named(["v"]),
        "q": named(["q1", "q2"]),
        "policy": policy,
        "q_target": named(["q1_target", "q2_target"]),
    }


class Recorded(Batches):
    """The trace's batches, asked for as draws.Batches."""

    def __init__(self, trace: dict[str, np.ndarray]):
        self._columns = [torch.tensor(trace[f"batch/{field}"]) for field in Batch._fields]
        self.shape = self._columns[0].shape[:2]  # updates, batch size

    def of(self, members: range) -> Recorded:
        return self

    def at(self, update: int) -> Batch:
        return self.gather(torch.tensor([update]))

    def draw(self, first: int | torch.Tensor, updates: int) -> torch.Tensor:
        return (torch.arange(updates) + first).unsqueeze(0)

    def gather(self, rows: torch.Tensor) -> Batch:
        return Batch(*(column[rows] for column in self._columns))


def learner_for(trace: dict[str, np.ndarray], settings: dict, path: str, precision: str) -> IQL:
    """A learner of one member with the trace's shapes and initial weights."""
    weights = network_weights(trace, "init")
    observation_dim = trace["batch/observations"].shape[-1]
    action_dim = trace["batch/actions"].shape[-1]
    kernels = [tensor for name, tensor in weights["value"].items() if ".kernels." in name]
    variant = OmegaConf.load(ROOT / "conf" / "algorithm" / f"{settings['algorithm']}.yaml")
    variant = OmegaConf.merge(OmegaConf.load(ROOT / "conf" / "algorithm" / "iql.yaml"), variant)
    common = {
        "seeds": [0],
        "hidden_dims": [kernel.shape[1] for kernel in kernels[:-1]],
        "initialization": variant.initialization,
    }
    dims = {"observation_dim": observation_dim, "action_dim": action_dim}
    gaussian = "log_std" in weights["policy"]
    policy = Policy(
        **dims,
        **common,
        distribution="gaussian" if gaussian else "deterministic",
        mean=variant.policy_mean if gaussian else "tanh",
        dropout=None,
        log_std_range=(-5.0, 2.0),
    )
    learner = IQL(
        value=Value(observation_dim, **common),
        q=TwinQ(**dims, **common),
        policy=policy,
        optimizer=partial(torch.optim.Adam, fused=True),
        seeds=[0],
        advantage_cap=[variant.advantage_cap],
        fresh_value=variant.fresh_value,
        q_loss_scale=variant.q_loss_scale,
        policy_schedule=settings["policy_schedule"],
        updates=settings["updates"],
        tau=[settings["tau"]],
        beta=[settings["beta"]],
        discount=[settings["discount"]],
        polyak=[settings["polyak"]],
        lr=[settings["lr"]],
        precision=precision,
    )
    code_path, threads = PATHS[path]
    learner.take_path(code_path, trace["batch/observations"].shape[1], threads)
    learner.load_networks(0, weights)
    return learner


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the array's largest magnitude."""
    scale = max(float(np.abs(theirs).max()), np.finfo(np.float32).tiny)
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / scale)


def replay(
    trace: dict[str, np.ndarray], settings: dict, path: str = "plain", precision: str = "float32"
) -> dict[str, float]:
    """The relative error of every array of the trace that the learner computes too."""
    learner = learner_for(trace, settings, path, precision)
    batches = Recorded(trace)
    compared = {int(match[1]) for key in trace if (match := re.match(r"after_(\d+)/", key))}
    errors: dict[str, float] = {}
    reported: dict[str, list[float]] = {name: [] for name in LOSSES if f"loss/{name}" in trace}
    for number in range(batches.shape[0]):
        metrics = learner.advance(batches, 1, measure=True) or {}
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
        actions = learner.mean_actions(torch.tensor(trace["eval/observations"]).unsqueeze(0))[0].numpy()
        errors["eval/mean_actions"] = relative_error(actions, trace["eval/mean_actions"].clip(-1, 1))
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest relative error allowed")
    parser.add_argument("--path", choices=PATHS, default="plain", help="how the updates are carried out")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="of the products")
    for name, kind in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, choices=CHOICES.get(name))
    options = parser.parse_args()
    try:
        with np.load(options.trace, allow_pickle=False) as file:
            trace = dict(file)
        if "loss/q1" in trace:
            trace["loss/q"] = (trace["loss/q1"] + trace["loss/q2"]) / 2
        errors = replay(trace, settings_of(trace, options), options.path, options.precision)
    except (UserError, OSError, ValueError, KeyError) as error:
        print(f"parity: {options.trace}: {error}", file=sys.stderr)
        return 1
    for name, size in errors.items():
        print(f"{size:9.1e}  {name}" + ("  ABOVE" if not size <= options.tolerance else ""))
    worst = max(errors, key=errors.__getitem__)
    passed = errors[worst] <= options.tolerance
    verdict = "equal" if passed else "DIFFERENT"
    print(f"{verdict}: {len(errors)} arrays, largest relative error {errors[worst]:.1e} ({worst})")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
