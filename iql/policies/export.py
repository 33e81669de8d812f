"""A trained policy as a file for other programs: ONNX, torch.export and safetensors, each checked before it counts."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from iql.errors import UserError
from iql.networks.distributions import Categorical
from iql.policies.policy import TrainedPolicy, load_policy
from iql.system.atomic_files import replace_file

TOLERANCE = 1e-6
"""By which an exported policy may differ from PyTorch; of numbers beyond ±1 relative to them."""

_PROBES = 256


class Outputs(nn.Module):
    """Observations [B, observation_dim] → action (the mean within ±1), mean, a Gaussian's log_std, [B, action_dim].

    For discrete actions → action [B] int64, logits [B, action_dim].
    """

    def __init__(self, policy: TrainedPolicy):
        super().__init__()
        self.policy = policy
        self.names = ["action", "logits"]
        if not policy.discrete:
            with torch.no_grad():
                gaussian = policy(torch.zeros(1, policy.observation_dim))[1] is not None
            self.names = ["action", "mean", *["log_std"] * gaussian]

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        given = self.policy(observations)
        if isinstance(given, Categorical):
            return given.logits.argmax(-1), given.logits
        mean, log_std = given
        outputs = mean.clamp(-1, 1), mean
        return outputs if log_std is None else (*outputs, log_std)


def export(policy: TrainedPolicy, path: Path) -> float:
    """Write the policy as what the file's suffix says; returns the largest difference from PyTorch that was found.

    The file is read back by the library that its users would take, and takes its name only if it agrees on
    observations of several scales. Raises UserError for another suffix, a missing package and a difference beyond
    TOLERANCE.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"--out {path}: must end in {', '.join(FORMATS)}")
    encode, play = FORMATS[path.suffix]
    outputs = Outputs(policy).eval()
    try:
        with _quiet():
            content = encode(outputs)
            difference = _difference(outputs, play(content))
    except ImportError as error:
        raise UserError(f"--out {path}: needs packages of an extra ({error}): pip install -e '.[export]'") from error
    if difference > TOLERANCE:
        raise UserError(f"--out {path}: differs from PyTorch by {difference:.1g}, more than {TOLERANCE:g}; not written")
    replace_file(path, content)
    return difference


Player = Callable[[np.ndarray], list[np.ndarray]]


def _onnx(outputs: Outputs) -> bytes:
    import onnxscript  # noqa: F401 – torch's exporter says less clearly that it is missing

    example = (torch.zeros(2, outputs.policy.observation_dim),)
    program = torch.onnx.export(
        outputs,
        example,
        input_names=["observations"],
        output_names=outputs.names,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto.SerializeToString()


def _play_onnx(content: bytes) -> Player:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # a policy's check tells nobody, and needs no home directory
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda observations: session.run(None, {"observations": observations})


def _pt2(outputs: Outputs) -> bytes:
    example = (torch.zeros(2, outputs.policy.observation_dim),)
    program = torch.export.export(outputs, example, dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _play_pt2(content: bytes) -> Player:
    module = torch.export.load(io.BytesIO(content)).module()
    return lambda observations: [each.numpy() for each in module(torch.from_numpy(observations))]


def _safetensors(outputs: Outputs) -> bytes:
    from safetensors.torch import save

    trained = outputs.policy.trained
    weights = {name: tensor.contiguous() for name, tensor in trained.networks["policy"].items()}
    policy = {**trained.policy, "update": trained.update, "parameters": list(weights)}
    means = {"observation_mean": torch.from_numpy(trained.mean), "observation_std": torch.from_numpy(trained.std)}
    return save({**weights, **means}, {"iql": json.dumps(policy)})


def _play_safetensors(content: bytes) -> Player:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        path.write_bytes(content)
        outputs = Outputs(load_policy(path, trust=True)).eval()  # written here, of a class that runs already

    def play(observations: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [each.numpy() for each in outputs(torch.from_numpy(observations))]

    return play


FORMATS: dict[str, tuple[Callable[[Outputs], bytes], Callable[[bytes], Player]]] = {
    ".onnx": (_onnx, _play_onnx),
    ".pt2": (_pt2, _play_pt2),
    ".safetensors": (_safetensors, _play_safetensors),
}


def _difference(outputs: Outputs, play: Player) -> float:
    """The largest difference over batches of two sizes; float32 rounds more the further out an observation lies."""
    policy = outputs.policy
    random = np.random.default_rng(0)
    scales = 10.0 ** random.uniform(-2, 0.5, (_PROBES, 1))  # to some three standard deviations
    probes = policy.mean.numpy() + policy.std.numpy() * scales * random.normal(size=(_PROBES, policy.observation_dim))
    worst = 0.0
    for batch in (probes[:1], probes):
        observations = batch.astype(np.float32)
        with torch.no_grad():
            expected = [each.numpy() for each in outputs(torch.from_numpy(observations))]
        played = play(observations)
        if policy.discrete:  # of two actions that are alike to the last bit either may be taken
            logits = expected[1]
            expected[0], played[0] = (
                np.take_along_axis(logits, each.reshape(-1, 1), 1) for each in (expected[0], played[0])
            )
        for one, other in zip(expected, played, strict=True):
            worst = max(worst, float((np.abs(one - other) / np.maximum(1.0, np.abs(one))).max()))
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the warnings and the progress of torch's exporters to themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
