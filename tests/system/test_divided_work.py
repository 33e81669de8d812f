"""Work divided among processes: the results in order, whatever becomes of a process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from iql.system.divided_work import divided
from iql.system.worker_context import _Worker

PARENT = "IQL_TEST_PARENT"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv(PARENT, str(os.getpid()))


def is_elsewhere() -> bool:
    return os.getpid() != int(os.environ[PARENT])


def squared_here(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def dies_elsewhere(number: int) -> int:
    if is_elsewhere():
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuses_four(number: int) -> int:
    if number == 4:
        raise ValueError("four")
    return number


def half_delivered(number: int, done: Path) -> bytes:
    """More than a pipe holds; the other processes are killed as soon as they wait for it to be taken."""
    if is_elsewhere():
        (done / str(number)).touch()
    elif number == 0:
        workers = [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
        while len(list(done.iterdir())) < 4 or any(each.status() != psutil.STATUS_SLEEPING for each in workers):
            time.sleep(0.01)
        for each in workers:
            each.kill()
    return bytes([number]) * 1_000_000


def waits(number: int) -> None:
    print(os.getpid(), flush=True)
    time.sleep(600)


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("processes", [1, 3])
def test_the_results_have_the_order_of_the_items(count, processes):
    found = divided(squared_here, range(count), processes)
    assert [square for square, _ in found] == [number**2 for number in range(count)]
    assert len({process for _, process in found}) == min(count, processes)
    assert not [each for each in psutil.Process().children() if each.status() == psutil.STATUS_ZOMBIE]


def test_what_a_killed_process_had_to_do_is_done_here():
    assert divided(dies_elsewhere, range(7), 3) == list(range(7))


def test_so_is_what_it_had_delivered_in_part(tmp_path):
    found = divided(partial(half_delivered, done=tmp_path), range(7), 3)
    assert found == [bytes([number]) * 1_000_000 for number in range(7)]


def test_and_what_a_process_that_does_not_start_had_to_do(monkeypatch):
    def start(self, real=_Worker.start):
        if attempts.pop():
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        real(self)

    attempts = [True, False, True]
    monkeypatch.setattr(_Worker, "start", start)
    found = divided(squared_here, range(8), 4)
    assert [square for square, _ in found] == [number**2 for number in range(8)]
    assert len({process for _, process in found}) == 2


def test_an_error_is_raised_as_if_nothing_was_divided(capfd):
    with pytest.raises(ValueError, match="four"):
        divided(refuses_four, range(7), 3)
    assert not capfd.readouterr().err


def test_the_processes_end_with_the_one_that_started_them():
    program = "from test_divided_work import divided, waits; divided(waits, range(3), 3)"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        processes = [psutil.Process(int(started.stdout.readline())) for _ in range(3)]
        started.kill()
    _, left = psutil.wait_procs(processes, timeout=60)
    assert not left
