"""Files from strangers run nothing: what they may name is the project's own, whatever reads them."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

import iql
from iql.config import settings as configuration
from iql.config import trust
from iql.config.class_names import MOVED
from iql.config.schema import SCHEMAS
from iql.errors import UserError
from iql.launching.job import Job
from iql.launching.ledger import Ledger
from iql.launching.status import DONE, UNKNOWN, StatusReader
from iql.networks.actors import Policy
from iql.networks.critics import TwinQ, Value
from iql.runs import checkpoints
from iql.runs.run import Run
from iql.runs.saved_networks import description
from iql.system.atomic_files import write_json

State = dict[str, Any]


@pytest.fixture(scope="module")
def settings() -> configuration.Settings:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return configuration.read(compose("config", ["network.hidden_dims=[8,8]", "updates=10"]))[0]


@pytest.fixture(scope="module")
def content(settings) -> State:
    """What networks.ckpt of a run in the maze holds."""
    nets = {name: dict(settings["network"][name]) for name in ("value", "q", "policy")}
    for node in nets.values():
        del node["_target_"]
    made = {
        "value": Value(4, [0], **nets["value"]),
        "q": TwinQ(4, 2, [0], **nets["q"]),
        "policy": Policy(4, 2, [0], **nets["policy"]),
    }
    weights = {
        name: {key: p.detach()[0].clone() for key, p in module.named_parameters()} for name, module in made.items()
    }
    means = {"observation_mean": torch.zeros(4), "observation_std": torch.ones(4)}
    return {"update": 10, "networks": weights, "policy": description(settings, 4, 2), **means}


class Stranger:
    """Writes runs and policies that somebody else may have sent; `ran` exists once a command of theirs has run."""

    def __init__(self, folder: Path, settings: configuration.Settings, content: State):
        self.folder, self.settings, self.content = folder, json.loads(json.dumps(settings)), content
        self.ran = folder / "ran"
        self.attack = {"_target_": "subprocess.Popen", "args": f"touch {self.ran}", "shell": True}

    def state(self, **network: Any) -> State:
        policy = {**self.content["policy"], "network": {**self.content["policy"]["network"], **network}}
        return {**self.content, "policy": policy}

    def run(self, state: State | None = None, finished: bool = True) -> Path:
        self.settings["runs"] = str(self.folder / "runs")
        run = Run(self.settings, self.settings, "digest")
        run.directory.mkdir(parents=True)
        state = state or self.content
        life = {"pack": [run.id], "host": "there", "device": "cpu", "code_path": "plain", "update": 0}
        run.begin_attempt(life, {"scored": "normalised", "dataset": "made", "custom": False})
        if finished:
            checkpoints.write(run.directory / "networks.ckpt", state)
        else:
            learner = {"update": 5, "networks": state["networks"], "optimizers": {}}
            checkpoints.write(checkpoints.path_of(run.checkpoints, 5), {**state, "learner": learner})
        return run.directory

    def safetensors(self, **network: Any) -> Path:
        state = self.state(**network)
        policy = {**state["policy"], "update": 10, "parameters": list(state["networks"]["policy"])}
        tensors = {**state["networks"]["policy"]}
        tensors |= {name: state[name] for name in ("observation_mean", "observation_std")}
        path = self.folder / "policy.safetensors"
        save_file(tensors, path, {"iql": json.dumps(policy)})
        return path


@pytest.fixture
def stranger(tmp_path: Path, settings: configuration.Settings, content: State) -> Stranger:
    return Stranger(tmp_path, settings, content)


def script(name: str, *arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command, run in this process."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    return importlib.import_module(f"iql.commands.{name}").main()


def placed(attack: dict[str, Any], where: str) -> dict[str, Any]:
    """Sections of a policy's network that hold the attack at one place or another."""
    return {
        "top": attack,
        "hidden_dims": {"hidden_dims": attack},
        "list": {"hidden_dims": [8, attack]},
        "deep": {"hidden_dims": [[{"a": [attack]}]]},
        "argument": {"dropout": attack},
    }[where]


PLACES = ("top", "hidden_dims", "list", "deep", "argument")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("kind", ["networks.ckpt", "file.ckpt", "checkpoint", "run", "safetensors"])
def test_a_policy_names_no_command(stranger, kind, where):
    state = stranger.state(**placed(stranger.attack, where))
    if kind == "safetensors":
        source = stranger.safetensors(**placed(stranger.attack, where))
    elif kind == "file.ckpt":
        source = stranger.folder / "file.ckpt"
        checkpoints.write(source, state)
    else:
        source = run = stranger.run(state, finished=kind == "networks.ckpt")
        if kind == "networks.ckpt":
            source = run / "networks.ckpt"
        elif kind == "checkpoint":
            source = checkpoints.path_of(run / "checkpoints", 5)
    with pytest.raises(UserError, match=r"would run subprocess.Popen.*trust=True.*--trust") as caught:
        iql.load_policy(source)
    assert "\n" not in str(caught.value)
    assert not stranger.ran.exists()


@pytest.mark.parametrize(
    "target", ["iql.networks.lifting.build", "iql.networks.mlp.MLP", "torch.nn.Linear", "os.system", "x", ""]
)
def test_nothing_else_is_imported(stranger, target, monkeypatch):
    path = stranger.folder / "file.ckpt"
    checkpoints.write(path, stranger.state(_target_=target))
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(UserError, match="would run|no section"):
        iql.load_policy(path)


def test_a_class_of_the_users_own_where_the_user_says_so(stranger, monkeypatch):
    own = stranger.folder / "own_network.py"
    own.write_text("from iql.networks.actors import Policy\n\nclass Own(Policy):\n    pass\n")
    monkeypatch.syspath_prepend(str(stranger.folder))
    path = stranger.folder / "file.ckpt"
    checkpoints.write(path, stranger.state(_target_="own_network.Own"))
    with pytest.raises(UserError, match=r"would run own_network\.Own"):
        iql.load_policy(path)
    assert "own_network" not in sys.modules
    assert iql.load_policy(path, trust=True).action_dim == 2


@pytest.mark.parametrize("name", ["evaluate", "export"])
@pytest.mark.parametrize("place", ["policy", "value", "env", "gym_id"])
def test_scripts_run_nothing_of_a_run(stranger, name, place, monkeypatch, capsys):
    state = stranger.content
    if place == "policy":
        state = stranger.state(**stranger.attack)
    elif place == "value":
        stranger.settings["network"]["value"] = stranger.attack
    elif place == "env":
        stranger.settings["env"] = {**stranger.settings["env"], "simulator": stranger.attack}
    else:
        (stranger.folder / "evil.py").write_text(f"open({str(stranger.ran)!r}, 'w')")
        monkeypatch.syspath_prepend(str(stranger.folder))
        env = {"_target_": "iql.tasks.file.FileTask", "name": "own", "path": "x.hdf5", "gym_id": "evil:Own-v0"}
        env |= {"horizon": 5, "reward": "none", "ref_min": None, "ref_max": None, "normalize": False}
        stranger.settings["env"] = env
    run = stranger.run(state)
    out = stranger.folder / "out"
    out.mkdir()
    options = {
        "evaluate": ["--episodes", "1", "--workers", "1", "--picture", out / "way.png"],
        "export": ["--out", out / "policy.safetensors"],
    }[name]
    code = script(name, run, *options, monkeypatch=monkeypatch)
    assert not stranger.ran.exists()
    if name == "export" and place != "policy":  # of the task and the other networks it makes nothing
        assert code == 0
        return
    said = capsys.readouterr().err
    assert code == 1
    assert said.count("\n") == 1
    assert "--trust" in said and ("subprocess.Popen" in said or "evil:Own-v0" in said)
    assert list(out.iterdir()) == []


def test_a_report_makes_nothing(stranger, monkeypatch, capsys):
    stranger.settings["env"] = stranger.attack | {"name": "maze2d-umaze-made"}
    for part in ("algorithm", "optimizer"):
        stranger.settings[part] = stranger.attack | stranger.settings[part] | {"_target_": "subprocess.Popen"}
    stranger.run(stranger.state(**stranger.attack))
    script("report", stranger.folder / "runs", "--out", stranger.folder / "r.html", monkeypatch=monkeypatch)
    assert not stranger.ran.exists()


# Sweeps


@pytest.fixture
def sweep(stranger: Stranger) -> Callable[..., Path]:
    """A sweep's folder with one submitted job, as its launcher and its line are given."""

    def made(launcher: dict[str, Any], **line: Any) -> Path:
        ledger = Ledger(stranger.folder / "runs" / "sent")
        arguments = {"members": [stranger.settings], "defaults": stranger.settings, "overrides": [[]]}
        line = {"entry": "train:job", "folder": str(stranger.folder), "arguments": arguments, **line}
        with ledger.lock():
            ledger.add(launcher, 1, stranger.folder, [(["maze/default-0/seed=0"], line)])
        return ledger.sweep

    return made


LOCAL = {"_target_": "iql.launching.local.LocalLauncher", "workers": 1, "pack": None, "gpu_memory_gb": None}


@pytest.mark.parametrize("option", [(), ("--retry",), ("--cancel",)])
@pytest.mark.parametrize("where", ["top", "argument"])
def test_status_makes_no_launcher_of_a_strangers(stranger, sweep, option, where, monkeypatch, capsys):
    folder = sweep(stranger.attack if where == "top" else {**LOCAL, "workers": stranger.attack})
    code = script("status", folder, *option, monkeypatch=monkeypatch)
    assert not stranger.ran.exists()
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert "would run subprocess.Popen" in said and "--trust" in said
    assert code == (1 if option == ("--cancel",) else 0)


def test_the_runs_of_a_sweep_whose_launcher_is_not_trusted_are_still_seen(stranger, sweep):
    folder = sweep(stranger.attack)
    done = folder / "maze/default-0/seed=1"
    done.mkdir(parents=True)
    summary = {"updates": 10, "updates_per_second": 1.0, "score": 50.0}
    write_json(done / "summary.json", summary)
    follower = StatusReader(Ledger(folder))
    states = {run: each.state for run, each in follower.statuses().items()}
    assert states == {"maze/default-0/seed=0": UNKNOWN, "maze/default-0/seed=1": DONE}
    assert not stranger.ran.exists()


@pytest.mark.parametrize("place", ["entry", "env", "optimizer", "nested", "gym_id", "setup", "sbatch"])
def test_retrying_a_strangers_sweep_submits_nothing_that_it_names(stranger, sweep, place, monkeypatch, capsys):
    launcher, line = dict(LOCAL), {}
    if place == "entry":
        line["entry"] = "os:system"
    elif place in ("setup", "sbatch"):
        launcher |= {place: [f"touch {stranger.ran}"]}
    elif place == "gym_id":
        stranger.settings["env"]["gym_id"] = "evil:Own-v0"
    elif place == "nested":
        stranger.settings["network"]["policy"]["hidden_dims"] = [stranger.attack]
    else:
        stranger.settings[place] = stranger.attack
    folder = sweep(launcher, **line)
    (folder / "maze/default-0/seed=0").mkdir(parents=True)
    write_json(folder / "maze/default-0/seed=0/failed.json", {"update": 1, "reason": "it failed"})
    assert script("status", folder, "--retry", monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(folder) in said
    assert len(Ledger(folder).submissions()) == 1
    assert not stranger.ran.exists()


@pytest.mark.parametrize("own", [True, False])
def test_cancel_stops_no_server_of_another_sweep(sweep, own, monkeypatch):
    folder = sweep(LOCAL)
    served = folder if own else folder.with_name("other")
    idle = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*idle, "-m", "iql.launching.local_server", str(served), "1"]) as server:
        running = {"host": socket.gethostname(), "pid": server.pid, "first": 1, "taken": {}, "running": [[1, 0]]}
        write_json(folder / ".sweep/local.json", running)
        assert script("status", folder, "--cancel", monkeypatch=monkeypatch) == 0
        assert (server.poll() is None) != own
        server.kill()


@pytest.mark.parametrize("entry", ["os:system", "train:main", "train", 3, None, "train:job.__globals__"])
def test_a_job_calls_no_entry_point_but_the_projects_own(tmp_path, entry):
    line = {"entry": entry, "folder": str(tmp_path), "arguments": {"command": f"touch {tmp_path / 'ran'}"}}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="no entry point of this project's own"):
        Job(str(tmp_path / "jobs.jsonl"), 0, str(tmp_path / "failed"))()
    assert not (tmp_path / "ran").exists()
    assert "no entry point" in (tmp_path / "failed").read_text()


def test_every_class_of_the_configuration_is_in_a_table():
    assert {*SCHEMAS, *MOVED} == trust.CONFIGURED
    assert set(MOVED.values()) <= set(SCHEMAS)
