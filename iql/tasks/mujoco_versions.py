"""On which versions of mujoco each family of simulators was shown to move as D4RL's, step by step."""

from __future__ import annotations

MEASURED = ("3.1.6", "3.2.7", "3.3.7", "3.8.1")
"""Versions on which the recorded steps of the original stack were taken again (tests/test_mujoco_versions.py)."""

# Changes of the collision code that no option undoes: a capsule at a box since 3.2, two boxes since 3.4.
_CAPSULE_AT_BOX = ("3.1.6",)
_BOX_AT_BOX = ("3.1.6", "3.2.7", "3.3.7")

EXACT: dict[str, tuple[str, ...]] = {
    "hopper": MEASURED,
    "halfcheetah": MEASURED,
    "walker2d": MEASURED,
    "ant": MEASURED,
    "maze2d": MEASURED,
    "hammer": MEASURED,
    "pen": MEASURED,
    "kitchen": _BOX_AT_BOX,
    "antmaze": _CAPSULE_AT_BOX,
    "door": _CAPSULE_AT_BOX,
    "relocate": _CAPSULE_AT_BOX,
}
"""By family, the versions on which every recorded step is D4RL's to 1e-8; kitchen's where no meshes touch."""


def family(simulator: str) -> str:
    """The family of a simulator: maze2d of maze2d-umaze."""
    return simulator.partition("-")[0]


def is_exact(simulator: str, version: str) -> bool:
    """Whether a simulator was shown to move as D4RL's on this version of mujoco; False for one never measured."""
    return version in EXACT.get(family(simulator), ())


def described(physics: str, version: str | None, exact: bool | None) -> str:
    """A simulator in a few words; exact False: its profile claims D4RL's dynamics, and they were not shown there."""
    where = f" on mujoco {version}" if version else ""
    return f"{physics} physics{where}" + (", not shown to equal D4RL's" if exact is False else "")
