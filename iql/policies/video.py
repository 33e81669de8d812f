"""A video of a policy at work, drawn without a screen."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from iql.envs.d4rl.mazes import Maze
from iql.envs.vector import Lockstep
from iql.errors import UserError
from iql.evaluation.rollout import CHUNK, Act, evaluate_chunk
from iql.system.atomic_files import replacing
from iql.tasks.task import Task

WIDTH, HEIGHT = 640, 480
"""Pixels; what MuJoCo's own frame buffer holds by default."""

MOST_FRAMES = 60
"""Frames a second at most."""

_TRY = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
assert renderer.render().shape == (16, 16, 3)
"""


def choose_backend() -> str:
    """Have MuJoCo draw without a screen: on EGL, else OSMesa; returns which. What MUJOCO_GL says stands.

    To be called before mujoco is imported, which looks at MUJOCO_GL then. Raises UserError where neither draws.
    """
    logging.getLogger("OpenGL").setLevel(logging.WARNING)  # it tells of a module that it does without
    own = os.environ.get("MUJOCO_GL")
    for backend in (own,) if own else ("egl", "osmesa"):
        environment = {**os.environ, "MUJOCO_GL": backend}
        tried = subprocess.run([sys.executable, "-c", _TRY], env=environment, capture_output=True, timeout=120)
        if tried.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return backend
    if own:
        raise UserError(f"--video: MUJOCO_GL={own} draws nothing here; unset it to have EGL or OSMesa")
    raise UserError("--video: neither EGL nor OSMesa draws here: apt-get install libegl1 libegl-mesa0, or libosmesa6")


def film(task: Task, act: Act, seeds: Sequence[int], episodes: int, path: Path) -> np.ndarray:
    """Write the first `episodes` of the episodes with these seeds to `path`, an mp4 file; returns their returns.

    Each is played in the chunk that it is played in without being filmed, so that it comes out the same. Raises
    UserError for a task that cannot be drawn.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(f"--video: needs packages of an extra ({error}): pip install -e '.[video]'") from error
    if not hasattr(task, "env_makers") or getattr(task, "physics", None) == "legacy":
        raise UserError(f"--video: {task.name} has no environment of ours to be drawn; leave --video out")
    chunk = list(seeds[:CHUNK])
    returns = np.zeros(min(episodes, len(chunk)))
    with replacing(path) as file:
        with Film(Path(file.name)) as film:
            for index in range(len(returns)):
                makers = list(task.env_makers(len(chunk)))
                makers[index] = partial(_filmed, makers[index], task.maze, film)
                envs = Lockstep(makers)
                returns[index] = evaluate_chunk(act, envs, chunk).returns[index]
                envs.close()
        try:
            found, _ = imageio_ffmpeg.count_frames_and_secs(file.name)
        except RuntimeError:  # it is no film at all
            found = 0
        if found != film.frames:
            raise UserError(f"--video {path}: {found} of {film.frames} frames were written; is the disk full?")
    return returns


class Film:
    """An mp4 file as it is written, frame by frame; the first says how many make a second. frames: so far."""

    def __init__(self, path: Path):
        self.path = path
        self.frames = 0
        self._writer: Any = None

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, frame: np.ndarray, seconds: float) -> None:
        """A frame [HEIGHT, WIDTH, 3] uint8 that is shown for so many seconds."""
        if self._writer is None:
            from imageio_ffmpeg import write_frames

            self._writer = write_frames(
                str(self.path),
                (frame.shape[1], frame.shape[0]),
                fps=1 / seconds,
                quality=8,
                ffmpeg_log_level="quiet",
                output_params=["-f", "mp4"],  # the name of a file that is being written does not say
            )
            self._writer.send(None)
        self._writer.send(np.ascontiguousarray(frame))
        self.frames += 1


class Filmed(gymnasium.Wrapper):
    """An environment on mujoco whose steps are drawn. Raises UserError for one that runs on something else."""

    def __init__(self, env: gymnasium.Env, maze: Maze | None, film: Film):
        import mujoco

        super().__init__(env)
        self._data: Any
        model, self._data = (getattr(env.unwrapped, name, None) for name in ("model", "data"))
        if not isinstance(model, mujoco.MjModel):
            raise UserError(f"--video: {env.unwrapped} does not run on mujoco, and only that is drawn")
        self._renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
        self._camera = _above(model) if maze is not None else _usual_camera(env)
        self._film = film
        self._steps = 0

    def step(self, action: Any) -> Any:
        before = self._data.time
        outcome = super().step(action)
        seconds = self._data.time - before
        every = math.ceil(1 / (seconds * MOST_FRAMES))
        if self._steps % every == 0:
            self._film.add(self.frame(), seconds * every)
        self._steps += 1
        return outcome

    def frame(self) -> np.ndarray:
        """What it looks like now, [HEIGHT, WIDTH, 3] uint8."""
        self._renderer.update_scene(self._data, self._camera)
        goal = getattr(self.env.unwrapped, "goal", None)
        if goal is not None and np.shape(goal) == (2,):  # antmaze's, which its model does not hold
            _mark(self._renderer.scene, goal)
        return self._renderer.render().copy()

    def close(self) -> None:
        self._renderer.close()
        super().close()


def _filmed(make: Callable[[], gymnasium.Env], maze: Maze | None, film: Film) -> Filmed:
    return Filmed(make(), maze, film)


def _usual_camera(env: gymnasium.Env) -> Any:
    """The camera that follows the body where the model has one, else as Gymnasium places it."""
    import mujoco

    model, data = env.unwrapped.model, env.unwrapped.data  # type: ignore[attr-defined]
    camera = mujoco.MjvCamera()
    track = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if track >= 0:
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, track
        return camera
    mujoco.mj_forward(model, data)
    camera.lookat[:] = np.median(data.geom_xpos, axis=0)
    camera.distance = model.stat.extent
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    for name, value in (getattr(renderer, "default_cam_config", None) or {}).items():
        if name == "lookat":
            camera.lookat[:] = value
        else:
            setattr(camera, name, value)
    return camera


def _above(model: Any) -> Any:
    """A camera over the middle of a maze that sees all its walls, x to the right and y upwards."""
    import mujoco

    walls = model.geom_type == mujoco.mjtGeom.mjGEOM_BOX
    corners = [model.geom_pos[walls, :2] + sign * model.geom_size[walls, :2] for sign in (-1, 1)]
    low, high = corners[0].min(0), corners[1].max(0)
    width, height = high - low
    camera = mujoco.MjvCamera()
    camera.lookat[:2] = (low + high) / 2
    camera.azimuth, camera.elevation = 90, -90
    seen = max(height, width * HEIGHT / WIDTH)  # that the camera must see from bottom to top
    top = float((model.geom_pos[walls, 2] + model.geom_size[walls, 2]).max())
    camera.distance = top + seen / 2 / np.tan(np.radians(model.vis.global_.fovy) / 2)
    return camera


def _mark(scene: Any, place: np.ndarray) -> None:
    """Put a ball where the goal is."""
    import mujoco

    geom = scene.geoms[scene.ngeom]
    position, size, colour = np.array([*place, 0.5]), np.full(3, 0.5), np.array([0.9, 0.6, 0.0, 1.0], np.float32)
    mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_SPHERE, size, position, np.eye(3).ravel(), colour)
    scene.ngeom += 1
