"""The versions of mujoco on which each family of simulators was measured to move as D4RL's, step by step."""

from __future__ import annotations

MEASURED = ("3.1.6", "3.2.6", "3.2.7", "3.3.7", "3.10.0", "3.17.0", "4.0.0")
"""Versions on which the recorded steps of the original stack were replayed (tests/envs/test_mujoco_versions.py)."""

# Changes that no option undoes. Of the collision code: a sphere or capsule deep in a box since 3.2.7, which corrects a
# behaviour that D4RL's scores were made with, and two boxes since 3.4. By 3.17 also ant's steps differ (velocities by
# up to .24), hammer's (2e-5) and one of walker2d's 1,900 (2e-7).
_DEEP_IN_BOX = ("3.1.6", "3.2.6")
_BOX_AT_BOX = (*_DEEP_IN_BOX, "3.2.7", "3.3.7")
_BEFORE_317 = (*_BOX_AT_BOX, "3.10.0")

EXACT: dict[str, tuple[str, ...]] = {
    "hopper": MEASURED,
    "halfcheetah": MEASURED,
    "walker2d": _BEFORE_317,
    "ant": _BEFORE_317,
    "maze2d": MEASURED,
    "hammer": _BEFORE_317,
    "pen": MEASURED,
    "kitchen": _BOX_AT_BOX,
    "antmaze": _DEEP_IN_BOX,
    "door": _DEEP_IN_BOX,
    "relocate": _DEEP_IN_BOX,
}
"""By family, the versions on which every recorded step is D4RL's to 1e-8; kitchen's where no meshes touch."""


def family(simulator: str) -> str:
    """The family of a simulator: maze2d of maze2d-umaze."""
    return simulator.partition("-")[0]


def is_exact(simulator: str, version: str) -> bool:
    """Whether a simulator was measured to move as D4RL's on this version of mujoco; False for one never measured."""
    return version in EXACT.get(family(simulator), ())


def described(physics: str, version: str | None, exact: bool | None) -> str:
    """A short description of a simulator; exact False: D4RL's dynamics are its aim, but were not measured there."""
    where = f" on mujoco {version}" if version else ""
    return f"{physics} physics{where}" + (", not shown to equal D4RL's" if exact is False else "")
