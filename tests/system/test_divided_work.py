"""Work divided among processes: the results in order, whatever becomes of a process."""

from __future__ import annotations

import os
import signal

import pytest

from iql.system.divided_work import divided

PARENT = "IQL_TEST_PARENT"


def squared_here(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def dies_elsewhere(number: int) -> int:
    if os.getpid() != int(os.environ[PARENT]):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuses_four(number: int) -> int:
    if number == 4:
        raise ValueError("four")
    return number


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("processes", [1, 3])
def test_the_results_have_the_order_of_the_items(count, processes):
    found = divided(squared_here, range(count), processes)
    assert [square for square, _ in found] == [number**2 for number in range(count)]
    assert len({process for _, process in found}) == min(count, processes)


def test_what_a_killed_process_had_to_do_is_done_here(monkeypatch):
    monkeypatch.setenv(PARENT, str(os.getpid()))
    assert divided(dies_elsewhere, range(7), 3) == list(range(7))


def test_an_error_is_raised_as_if_nothing_was_divided(capfd):
    with pytest.raises(ValueError, match="four"):
        divided(refuses_four, range(7), 3)
    assert not capfd.readouterr().err
