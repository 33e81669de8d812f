"""Damaged or changed files of a run are reported in one line, and none of them is overwritten."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Trainer

from iql.errors import UserError
from iql.runs import checkpoints
from iql.runs.metrics_file import MetricsFile

KILL = """
import os, signal
from iql.training import pack as packs
save = packs.Pack.save
def once(self, *a):
    save(self, *a)
    if self.learner.update_count == 40: os.kill(os.getpid(), signal.SIGKILL)
packs.Pack.save = once
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a run that was killed after its checkpoint of update 40 of 60."""
    folder = tmp_path_factory.mktemp("killed") / "runs"
    environment = {**os.environ, "IQL_DATA_DIR": str(data_dir)}
    assert Trainer(folder, environment)(patch=KILL).returncode == -9
    return folder


@pytest.fixture
def run(killed: Path, train: Trainer) -> Path:
    """A copy of that run's directory, which `train` resumes."""
    shutil.copytree(killed, train.runs)
    (directory,) = train.directories()
    return directory


def newest(run: Path) -> Path:
    return checkpoints.path_of(run / "checkpoints", 40)


def both(run: Path, change: Callable[[dict, int], dict]) -> None:
    """Replace both checkpoints by undamaged ones with other content."""
    for update in (20, 40):
        path = checkpoints.path_of(run / "checkpoints", update)
        checkpoints.write(path, change(checkpoints.read(path), update))


def foreign_objects(run: Path) -> str:
    for update in (20, 40):
        torch.save({"model": torch.nn.Linear(2, 2)}, checkpoints.path_of(run / "checkpoints", update))
    return "every checkpoint is damaged: .*does not begin like a checkpoint"


def other_content(run: Path) -> str:
    both(run, lambda state, update: {"update": update, "weights": torch.zeros(3)})
    return "every checkpoint is damaged: .*no learner where its name says"


def no_networks(run: Path) -> str:
    both(run, lambda state, update: {**state, "learner": {"update": update}})
    return "not a checkpoint of this run .*networks"


def other_shapes(run: Path) -> str:
    def narrow(state: dict, update: int) -> dict:
        networks = {
            name: {key: weight[..., :3].clone() for key, weight in weights.items()}
            for name, weights in state["learner"]["networks"].items()
        }
        return {**state, "learner": {**state["learner"], "networks": networks}}

    both(run, narrow)
    return "not a checkpoint of this run .*not \\("


def other_moments(run: Path) -> str:
    def first(state: dict, update: int) -> dict:
        for optimizer in state["learner"]["optimizers"].values():
            optimizer["exp_avg"] = optimizer["exp_avg"][..., :1].clone()
        return state

    both(run, first)
    return "not a checkpoint of this run .*exp_avg"


def other_seed(run: Path) -> str:
    both(run, lambda state, update: {**state, "policy": {**state["policy"], "seed": 7}})
    return "its seed is 7, not 0"


def beyond_the_end(run: Path) -> str:
    state = checkpoints.read(newest(run))
    shutil.rmtree(run / "checkpoints")
    state["learner"]["update"] = 4000
    checkpoints.write(checkpoints.path_of(run / "checkpoints", 4000), state)
    return "it is of update 4000, and the run ends with 60"


def another_name(run: Path) -> str:
    path = newest(run)
    path.rename(checkpoints.path_of(run / "checkpoints", 50))
    checkpoints.path_of(run / "checkpoints", 20).unlink()
    return "it holds 40 where its name says update 50"


def line_added(run: Path) -> str:
    path = run / "metrics.jsonl"
    path.write_text('{"kind": "note"}\n' + path.read_text())
    return "some were added, removed or changed"


def line_removed(run: Path) -> str:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[1:], "x" * len(lines[0])]))
    return "some were added, removed or changed"


def number_changed(run: Path) -> str:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace('"update": 5,', '"update": 6,', 1))
    return "some were added, removed or changed"


def line_of_before_the_digest(run: Path) -> str:
    both(run, lambda state, update: {key: value for key, value in state.items() if key != "metrics_sha256"})
    return line_added(run)


def manifest_of(content: str) -> Callable[[Path], str]:
    def change(run: Path) -> str:
        (run / "manifest.json").write_text(content)
        return "manifest.json"

    return change


def folder_for(name: str) -> Callable[[Path], str]:
    def change(run: Path) -> str:
        path = run / name
        path.unlink(missing_ok=True)
        path.mkdir()
        return f"{name}.*a folder stands where a file should"

    return change


def file_for_checkpoints(run: Path) -> str:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("mine")
    return "a file stands where the folder of checkpoints should"


DAMAGE = [
    *(foreign_objects, other_content, no_networks, other_shapes, other_moments, other_seed, beyond_the_end),
    *(another_name, line_added, line_removed, number_changed, line_of_before_the_digest, file_for_checkpoints),
    *map(manifest_of, ("{}", "[]", "3", "null", '{"lives": 3}', '{"lives": [3]}', "{", "[" * 100_000)),
    *map(folder_for, ("lease.json", "metrics.jsonl", "manifest.json", "summary.json", "failed.json")),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__qualname__.partition(".")[0])
def test_damage_is_reported_in_one_line_and_not_overwritten(train, run, damage):
    message = damage(run)
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lease.json"}
    result = train()
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert {path: path.read_bytes() for path in kept} == kept
    assert not (run / "summary.json").is_file()


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(train, run):
    state = checkpoints.read(newest(run))
    checkpoints.write(checkpoints.path_of(run / "checkpoints", 4000), state)
    result = train()
    assert result.returncode == 0, result.stderr
    assert "it holds 40 where its name says update 4000; going on from update 40" in result.stderr


def test_a_run_of_an_earlier_version_without_a_digest_resumes(train, run):
    both(run, lambda state, update: {key: value for key, value in state.items() if key != "metrics_sha256"})
    assert train().returncode == 0
    updates = [json.loads(line)["update"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert updates == sorted(updates)


def test_metrics_that_another_program_changed_are_not_written_to(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.record({"kind": "train", "update": 1})
    metrics.flush()
    with open(metrics.path, "a") as file:
        file.write("a note\n")
    kept = metrics.path.read_bytes()
    metrics.record({"kind": "train", "update": 2})
    with pytest.raises(UserError, match="another program has changed it"):
        metrics.flush()
    assert metrics.path.read_bytes() == kept
    metrics.path.unlink()
    with pytest.raises(UserError, match="0 bytes where this run left"):
        metrics.flush()
    assert not metrics.path.exists()
