"""A process that has the slow imports done and forks a child for each command line; commands.py is its client.

It imports third-party libraries only, and never this project: what a command does by importing iql it does itself.
It stays single-threaded and touches no tensor, so that a fork is sound. Each command comes as a connection of its
own; a watcher, forked first, forks the command, reports its process id, waits for it, and reports how it ended.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

# What the command lines import and what takes longest; wandb and onnxruntime start threads, so each command imports
# its own, and so does what draws pictures of a simulator, which settles by the environment what it draws with.
LIBRARIES = (
    "numpy.ma", "torch", "torch._dynamo", "torch.utils.data", "torch.utils.serialization", "scipy.stats", "h5py",
    "hydra.main", "omegaconf", "omegaconf._impl", "pydantic.main", "pydantic.fields", "pydantic.types",
    "pydantic.json_schema", "pydantic.functional_validators", "submitit", "concurrent.futures.process",
    "multiprocessing.popen_spawn_posix", "gymnasium.vector", "gymnasium.envs.mujoco", "gymnasium_robotics", "mujoco",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.PngImagePlugin", "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin", "plotly.graph_objects", "jinja2", "rich.table", "rich.console", "tabulate",
    "tqdm.contrib.logging", "psutil", "filelock", "requests",
)  # fmt: skip

exit_codes: list[Any] = []
"""How the command of this process ended, once it has."""


def main() -> None:
    """Serve the socket whose descriptor is the one argument until its other end is closed; in a child, the command."""
    atexit.register(leave)  # the first to be registered is the last to be called
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest and for the commands
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):  # an optional one
                importlib.import_module(name)
        plugins = importlib.import_module("hydra.core.plugins")
        plugins.Plugins.instance()  # finding Hydra's plugins imports them
    gc.collect()
    gc.freeze()  # children leave these objects alone, so that their pages stay shared
    with socket.socket(fileno=int(sys.argv[1])) as control:
        request = serve(control)
    execute(request["command"])


def serve(control: socket.socket) -> dict:
    """Fork a watcher for each connection that comes; returns only in a command's process, with its request."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not message:
            sys.exit()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            control.close()
            return watch(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def watch(connection: int, *streams: int) -> dict:
    """Fork the command and report on it; returns only in the command's process, with its request."""
    with open(connection, "r+b", buffering=0) as client:
        request = json.loads(client.readline())
        command = os.fork()
        if command == 0:
            become(request, streams)
            client.write(b"%d\n" % os.getpid())
            return request
        for descriptor in (0, 1, 2, *streams):
            os.close(descriptor)  # the command alone holds its streams open
        status = os.waitpid(command, 0)[1]
        with contextlib.suppress(BrokenPipeError):
            client.write(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(request: dict, streams: tuple[int, ...]) -> None:
    """Make this process what subprocess.Popen would have made it: session, streams, folder, environment, signals."""
    if request["start_new_session"]:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if request["cwd"] is not None:
        os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[1:1] = filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as an interpreter that is starting
    if os.isatty(1):
        sys.stdout.reconfigure(line_buffering=True)


def execute(command: list[str]) -> None:
    """Run `SCRIPT ARGUMENT…` or `-c CODE ARGUMENT…` as the interpreter does with a fresh __main__."""
    module = sys.modules["__main__"] = ModuleType("__main__")
    if command[0] == "-c":
        code, sys.argv, sys.path[0] = compile(command[1], "<string>", "exec"), ["-c", *command[2:]], ""
    else:
        module.__file__, sys.argv, sys.path[0] = command[0], command, str(Path(command[0]).parent)
        code = compile(Path(command[0]).read_bytes(), command[0], "exec")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        exec(code, vars(module))
    except SystemExit as end:
        exit_codes.append(end.code or 0)
        raise
    exit_codes.append(0)


def leave() -> None:
    """End here, after all other exit handlers: tearing down every imported module takes a quarter of a second."""
    if exit_codes and isinstance(exit_codes[0], int):
        with contextlib.suppress(OSError, ValueError):  # the interpreter's own way says what is wrong with a stream
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_codes[0] & 0xFF)


if __name__ == "__main__":
    main()
