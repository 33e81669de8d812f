"""The description of a policy in a checkpoint, from which the policy is rebuilt without its run."""

from __future__ import annotations

from typing import Any

FORMAT = 1
"""The format of networks.ckpt and of an exported .safetensors; a newer one is refused."""


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
