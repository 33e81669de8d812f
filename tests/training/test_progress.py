"""A bar on a terminal, plain lines elsewhere, and never an error in training."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import select
import struct
import termios

import pytest

from iql.training import progress
from iql.training.progress import Progress

NETWORKS = ("value", "q", "policy")
SEEDS = ["tau=0.7-1a2b seed=0", "tau=0.7-1a2b seed=1"]


def losses(value: float) -> dict:
    return {"kind": "train", "value_loss": value, "q_loss": 2 * value, "policy_loss": -value}


def score(value: float) -> dict:
    return {"kind": "eval", "score": value, "score_std": 3.5, "return_mean": 7 * value, "length_mean": 150.2}


@pytest.fixture
def terminal():
    """A stream that is a terminal of 120 columns, and a function that reads what it showed."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    stream = os.fdopen(follower, "w", encoding="utf-8")

    def shown() -> str:
        stream.flush()
        text = b""
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(leader, select.POLLIN)
        while poll.poll(200):  # what was written arrives in pieces
            text += os.read(leader, 1 << 16)
        return text.decode()

    yield stream, shown
    stream.close()
    os.close(leader)


def test_log_file_has_lines_at_intervals_and_each_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 10.0, 20.0, 31.0, 40.0, 100.0])  # built, then one each for 100 to 600
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    shown = Progress(1000, 0, SEEDS, NETWORKS, stream=stream)
    for update in range(100, 600, 100):
        shown.train(update, [losses(0.1), losses(0.3)])
    shown.evaluated(500, [score(50.0), score(60.0)])
    shown.train(1000, [losses(0.1), losses(0.3)])
    shown.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "update 100 of 1",  # 1,000
        "update 400 of 1",
        "update 500 of 1",
        "update 1",
    ]
    assert "(40 %), losses: value 0.2 q 0.4 policy -0.2, 13 updates/s, 00:46 left" in lines[1]
    assert lines[2].endswith("(50 %), score 55.0: seed=0 50.0, seed=1 60.0")
    assert "100 %" in lines[3]  # the end is told whenever it comes
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_one_run_tells_its_spread() -> None:
    stream = io.StringIO()
    Progress(20000, 0, SEEDS[:1], NETWORKS, stream=stream).evaluated(5000, [score(48.25)])
    assert stream.getvalue() == "update 5,000 of 20,000 (25 %), score 48.2 ± 3.5 (return 337.8, length 150)\n"


def test_resumed_run_counts_its_speed_from_where_it_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    Progress(1000, 900, SEEDS[:1], NETWORKS, stream=stream).train(950, [losses(0.1)])
    assert "5 updates/s, 00:10 left" in stream.getvalue()


def test_terminal_has_a_bar_with_losses_score_and_time_left(terminal) -> None:
    stream, shown = terminal
    bar = Progress(1000, 200, SEEDS, NETWORKS, stream=stream)
    assert "20%" in shown()
    bar.evaluated(250, [score(50.0), score(60.0)])
    bar._bar.mininterval = 0  # draw at once
    bar.train(500, [losses(0.1), losses(0.3)])
    text = shown()
    assert "update 250 of 1,000 (25 %), score 55.0: seed=0 50.0, seed=1 60.0" in text
    last = text.split("\r")[-1]
    assert " 50%" in last and "500/1,000" in last
    assert re.search(r"\[\d\d:\d\d left, score 55.0, value 0.2 q 0.4 policy -0.2, .* updates/s\]", last)
    bar.close()
    bar.close()


def test_terminal_of_unknown_size_has_a_bar_too(terminal) -> None:
    stream, shown = terminal
    fcntl.ioctl(stream, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    Progress(1000, 200, SEEDS, NETWORKS, stream=stream).close()
    assert "20%" in shown()


def test_log_records_do_not_tear_the_bar(terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, shown = terminal
    monkeypatch.setattr("sys.stderr", stream)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    root = logging.getLogger()
    handlers = root.handlers
    monkeypatch.setattr(root, "handlers", [handler])
    bar = Progress(1000, 0, SEEDS, NETWORKS)
    shown()
    root.warning("checkpoint damaged")
    text = shown()
    bar.close()
    assert root.handlers == [handler], "what logged before logs again"
    monkeypatch.setattr(root, "handlers", handlers)
    # The bar is wiped, the line stands alone, the bar is drawn again below it.
    assert re.search(r"\r[ \r\x1b\[A-Z]*\[WARNING\] checkpoint damaged\r?\n.*0/1,000", text, re.DOTALL)


@pytest.mark.parametrize("kind", ["file", "terminal"])
def test_stream_that_is_gone_does_not_stop_training(kind: str, terminal, capfd) -> None:
    stream = terminal[0] if kind == "terminal" else io.StringIO()
    shown = Progress(1000, 0, SEEDS, NETWORKS, stream=stream)
    shown.train(1, [losses(0.1)])
    if kind == "terminal":
        with open("/dev/full", "w") as full:
            os.dup2(full.fileno(), stream.fileno())
    else:
        stream.close()
    shown.evaluated(10, [score(1.0)])
    shown.train(1000, [losses(0.1)])
    shown.note("a line")
    shown.close()
    del shown
    assert capfd.readouterr().err == ""
    if kind == "terminal":
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), stream.fileno())
