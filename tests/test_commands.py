"""The fork server: a forked command line is to its caller and to itself what a cold start is."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import commands
import psutil
import pytest

# What a command can know of how it was started.
FACTS = """
import json, os, signal, sys
print(json.dumps({
    "arguments": sys.argv, "name": __name__, "main": sys.modules["__main__"].__dict__ is globals(),
    "file": globals().get("__file__"), "path": sys.path, "folder": os.getcwd(), "environment": dict(os.environ),
    "session": os.getsid(0) == os.getpid(), "input": sys.stdin.read(), "iql": "iql" in sys.modules,
    "descriptors": sorted(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task")),
    "signals": {each.name: str(signal.getsignal(each)) for each in signal.Signals},
    "streams": [(each.encoding, each.errors, each.line_buffering) for each in (sys.stdin, sys.stdout, sys.stderr)],
    "torch": __import__("torch").get_num_threads(),
}))
"""
both = pytest.mark.parametrize("cold", [False, True], ids=["forked", "cold"])


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("kind", ["code", "script"])
def test_a_forked_command_sees_what_a_cold_one_sees(tmp_path, kind, session):
    (tmp_path / "facts.py").write_text(FACTS)
    command = python(FACTS, "a b", "é") if kind == "code" else [sys.executable, tmp_path / "facts.py", "a b", "é"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OWN": "1"}
    seen = [
        commands.run(
            command,
            input="in",
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env=environment,
            start_new_session=session,
            cold=cold,
        ).stdout
        for cold in (False, True)
    ]
    assert seen[0] == seen[1]


@both
@pytest.mark.parametrize(
    ("code", "expected", "complaint"),
    [
        ("", 0, ""),
        ("raise SystemExit", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("raise SystemExit('a line')", 1, "a line"),
        ("raise ValueError('seen')", 1, "ValueError: seen"),
        ("this is no Python", 1, "SyntaxError"),
        ("import os; os._exit(9)", 9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import atexit, sys; atexit.register(lambda: print('last', file=sys.stderr))", 0, "last"),
        ("import threading as t; t.Timer(0.1, lambda: print(1 / 0)).start()", 0, "ZeroDivisionError"),
    ],
)
def test_ends_are_reported_as_popen_does(cold, code, expected, complaint):
    done = commands.run(python(code), capture_output=True, text=True, cold=cold)
    assert done.returncode == expected
    assert complaint in done.stderr and bool(done.stderr) == bool(complaint)


@both
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(cold, number):
    code = "import time; print('ready', flush=True); time.sleep(100)"
    with commands.start(python(code), stdout=commands.PIPE, stderr=commands.PIPE, text=True, cold=cold) as process:
        assert process.stdout.readline() == "ready\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=20) == process.poll() == -number
        process.send_signal(number)  # no longer there, and no error


@both
def test_a_session_can_be_ended_as_a_group(cold):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(100)'])"
    process = commands.start(python(code), start_new_session=True, cold=cold)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL


@both
def test_what_it_wrote_before_a_timeout_is_not_lost(cold):
    code = "import sys, time; print('out', flush=True); print('err', file=sys.stderr, flush=True); time.sleep(100)"
    process = commands.start(python(code), stdout=commands.PIPE, stderr=commands.PIPE, text=True, cold=cold)
    with pytest.raises(commands.TimeoutExpired):
        process.communicate(timeout=0.5)
    process.kill()
    assert process.communicate() == ("out\n", "err\n")
    with pytest.raises(commands.TimeoutExpired):
        commands.run(python(code), capture_output=True, timeout=0.5, cold=cold)


@both
def test_streams_go_where_they_are_sent(cold, tmp_path):
    code = "import sys; print(len(sys.stdin.read())); print('err', file=sys.stderr)"
    with (tmp_path / "log").open("w") as log:
        commands.run(python(code), stdin=commands.DEVNULL, stdout=log, stderr=commands.STDOUT, check=True, cold=cold)
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["0", "err"]
    much = "x" * 1_000_000
    assert commands.run(python(code), input=much, stdout=commands.PIPE, text=True, cold=cold).stdout == "1000000\n"
    assert commands.run(python("print('é')"), stdout=commands.PIPE, cold=cold).stdout == "é\n".encode()


def test_an_environment_that_settles_what_the_server_has_settled_starts_cold():
    for settled in ({"OMP_NUM_THREADS": "3"}, {"PYTHONHASHSEED": "0"}):
        with commands.start(python(""), env={**os.environ, **settled}) as process:
            assert isinstance(process, commands.Popen)
    with commands.start([sys.executable, "-I", "-c", ""]) as process:
        assert isinstance(process, commands.Popen)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every start is cold")
def test_the_server_has_one_thread_and_leaves_no_process_behind():
    process = commands.start(python("print(1)"), stdout=commands.PIPE)
    server = psutil.Process(psutil.Process(process.pid).ppid()).parent()
    assert Path(server.cmdline()[1]).name == "forkserver.py"
    assert server.num_threads() == 1
    process.communicate()
    for _ in range(5):
        commands.run(python(""))
    assert len(server.children()) <= 2  # those that have ended are cleared away when the next command comes
