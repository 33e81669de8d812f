"""iql: Implicit Q-Learning (Kostrikov et al. 2021) on offline data, from one command to a checked score."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iql.policies.policy import load_policy

__all__ = ["load_policy"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """load_policy where it is asked for: `import iql` alone imports no torch."""
    if name == "load_policy":
        from iql.policies.policy import load_policy

        return load_policy
    raise AttributeError(f"module 'iql' has no attribute {name!r}")
