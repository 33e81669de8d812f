"""What a run takes of memory and disk, from its settings alone; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FLOAT = 4  # bytes

# Bytes of a line of metrics.jsonl, and of each episode in one, about.
_LINE, _EPISODE = 700, 30


def widths(network: dict[str, Any], task: Any) -> dict[str, list[int]]:
    """The layers of V, Q and the policy from in to out; without hidden ones for a class that does not name them."""
    observation, action = task.observation_dim, task.action_dim
    ends = {"value": (observation, 1), "q": (observation + action, 1), "policy": (observation, action)}
    return {part: [first, *network[part].get("hidden_dims", []), last] for part, (first, last) in ends.items()}


def weights(layers: Sequence[int]) -> int:
    """Weights and biases of a perceptron of these widths."""
    return sum(n * m + m for n, m in zip(layers[:-1], layers[1:], strict=True))


def member_bytes(value: Sequence[int], q: Sequence[int], policy: Sequence[int], batch_size: int) -> int:
    """About what one more member takes in memory; the widths of each network's layers, from in to out.

    Weights, gradients and Adam's two moments, the target, and of each layer its output and gradient (V's for two
    batches).
    """
    trained = weights(value) + 2 * weights(q) + weights(policy)
    rows = 3 * sum(value[1:]) + 2 * 2 * sum(q[1:]) + 2 * sum(policy[1:])
    return FLOAT * (4 * trained + 2 * weights(q) + batch_size * rows)


def disk_bytes(settings: dict[str, Any], layers: dict[str, list[int]]) -> tuple[int, int]:
    """About what a finished run keeps on disk, and what it takes besides while it trains (its checkpoints)."""
    trained = weights(layers["value"]) + 2 * weights(layers["q"]) + weights(layers["policy"])
    lines = settings["updates"] // settings["log_every"] * _LINE
    evaluation = settings["evaluation"]
    if evaluation["every"] is not None:
        evaluations = -(-settings["updates"] // evaluation["every"])
        lines += evaluations * (_LINE + evaluation["episodes"] * _EPISODE)
    networks = FLOAT * (trained + 2 * weights(layers["q"]))
    checkpoint = networks + FLOAT * 2 * trained
    return lines + networks, settings["checkpoint"]["keep"] * checkpoint
