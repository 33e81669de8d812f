"""Replay a golden trace through our learner and print the largest relative error of every array.

    python scripts/parity.py TRACE.npz [--path lanes] [algorithm=iql_gwthomas] [algorithm.tau=0.7] ...
    python scripts/parity.py TRACE.npz --path graphs device=cuda precision=ieee

--path: how the updates are carried out: plain (autograd), fused (on one thread), lanes (fused on two) or graphs (as on
CUDA; on a CPU without graphs). A trace holds initial weights, batches and the weights after some updates, as another
implementation computed them. Its settings are read from its `meta`; overrides of the configuration replace them. Exit
code 1 above the tolerance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from iql.commands.exit_codes import exit_code_of
from iql.config.folders import CONF
from iql.config.settings import read
from iql.config.validation import composition_problem
from iql.errors import UserError
from iql.execution.devices import choose as choose_device
from iql.execution.devices import set_precision
from iql.execution.paths import choose
from iql.learner.golden_trace import GoldenTrace, RecordedBatches, RecordedNoise
from iql.learner.learner import Learner
from iql.training.build import build_learner

PATHS = {
    "plain": ("plain", 1),
    "fused": ("fused", 1),
    "fused lanes": ("fused", 2),
    "native": ("native", 1),
    "lanes": ("native", 2),
    "graphs": ("graphs", 1),
}
"""Code path and threads (execution.paths.choose) by --path."""


def learner_for(trace: GoldenTrace, overrides: Sequence[str]) -> Learner:
    """A learner of one member with the trace's shapes, settings, random numbers and initial weights.

    What neither the trace nor `overrides` gives is as in conf/, on the CPU. Raises UserError.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            (member,) = read(compose("config", ["device=cpu", *trace.overrides(), *overrides]))
        except HydraException as error:
            raise UserError(composition_problem(error) or str(error)) from error
    device = choose_device(member["device"])
    set_precision(member["precision"], device)
    learner = build_learner([member], *trace.dims, device)
    learner.load_networks(0, trace.weights("init"))
    learner.noise = RecordedNoise(trace, device)
    return learner


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the array's largest magnitude."""
    scale = max(float(np.abs(theirs).max()), np.finfo(np.float32).tiny)
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / scale)


def replay(trace: GoldenTrace, overrides: Sequence[str] = (), path: str = "plain") -> dict[str, float]:
    """The relative error of every array of the trace that the learner computes too."""
    learner = learner_for(trace, overrides)
    batches = RecordedBatches(trace, learner.device)
    code_path, threads = PATHS[path]
    execution = choose(learner, trace.batch_size, code_path, threads)
    errors: dict[str, float] = {}
    measured = []
    for number in range(trace.updates):
        measured.append(execution.advance(batches, 1, measure=True) or {})
        if number + 1 in trace.compared:
            theirs = trace.weights(f"after_{number + 1}")
            for network, parameters in learner.network_state(0).items():
                for name, ours in parameters.items():
                    label = f"after_{number + 1}/{network}/{name.removeprefix('net.')}"
                    errors[label] = relative_error(ours.numpy(), theirs[network][name].numpy())
    for name, (metric, updates, values) in trace.losses().items():
        reported = np.array([float(measured[update][metric]) for update in updates])
        errors[f"loss/{name}"] = relative_error(reported, values)
    if "eval/observations" in trace.arrays:
        observations = torch.tensor(trace.arrays["eval/observations"], device=learner.device).unsqueeze(0)
        actions = learner.mean_actions(observations)[0].cpu().numpy()
        errors["eval/mean_actions"] = relative_error(actions, trace.arrays["eval/mean_actions"].clip(-1, 1))
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings in place of the trace's: algorithm.tau=0.7 ...")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest relative error allowed")
    parser.add_argument("--path", choices=PATHS, default="plain", help="how the updates are carried out")
    options = parser.parse_args()
    return exit_code_of(lambda: compare(options), "interrupted")


def compare(options: argparse.Namespace) -> int:
    """Print the errors and the verdict; returns the exit code. Raises UserError for a file that is no trace."""
    try:
        errors = replay(GoldenTrace.read(options.trace), options.overrides, options.path)
    except (UserError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{options.trace}: {error}") from error
    for name, size in errors.items():
        print(f"{size:9.1e}  {name}" + ("  ABOVE" if not size <= options.tolerance else ""))
    worst = max(errors, key=errors.__getitem__)
    passed = errors[worst] <= options.tolerance
    verdict = "equal" if passed else "DIFFERENT"
    print(f"{verdict}: {len(errors)} arrays, largest relative error {errors[worst]:.1e} ({worst})")
    return 0 if passed else 1
