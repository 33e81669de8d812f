"""Estimates of a run's memory and disk usage, from its settings alone; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iql.config.schema import trained_networks

FLOAT = 4  # bytes

# Approximate bytes of a line of metrics.jsonl, and of each episode in it.
_LINE, _EPISODE = 700, 30


def widths(settings: dict[str, Any], task: Any) -> dict[str, list[int]]:
    """The widths of the layers of V, Q and the policy; without hidden ones for a class that has no hidden_dims."""
    observation, action = task.observation_dim, task.action_dim
    ends = {"value": (observation, 1), "q": (observation + action, 1), "policy": (observation, action)}
    found = {}
    for name in trained_networks(settings["algorithm"]):
        first, last = ends[name]
        found[name] = [first, *settings["network"][name].get("hidden_dims", []), last]
    return found


def weights(layers: Sequence[int]) -> int:
    """Weights and biases of a perceptron of these widths."""
    return sum(n * m + m for n, m in zip(layers[:-1], layers[1:], strict=True))


def member_bytes(policy: Sequence[int], value: Sequence[int] = (), q: Sequence[int] = (), *, batch_size: int) -> int:
    """The approximate memory of one more member; of each network the widths of its layers, from input to output.

    Weights, gradients and Adam's two moments, the target, and of each layer its output and gradient (V's for two
    batches).
    """
    trained = weights(value) + 2 * weights(q) + weights(policy)
    rows = 3 * sum(value[1:]) + 2 * 2 * sum(q[1:]) + 2 * sum(policy[1:])
    return FLOAT * (4 * trained + 2 * weights(q) + batch_size * rows)


def disk_bytes(settings: dict[str, Any], layers: dict[str, list[int]]) -> tuple[int, int]:
    """The approximate disk usage of a finished run, and what its checkpoints add while it trains."""
    q = weights(layers.get("q", ()))
    trained = weights(layers.get("value", ())) + 2 * q + weights(layers["policy"])
    lines = settings["updates"] // settings["log_every"] * _LINE
    evaluation = settings["evaluation"]
    if evaluation["every"] is not None:
        evaluations = -(-settings["updates"] // evaluation["every"])
        lines += evaluations * (_LINE + evaluation["episodes"] * _EPISODE)
    networks = FLOAT * (trained + 2 * q)
    checkpoint = networks + FLOAT * 2 * trained
    return lines + networks, settings["checkpoint"]["keep"] * checkpoint
