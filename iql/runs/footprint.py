"""Estimates of a run's memory and disk usage, from its settings alone; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iql.config.phases import Phases
from iql.config.schema import algorithm_schema

FLOAT = 4  # bytes

# Approximate bytes of a line of metrics.jsonl, and of each episode in it.
_LINE, _EPISODE = 700, 30


def widths(settings: dict[str, Any], task: Any) -> dict[str, list[int]]:
    """The widths of the layers of V, Q and the policy; without hidden ones for a class that has no hidden_dims."""
    observation, action = task.observation_dim, task.action_dim
    ends = {"value": (observation, 1), "q": (observation + action, 1), "policy": (observation, action)}
    if settings["network"]["q"]["_target_"] == "iql.networks.critics.DiscreteTwinQ":
        ends["q"] = (observation, action)
    found = {}
    for name in algorithm_schema(settings["algorithm"]).networks:
        first, last = ends[name]
        found[name] = [first, *settings["network"][name].get("hidden_dims", []), last]
    return found


def weights(layers: Sequence[int]) -> int:
    """Weights and biases of a perceptron of these widths."""
    return sum(n * m + m for n, m in zip(layers[:-1], layers[1:], strict=True))


def member_bytes(settings: dict[str, Any], layers: dict[str, list[int]]) -> int:
    """The approximate memory of one more member; `layers` as `widths` gives them.

    Weights, gradients and Adam's two moments, the targets, and of each layer its gradient, its output (V's for two
    batches) and what layer normalisation and GELU keep besides; of a finetuned one its online rows.
    """
    trained, targets = _numbers(settings, layers)
    kept = 0
    for name, copies, batches in (("value", 1, 2), ("q", 2, 1), ("policy", 1, 1)):
        network = settings["network"].get(name, {})
        outputs = 1 + (network.get("layer_norm") is not None) + (network.get("activation") == "gelu")
        kept += copies * (1 + batches * outputs) * sum(layers.get(name, [0])[1:])
    steps = Phases.of(settings).steps
    rows = min(steps, settings["finetune"]["capacity"]) if steps else 0
    return FLOAT * (4 * trained + targets + settings["batch_size"] * kept + rows * _row_size(layers))


def _row_size(layers: dict[str, list[int]]) -> int:
    """The numbers of an online row (data.replay_buffer.OnlineRow)."""
    return 2 * layers["policy"][0] + layers["policy"][-1] + 2


def _numbers(settings: dict[str, Any], layers: dict[str, list[int]]) -> tuple[int, int]:
    """The weights that are trained, and those of target networks."""
    of = {name: weights(each) * (2 if name == "q" else 1) for name, each in layers.items()}
    return sum(of.values()), sum(of.get(name, 0) for name in algorithm_schema(settings["algorithm"]).targets)


def disk_bytes(settings: dict[str, Any], layers: dict[str, list[int]]) -> tuple[int, int]:
    """The approximate disk usage of a finished run, and what its checkpoints add while it trains."""
    trained, targets = _numbers(settings, layers)
    phases, evaluation = Phases.of(settings), settings["evaluation"]
    lines = phases.total // settings["log_every"] * _LINE
    if evaluation["every"] is not None:
        evaluations = -(-phases.offline // evaluation["every"]) + -(-phases.steps // phases.every)
        lines += evaluations * (_LINE + evaluation["episodes"] * _EPISODE)
    networks = FLOAT * (trained + targets)
    checkpoint = networks + FLOAT * 2 * trained
    rows = FLOAT * phases.steps * _row_size(layers)
    return lines + networks, settings["checkpoint"]["keep"] * checkpoint + rows
