"""Hosts D4RL's own environments (gym, mujoco-py, d4rl) for iql.envs.legacy.client.

A program of its own that the old stack's Python (3.9 or later) runs: it imports the standard library and
numpy, the old stack when environments are opened, and nothing of iql.

A message in either direction is two lengths (uint32, little-endian), a header in JSON and an array of float64.
Requests name a command; a reply to one that failed is {"error": one line}, and {"note": line} may come
before any reply. The output of gym, d4rl and the compiler goes to stderr, so that it does not mix with messages.
"""

from __future__ import annotations

import collections
import collections.abc
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import types
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

RUN_SEED_BIT = 31
"""A reset's seed from 2³¹ up holds a run's seed in its bits from this one up, which then determines goals."""

PACKAGES = {"gym": ("gym",), "d4rl": ("d4rl",), "mujoco_py": ("mujoco-py", "free-mujoco-py")}
"""The modules that must be importable, and the distributions that may provide each."""


def send(stream: BinaryIO, header: dict[str, Any], values: np.ndarray | None = None) -> None:
    """Write one message; values of any shape go as float64."""
    head = json.dumps(header).encode()
    body = b"" if values is None else np.ascontiguousarray(values, "<f8").tobytes()
    stream.write(struct.pack("<II", len(head), len(body)) + head + body)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], np.ndarray]:
    """Read one message: header, values [N] float64. Raises EOFError where the other side has ended."""
    head, body = struct.unpack("<II", _exactly(stream, 8))
    return json.loads(_exactly(stream, head)), np.frombuffer(_exactly(stream, body), "<f8")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


class Refused(Exception):
    """An error whose message is sent to the other side unchanged."""


class Host:
    """The environments and the commands on them; every method returns (header, values)."""

    def __init__(self, note: Any) -> None:
        self._note = note
        self._envs: list[Any] = []

    def open(self, env_id: str, num: int) -> tuple[dict, np.ndarray | None]:
        gym = _import_stack(self._note)
        try:
            made = [gym.make(env_id) for _ in range(num)]
        except gym.error.UnregisteredEnv as error:
            raise Refused(f"gym and d4rl have no environment {env_id}: {_one_line(error)}") from error
        for env in made:
            while isinstance(env, gym.Wrapper):  # the other side applies the step limit
                env = env.env
            self._envs.append(env)
        sizes = self._envs[0].observation_space.shape[0], self._envs[0].action_space.shape[0]
        return {"sizes": sizes}, None

    def reset(self, which: list[int], seeds: list[int]) -> tuple[dict, np.ndarray | None]:
        """New episodes in the environments `which`; each depends on its seed alone."""
        rows = []
        for index, seed in zip(which, seeds):  # noqa: B905  Python 3.9 has no strict
            base = _base(self._envs[index])
            base.seed(seed)  # the innermost one's: d4rl's wrapper does not pass the seed on
            goal_seed = seed >> RUN_SEED_BIT or seed
            np.random.seed([goal_seed & 0xFFFFFFFF, goal_seed >> 32])
            if getattr(base, "v2_resets", True) is False:  # antmaze before v2: reset() leaves the goal as it was
                base.set_target()
            rows.append(self._envs[index].reset())
        return {}, np.array(rows, float)

    def step(self, dtype: str, values: np.ndarray) -> tuple[dict, np.ndarray | None]:
        """Step all environments; a row is the observation, the reward and whether the episode ended."""
        rows = []
        actions = values.reshape(len(self._envs), -1).astype(dtype)
        for env, action in zip(self._envs, actions):  # noqa: B905
            observation, reward, done, _ = env.step(action)
            rows.append([*observation, reward, float(done)])
        return {}, np.array(rows, float)

    def set_state(self, index: int, state: dict[str, list[float]]) -> tuple[dict, np.ndarray | None]:
        """Set the state of one environment, as get_state returns it."""
        base = _base(self._envs[index])
        arrays = {key: np.array(value) for key, value in state.items()}
        if "goal" in arrays:
            base.set_target(arrays.pop("goal"))
        if hasattr(base, "set_env_state"):
            base.set_env_state(arrays)
        else:
            base.set_state(arrays["qpos"], arrays["qvel"])
        return {}, None

    def get_state(self, index: int) -> tuple[dict, np.ndarray | None]:
        """qpos and qvel; of antmaze its goal; of Adroit the positions of the scene's movable parts."""
        base = _base(self._envs[index])
        state = {"qpos": base.sim.data.qpos, "qvel": base.sim.data.qvel}
        if hasattr(base, "get_env_state"):
            state = base.get_env_state()
            if "palm_pos" in state:  # relocate returns its ball's position, but takes its initial one
                state["obj_pos"] = base.model.body_pos[base.obj_bid]
        elif hasattr(base, "v2_resets"):
            state["goal"] = np.array(base.target_goal)
        return {"state": {key: np.asarray(value).tolist() for key, value in state.items()}}, None


def _base(env: Any) -> Any:
    while "_wrapped_env" in vars(env):
        env = env._wrapped_env
    return env


def _import_stack(note: Any) -> Any:
    """gym, with d4rl's environments registered."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(f"has no {', '.join(missing)}")
    home = Path(importlib.util.find_spec("mujoco_py").origin).parent  # type: ignore[union-attr,arg-type]
    if not list(home.glob(f"generated/cymj_*_{sys.version_info[0]}{sys.version_info[1]}_linux*.so")):
        note("mujoco-py is compiled now, once for its environment; it takes about 80 s")
    warnings.simplefilter("ignore")
    import gym
    import mujoco_py

    gym.logger.set_level(gym.logger.ERROR)
    _add_substitutes(gym, mujoco_py)
    import d4rl  # noqa: F401

    kitchen: Any = sys.modules.get("d4rl.kitchen.adept_envs.mujoco_env")
    if kitchen is not None:
        kitchen.USE_DM_CONTROL = False  # dm_control would bring a MuJoCo of today; mujoco_py has 2.1.0
    return gym


def _add_substitutes(gym: Any, mujoco_py: Any) -> None:
    """Provide d4rl's imports that cannot be installed: mjrl's MujocoEnv, dm_control's renderer, collections.Mapping."""

    class MujocoEnv(gym.Env):
        """The part of mjrl.envs.mujoco_env.MujocoEnv that d4rl's Adroit tasks use, without rendering."""

        def __init__(self, model_path: str, frame_skip: int) -> None:
            self.frame_skip = frame_skip
            self.model = mujoco_py.load_model_from_path(model_path)
            self.sim = mujoco_py.MjSim(self.model)
            self.data = self.sim.data
            self.init_qpos = self.data.qpos.copy()
            self.init_qvel = self.data.qvel.copy()
            low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
            self.action_space = gym.spaces.Box(low, high, dtype=np.float32)
            observation = self.step(np.zeros(self.model.nu))[0]
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, observation.shape, dtype=np.float32)

        def reset(self) -> np.ndarray:
            self.sim.reset()
            self.sim.forward()
            return self.reset_model()

        def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
            state = self.sim.get_state()
            state.qpos[:] = qpos
            state.qvel[:] = qvel
            self.sim.set_state(state)
            self.sim.forward()

        def do_simulation(self, control: np.ndarray, steps: int) -> None:
            self.data.ctrl[:] = control
            for _ in range(steps):
                self.sim.step()

    substitutes = ("mjrl", "mjrl.envs", "mjrl.envs.mujoco_env", "dm_control", "dm_control.mujoco")
    for name in (*substitutes, "dm_control.mujoco.engine"):
        sys.modules[name] = types.ModuleType(name)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, sys.modules[name])
    sys.modules["mjrl.envs.mujoco_env"].MujocoEnv = MujocoEnv  # type: ignore[attr-defined]
    collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]


def mujoco_folder() -> Path | None:
    """MuJoCo 2.1.0: in this environment (from scripts/legacy.py), in free-mujoco-py, or the user's own."""
    found = importlib.util.find_spec("mujoco_py")
    packaged = Path(found.origin).parent / "binaries/linux" if found and found.origin else Path()
    places = [Path(sys.prefix), packaged, Path(os.path.expanduser("~/.mujoco"))]
    return next((place / "mujoco210" for place in places if (place / "mujoco210/bin").is_dir()), None)


def versions() -> dict[str, str]:
    """The installed versions, of packages by their import name and of MuJoCo; missing ones are left out."""
    have = {}
    for name, distributions in PACKAGES.items():
        for distribution in distributions:
            try:
                have[name] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
    if folder := mujoco_folder():
        number = ctypes.CDLL(str(folder / "bin/libmujoco210nogl.so")).mj_version()
        have["mujoco"] = f"{number // 100}.{number // 10 % 10}.{number % 10}"
    return have


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _answer(host: Host, request: dict[str, Any], values: np.ndarray) -> tuple[dict, np.ndarray | None]:
    command = getattr(host, request.pop("command"))
    try:
        return command(**request, **({"values": values} if len(values) else {}))
    except Refused as refusal:
        return {"error": str(refusal)}, None
    except Exception as error:  # mujoco_py raises bare ones
        return {"error": f"{type(error).__name__}: {_one_line(error)}"}, None


def _end_with_parent(parent: int, folder: str) -> None:
    """End this process with its parent, even during a compilation."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # the compiler too: the parent started this process in its own session


def _set_library_path() -> None:
    """Restart this program unless MuJoCo's folder is in the linker's path, which is read only at a start."""
    folder = mujoco_folder()
    places = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if folder is not None and str(folder / "bin") not in places:
        path = ":".join([str(folder / "bin"), *filter(None, places)])
        os.environ.update(MUJOCO_PY_MUJOCO_PATH=str(folder), LD_LIBRARY_PATH=path)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
    sys.path.remove(str(Path(__file__).parent))  # the old stack must not find our modules
    _set_library_path()
    folder = sys.argv[1]
    parent = os.getppid()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(parent, folder), daemon=True).start()
    tempfile.tempdir = folder  # d4rl does not delete its mazes' models
    os.environ.update(D4RL_DATASET_DIR=folder, D4RL_SUPPRESS_IMPORT_ERROR="1", MUJOCO_PY_FORCE_CPU="1")
    host = Host(lambda line: send(replies, {"note": line}))
    try:
        while True:
            send(replies, *_answer(host, *receive(requests)))
    except (EOFError, BrokenPipeError):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--versions"]:
        print(json.dumps(versions()))
    else:
        main()
