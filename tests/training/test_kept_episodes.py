"""The episodes that a training keeps of its final policies: which they are, and what kills and signals leave."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
from conftest import ROOT, Trainer, numbers_of, refusal_of
from test_training import KILL_AT, SIGNAL_AT_EVALUATION

from iql.runs import kept_episodes

KEPT = "evaluation.final_episodes=12"

# The process kills itself when it is about to write a run's summary.
KILL_AT_SUMMARY = """
import os, signal
from iql.runs.run import Run
Run.finish = lambda self, summary: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> list[dict]:
    """The numbers of a pack of two that kept episodes, with these."""
    train = Trainer(tmp_path_factory.mktemp("kept") / "runs", {**os.environ, "IQL_DATA_DIR": str(data_dir)})
    result = train("seed=[0,1]", KEPT)
    assert result.returncode == 0, result.stderr
    return everything(train)


def everything(train: Trainer) -> list[dict]:
    return [
        {**numbers_of(run), "kept": (run / "episodes.npz").read_bytes(), "name": run.parent.name}
        for run in train.directories()
    ]


def finish_and_compare(train: Trainer, undisturbed: list[dict]) -> None:
    result = train("seed=[0,1]", KEPT)
    assert result.returncode == 0, result.stderr
    assert everything(train) == undisturbed
    assert not list(train.runs.rglob("*.tmp"))


def evaluate(*arguments: str | Path, expected: int = 0) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *map(str, arguments)]
    result = commands.run(command, capture_output=True, text=True, timeout=250)
    assert result.returncode == expected, result.stdout + result.stderr
    return result.stderr if expected else result.stdout


def test_they_change_no_name_and_no_number_and_evaluate_keeps_the_same(train, undisturbed):
    result = train("seed=[0,1]")
    assert result.returncode == 0, result.stderr
    runs = train.directories()
    assert not any((run / "episodes.npz").exists() for run in runs)
    for run, expected in zip(runs, undisturbed, strict=True):
        assert numbers_of(run) == {name: expected[name] for name in ("networks", "metrics", "summary", "map")}
        assert run.parent.name == expected["name"]
    assert "done already" in train("seed=[0,1]", KEPT).stderr
    shown = evaluate(runs[1], "--episodes", "12", "--keep")
    assert f"written: {runs[1] / 'episodes.npz'}" in shown
    assert (runs[1] / "episodes.npz").read_bytes() == undisturbed[1]["kept"]

    kept = kept_episodes.read(runs[1])
    assert kept is not None
    assert kept.scores == pytest.approx(100 * (kept.returns - 23.85) / (161.86 - 23.85))
    assert kept.reached.tolist() == (kept.returns > 0).tolist()
    assert (kept.seed, kept.physics) == (0, "d4rl")
    assert f"normalised score   {kept.scores.mean():.1f}" in shown
    assert f"length             {kept.lengths.mean():.0f}" in shown
    assert set(kept.returns[:2]) != set(json.loads((runs[1] / "summary.json").read_text())["final_returns"])

    said = evaluate(runs[1], "--episodes", "11", "--keep", expected=1)
    assert "has 12 episodes, more than --episodes 11" in said
    evaluate(runs[1], "--episodes", "15", "--keep")
    again = kept_episodes.read(runs[1])
    assert again is not None and len(again.returns) == 15
    assert np.array_equal(again.returns[:10], kept.returns[:10])  # whole chunks


def test_kill_9_while_they_are_played_or_after_leaves_no_trace(train, undisturbed):
    number = 5  # evaluations of updates 20, 40 and 60, the map's, and these
    killed = train("seed=[0,1]", KEPT, patch=SIGNAL_AT_EVALUATION.format(number=number, signal="SIGKILL"))
    assert killed.returncode == -signal.SIGKILL
    assert not list(train.runs.rglob("episodes.npz"))
    killed = train("seed=[0,1]", KEPT, patch=KILL_AT_SUMMARY)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(train.runs.rglob("episodes.npz"))) == 1  # of the first run; no report reads it before the summary
    finish_and_compare(train, undisturbed)


@pytest.mark.slow
def test_kill_9_while_they_are_written_leaves_no_trace(train, undisturbed):
    for number in (2, 3, 4):
        killed = train("seed=[0,1]", KEPT, "updates=60", patch=KILL_AT.format(function="replace", number=number))
        assert killed.returncode == -signal.SIGKILL
    finish_and_compare(train, undisturbed)


def test_a_signal_while_they_are_played_stops_at_once(train, undisturbed):
    stopped = train("seed=[0,1]", KEPT, patch=SIGNAL_AT_EVALUATION.format(number=5, signal="SIGTERM"))
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert not list(train.runs.rglob("episodes.npz")) and not list(train.runs.rglob("summary.json"))
    assert "not the directory of a finished run" in evaluate(train.directories()[0], "--keep", expected=1)
    finish_and_compare(train, undisturbed)


def test_they_need_evaluations(train):
    result = train(KEPT, "evaluation.every=null")
    assert result.returncode == 1
    assert "evaluation.final_episodes needs evaluations" in refusal_of(result)
    assert "evaluation.final_episodes=-1: must be" in refusal_of(train("evaluation.final_episodes=-1"))
