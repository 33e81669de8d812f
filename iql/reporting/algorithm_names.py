"""What reports call an algorithm: IQL, 10 % BC, TD3+BC. Published scores have the same names."""

from __future__ import annotations

from typing import Any

from iql.config.trust import ALGORITHMS

_NAMES = {"TD3BC": "TD3+BC", "FQLIQL": "FQL-IQL"}
"""Names that differ from the class's."""

PUBLISHED = {"FQL-IQL": "IQL"}
"""The names that publications have, where they differ: in the tables of OGBench IQL is that of FQL's authors."""

NAMING = ("top_fraction", "extraction")
"""Settings of our own algorithms that are part of the name, and are not repeated beside it."""


def algorithm_name(section: dict[str, Any]) -> str:
    """The name of the algorithm of a run's section `algorithm`, by class and settings.

    A class of the user's own has its class name, or where ours have that name its full one.
    """
    target: str = section["_target_"]
    if not is_own(section):
        last = target.rpartition(".")[2]
        return target if last in map(_of_class, ALGORITHMS) else last
    name = _of_class(target)
    if (share := section.get("top_fraction")) is not None:
        return f"{100 * share:g} % {name}"
    return f"{name} (DDPG+BC)" if section.get("extraction") == "ddpg_bc" else name


def is_own(section: dict[str, Any]) -> bool:
    """Whether the algorithm is one of the project's."""
    return section["_target_"] in ALGORITHMS


def _of_class(target: str) -> str:
    last = target.rpartition(".")[2]
    return _NAMES.get(last, last)
