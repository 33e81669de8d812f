"""The physics of D4RL's published scores: MuJoCo 2.1.0's masses and contacts in today's MuJoCo."""

from __future__ import annotations

import logging
import re
from functools import cache

import gymnasium
import mujoco
import numpy as np

from iql.envs.d4rl import mujoco_versions

log = logging.getLogger(__name__)

PROFILES = ("d4rl", "gymnasium")
"""d4rl: MuJoCo 2.1.0's dynamics, as in the published scores; gymnasium: the installed MuJoCo's own."""


def facts(physics: str, simulator: str) -> dict[str, object]:
    """The facts recorded beside a score: {"mujoco": version, "physics": profile, "exact_physics": bool | None}.

    exact_physics says whether the simulator was measured to move as D4RL's on this version of mujoco; None for the
    profile without that aim. Logs one warning per process and family where it was not. Raises ValueError for an
    unknown profile.
    """
    if physics not in PROFILES:
        raise ValueError(f"physics={physics!r} is not one of {', '.join(PROFILES)}")
    version = mujoco.__version__
    exact = mujoco_versions.is_exact(simulator, version) if physics == "d4rl" else None
    if exact is False:
        _warn_of(mujoco_versions.family(simulator), version)
    return {"mujoco": version, "physics": physics, "exact_physics": exact}


def version_of(env: gymnasium.Env) -> str | None:
    """The installed mujoco's version where an environment runs on it, else None."""
    return mujoco.__version__ if isinstance(getattr(env.unwrapped, "model", None), mujoco.MjModel) else None


def log_warnings() -> None:
    """Send MuJoCo's own warnings (an unstable simulation) to the log.

    By default MuJoCo writes them to MUJOCO_LOG.TXT in the current folder.
    """
    mujoco.set_mju_user_warning(lambda message: log.debug("MuJoCo: %s", message))


@cache
def _warn_of(family: str, version: str) -> None:
    shown = mujoco_versions.EXACT.get(family, ())
    advice = f" (it was on {', '.join(shown)}; 3.1.6 needs Python 3.12 or older, 3.2.6 3.13 or older)" if shown else ""
    log.warning(
        "mujoco %s is installed, on which %s was not shown to move as D4RL's simulator%s: its scores may not be "
        "comparable to published ones, and reports keep them apart",
        version,
        family,
        advice,
    )


def restore_contacts(model: mujoco.MjModel) -> None:
    """Restore the contacts of MuJoCo 2.1.0, as far as options of newer versions can (docs/tasks.md).

    From 3.5.0 on the margins of two geoms add up where the larger one counted before: they are halved. General convex
    collisions go through libccd and find one contact a pair, where newer versions have a method of their own that may
    find several. Where a version lacks an option, it has the old behaviour; 3.1.6 needs none of this.
    """
    if _version() >= (3, 5):
        model.geom_margin[:] /= 2
    for flag in ("mjDSBL_NATIVECCD", "mjDSBL_MULTICCD"):
        model.opt.disableflags |= int(getattr(mujoco.mjtDisableBit, flag, 0))


def _version() -> tuple[int, ...]:
    """The installed mujoco's version: (3, 1, 6)."""
    return tuple(int(part) for part in re.findall(r"\d+", mujoco.__version__)[:3])


def restore_capsule_masses(model: mujoco.MjModel, total_mass: float | None = None) -> None:
    """Give every body that has capsules the mass and inertia it had in MuJoCo 2.1.0.

    MuJoCo 2.1.0 took a capsule of radius r and length L for a solid cylinder of length h = L + r:
    m = ρπr²h, Ixx = Iyy = m(3r² + h²)/12, Izz = mr²/2 (measured against that version's own models).
    The density ρ (kg/m³), which a compiled model no longer holds, follows from the body's mass and its
    geoms' true volumes; it is taken to be one per body.

    total_mass  kg, where the model's XML asks for it (settotalmass); all masses are scaled to it

    Changes body_mass, body_inertia, body_ipos and body_iquat, then every constant that MuJoCo derives
    from them. Raises ValueError for a body that mixes capsules with geoms other than spheres.
    """
    capsule = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
    for body in range(1, model.nbody):
        geoms = np.flatnonzero(model.geom_bodyid == body).tolist()
        if not np.any(model.geom_type[geoms] == capsule):
            continue
        density = model.body_mass[body] / sum([_volume(model, geom) for geom in geoms])
        masses = np.empty(len(geoms))
        inertias = np.empty((len(geoms), 3))
        for index, geom in enumerate(geoms):
            masses[index], inertias[index] = _mass_and_inertia(model, geom, density)
        _set_inertia(model, body, geoms, masses, inertias)
    if total_mass is not None:
        scale = total_mass / model.body_mass.sum()
        model.body_mass *= scale
        model.body_inertia *= scale
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _volume(model: mujoco.MjModel, geom: int) -> float:
    """Volume (m³) of a capsule or sphere, as today's MuJoCo has it."""
    radius, half = model.geom_size[geom, :2]
    ball = 4.0 / 3.0 * np.pi * radius**3
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return ball + np.pi * radius**2 * 2.0 * half
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
        return ball
    raise ValueError(f"geom {geom} is neither a capsule nor a sphere, on a body that has capsules")


def _mass_and_inertia(model: mujoco.MjModel, geom: int, density: float) -> tuple[float, np.ndarray]:
    """Mass (kg) and principal moments [3] (kg·m²) of a geom in its own frame, as in MuJoCo 2.1.0."""
    radius, half = model.geom_size[geom, :2]
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
        mass = density * _volume(model, geom)
        return mass, np.full(3, 0.4 * mass * radius**2)
    height = 2.0 * half + radius
    mass = density * np.pi * radius**2 * height
    across = mass * (3.0 * radius**2 + height**2) / 12.0
    return mass, np.array([across, across, mass * radius**2 / 2.0])


def _set_inertia(model: mujoco.MjModel, body: int, geoms: list[int], masses: np.ndarray, inertias: np.ndarray) -> None:
    """Write a body's inertial frame from its geoms' masses [G] and principal moments [G, 3]."""
    mass = masses.sum()
    model.body_mass[body] = mass
    if len(geoms) == 1:  # MuJoCo's compiler takes the only geom's frame over as it is
        model.body_ipos[body] = model.geom_pos[geoms[0]]
        model.body_iquat[body] = model.geom_quat[geoms[0]]
        model.body_inertia[body] = inertias[0]
        return
    centre = masses @ model.geom_pos[geoms] / mass
    tensor = np.zeros((3, 3))
    rotation = np.empty(9)
    for geom, geom_mass, inertia in zip(geoms, masses, inertias, strict=True):
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        axes = rotation.reshape(3, 3)
        offset = model.geom_pos[geom] - centre
        tensor += axes @ np.diag(inertia) @ axes.T
        tensor += geom_mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))
    moments, vectors, quaternion = np.empty(3), np.empty(9), np.empty(4)
    mujoco.mju_eig3(moments, vectors, quaternion, tensor.ravel())
    model.body_ipos[body] = centre
    model.body_iquat[body] = quaternion
    model.body_inertia[body] = moments
