"""Starts command lines of this project, each in a process of its own, forked by a server that has the imports done.

`start` and `run` are to `[sys.executable, SCRIPT or -c CODE, …]` what subprocess.Popen and subprocess.run are: the same
streams, environment, folder, session, signals and exit codes. A cold start spends 1 to 4 seconds on importing libraries
(torch above all), which forkserver.py does once. Started cold all the same are `cold=True`, other commands, those whose
environment settles before a program begins what the server has settled otherwise, and all where there is no Linux.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, Popen, TimeoutExpired
from typing import IO, Any

# Beginnings of the names of environment variables that the interpreter or a library reads when it is loaded; the
# locale is not among them, for wherever tests run its encoding is UTF-8, and PYTHONPATH the forked process obeys.
_SETTLING = ("PYTHON", "LD_", "TZ", "MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH", "CUDA_", "MPL")
_SETTLING += ("MUJOCO_GL", "PYOPENGL_")


class Forked:
    """A command that the server forked; its attributes and methods are those of subprocess.Popen."""

    def __init__(self, args: list[str], env: dict[str, str], cwd: Any, text: bool, session: bool, *streams: Any):
        self.args, self.returncode = args, None
        self._readers: list[_Reader] = []
        given, (self.stdin, self.stdout, self.stderr) = _connected(streams, text)
        ours, theirs = socket.socketpair()
        given.insert(0, theirs.detach())
        socket.send_fds(_server()[0], [b"+"], given)
        for descriptor in given:
            os.close(descriptor)
        request = {"command": args[1:], "env": env, "cwd": cwd, "start_new_session": session}
        with ours:
            self._answers = ours.makefile("rb", buffering=0)
            ours.sendall(json.dumps(request, default=os.fspath).encode() + b"\n")
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or minus the number of the signal that ended it. Raises TimeoutExpired."""
        if self.returncode is None:
            ready = select.poll()  # select() itself takes no descriptor above 1,023
            ready.register(self._answers, select.POLLIN)
            if not ready.poll(None if timeout is None else 1000 * timeout):
                raise TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """What it writes until its end. Raises TimeoutExpired; a later call then returns all of it."""
        end = None if timeout is None else time.monotonic() + timeout
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input or self.stdin.read(0))
        self._readers = self._readers or [_Reader(stream) for stream in (self.stdout, self.stderr)]
        for reader in self._readers:
            reader.join(end and max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise TimeoutExpired(self.args, timeout or 0)
        self.wait(end and max(0.0, end - time.monotonic()))
        return self._readers[0].content, self._readers[1].content

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


Process = Popen | Forked


class _Reader(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, stream: IO | None):
        super().__init__(daemon=True)
        self._stream, self.content = stream, None
        self.start()

    def run(self) -> None:
        if self._stream is not None:
            with self._stream:
                self.content = self._stream.read()


def _connected(streams: tuple[Any, ...], text: bool) -> tuple[list[int], list[IO | None]]:
    """The descriptors to give to a process for stdin, stdout and stderr, and our ends of those that are pipes."""
    given: list[int] = []
    ours: list[IO | None] = []
    for number, stream in enumerate(streams):
        ours.append(None)
        if stream == PIPE:
            ends = os.pipe() if number == 0 else os.pipe()[::-1]  # (theirs, ours)
            given.append(ends[0])
            ours[number] = os.fdopen(ends[1], f"{'r' if number else 'w'}{'' if text else 'b'}")
        elif stream == DEVNULL:
            given.append(os.open(os.devnull, os.O_RDWR))
        else:
            inherited = given[1] if stream == STDOUT else number if stream is None else stream
            given.append(os.dup(inherited if isinstance(inherited, int) else inherited.fileno()))
    return given, ours


def _settled(env: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key.startswith(_SETTLING) and key != "PYTHONPATH"}


@functools.cache
def _environment_of_server() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@functools.cache
def _server() -> tuple[socket.socket, Popen]:
    """Where the fork server takes connections and streams, and its process, which ends with this one."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, str(Path(__file__).with_name("forkserver.py")), str(theirs.fileno())]
    with theirs:
        return ours, Popen(command, pass_fds=[theirs.fileno()], stdin=DEVNULL, env=_environment_of_server())


def start(
    args: list[Any],
    *,
    env: dict[str, str] | None = None,
    cwd: Any = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    text: bool = False,
    start_new_session: bool = False,
    cold: bool = False,
) -> Process:
    """Start a command line as subprocess.Popen does; `cold`: by a new interpreter."""
    command = [os.fspath(word) for word in args]
    env = dict(os.environ) if env is None else env
    ours = command[0] == sys.executable and (command[1] == "-c" or command[1].endswith(".py"))
    if cold or not ours or sys.platform != "linux" or _settled(env) != _settled(_environment_of_server()):
        return Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            start_new_session=start_new_session,
        )
    return Forked(command, env, cwd, text, start_new_session, stdin, stdout, stderr)


def run(
    args: list[Any],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> CompletedProcess:
    """Run a command line to its end as subprocess.run does."""
    if capture_output:
        options |= {"stdout": PIPE, "stderr": PIPE}
    if input is not None:
        options["stdin"] = PIPE
    with start(args, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:  # a timeout, Ctrl-C
            process.kill()
            raise
    done = CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done
