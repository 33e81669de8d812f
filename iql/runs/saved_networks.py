"""What training leaves of a run's networks, read back: from its directory or from one file of it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iql.config.class_names import current
from iql.errors import UserError
from iql.runs import checkpoints
from iql.runs.manifest import read_manifest

log = logging.getLogger(__name__)

FORMAT = 1
"""The format of networks.ckpt and of an exported .safetensors; a newer one is refused."""

_OTHERS = {".onnx": "onnxruntime.InferenceSession(FILE)", ".pt2": "torch.export.load(FILE)"}


def description(settings: dict[str, Any], observation_dim: int, action_dim: int) -> dict[str, Any]:
    """What is needed to rebuild the policy of a run with these settings: texts and numbers."""
    return {
        "format": FORMAT,
        "task": settings["env"]["name"],
        "seed": settings["seed"],
        "network": settings["network"]["policy"],
        "observation_dim": observation_dim,
        "action_dim": action_dim,
    }


@dataclass(frozen=True)
class Trained:
    """The networks of one run at one update.

    source      the file that they were read from
    policy      what the policy is: description()
    networks    {network: {parameter: tensor}}, without the member axis; of an exported policy that alone
    mean, std   [observation_dim] float32: what observations are shifted and divided by
    manifest    the run's; None for a file that has none beside it
    """

    source: Path
    update: int
    policy: dict[str, Any]
    networks: dict[str, dict[str, Any]]
    mean: np.ndarray
    std: np.ndarray
    manifest: dict[str, Any] | None


def read_trained(path: Path | str) -> Trained:
    """The networks of a run directory (of an unfinished run its newest sound checkpoint) or of one of its files.

    Raises UserError for whatever is no such thing, damaged, or from a newer version.
    """
    path = Path(path)
    if path.suffix in _OTHERS:
        raise UserError(f"{path}: is for other programs; open it with {_OTHERS[path.suffix]}")
    if not path.exists():
        raise UserError(f"{path}: no such run or file")
    if path.is_file():
        return _exported(path) if path.suffix == ".safetensors" else _final(path)
    if (path / "networks.ckpt").is_file():
        return _final(path / "networks.ckpt")
    if not (path / "manifest.json").is_file():
        raise UserError(f"{path}: not a run's directory, which are runs/SWEEP/TASK/CONFIGURATION/seed=N")
    states, damaged = checkpoints.read_undamaged(path / "checkpoints")
    for line in damaged:
        log.warning("%s; the one before it is taken", line)
    if not states:
        raise UserError(f"{path}: has no checkpoint yet; the first is written after checkpoint.every updates")
    update, state = next(iter(states.items()))
    return _of_state(checkpoints.path_of(path / "checkpoints", update), update, state, state["learner"], path)


def start_file(settings: Mapping[str, Any]) -> Path | None:
    """The file of a finished run that finetune.from names for one member; None for a run with its own offline phase.

    A folder with seed=0, seed=1, … in it, those of one configuration, stands for that of the member's seed. Raises
    UserError where there is none.
    """
    finetune = settings.get("finetune")
    if finetune is None or finetune["from"] is None:
        return None
    path = Path(finetune["from"])
    if path.is_dir() and not (path / "manifest.json").exists() and any(path.glob("seed=*")):
        path = path / f"seed={settings['seed']}"
    if (path / "manifest.json").exists() and not (path / "networks.ckpt").exists():
        raise UserError(f"finetune.from={path}: the run is not finished; the command that began it goes on with it")
    file = path / "networks.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"finetune.from={path}: no such run or file")
    return file


def identity(digest: str, start: Path | None) -> str:
    """What a run's name is made from: the digest of its data, joined with that of the networks that it starts from."""
    if start is None:
        return digest
    return hashlib.sha256(f"{digest}/{hashlib.sha256(start.read_bytes()).hexdigest()}".encode()).hexdigest()


def _final(path: Path) -> Trained:
    try:
        state = checkpoints.read(path)
    except checkpoints.Damaged as error:
        raise UserError(f"{path}: {error}; a run's own is made again by the command that trained it") from error
    holder, directory = (state["learner"], path.parent.parent) if "learner" in state else (state, path.parent)
    if not isinstance(holder, dict) or type(holder.get("update")) is not int:
        raise UserError(f"{path}: no policy of iql's: it does not say after which update its weights are")
    return _of_state(path, holder["update"], state, holder, directory)


def _of_state(path: Path, update: int, state: dict[str, Any], holder: dict[str, Any], directory: Path) -> Trained:
    """holder: the part of the state that has the networks."""
    manifest = read_manifest(directory)
    policy: Any = current(state.get("policy"))
    if policy is None and (manifest is None or "observation_mean" not in state):
        raise UserError(f"{path}: from an older iql, does not say what its policy is; let its run go on to the end")
    try:
        networks = holder["networks"]
        mean, std = state["observation_mean"].numpy(), state["observation_std"].numpy()
        if policy is None and manifest is not None:  # before the file itself described it
            actions = next(reversed(networks["policy"].values())).shape[-1]
            policy = description(manifest["settings"], len(mean), actions)
    except (AttributeError, IndexError, KeyError, TypeError, StopIteration) as error:
        raise UserError(f"{path}: is no policy of iql's ({type(error).__name__}: {error})") from error
    _check(policy, networks, mean, std, path)
    return Trained(path, update, policy, networks, mean, std, manifest)


def _exported(path: Path) -> Trained:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"{path}: needs the package safetensors: pip install -e '.[export]'") from error
    try:
        with safe_open(path, "pt") as file:
            policy = current(json.loads((file.metadata() or {})["iql"]))
            weights = {name: file.get_tensor(name) for name in policy["parameters"]}
            mean, std = (file.get_tensor(name).numpy() for name in ("observation_mean", "observation_std"))
            update = policy["update"]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: damaged, or not exported by iql ({error})") from error
    _check(policy, {"policy": weights}, mean, std, path)
    return Trained(path, update, policy, {"policy": weights}, mean, std, None)


_DESCRIBED = {"format": int, "task": str, "seed": int, "network": dict, "observation_dim": int, "action_dim": int}


def _check(policy: Any, networks: Any, mean: np.ndarray, std: np.ndarray, path: Path) -> None:
    """Raise UserError unless this is what a policy's description, weights and statistics look like."""
    if isinstance(policy, dict) and isinstance(policy.get("format"), int) and policy["format"] > FORMAT:
        raise UserError(f"{path}: from a newer iql (format {policy['format']}, this one reads {FORMAT}); update iql")
    wrong = [
        name for name, kind in _DESCRIBED.items() if not (isinstance(policy, dict) and type(policy.get(name)) is kind)
    ]
    if wrong:
        raise UserError(f"{path}: does not say what its policy is ({', '.join(wrong)}); it is damaged")
    named = isinstance(networks, dict) and "policy" in networks
    if not named or not all(isinstance(weights, dict) and _tensors(weights) for weights in networks.values()):
        raise UserError(f"{path}: holds no networks of iql's; it is damaged")
    size = (policy["observation_dim"],)
    if not (mean.shape == std.shape == size and mean.dtype == std.dtype == np.float32):
        raise UserError(f"{path}: its observation statistics are {mean.shape} where {size} is needed; it is damaged")


def _tensors(weights: dict[str, Any]) -> bool:
    return all(hasattr(weight, "dtype") and hasattr(weight, "shape") for weight in weights.values())
