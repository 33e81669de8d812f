"""Run directories, checkpoints and policies of earlier versions: found under the same names, and loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

import iql
from iql.config.class_names import MOVED, current
from iql.config.settings import read
from iql.config.task_configs import CONF
from iql.config.trust import ALGORITHMS, NETWORKS, TASKS
from iql.reporting.run_records import read as read_run
from iql.runs import checkpoints
from iql.runs.manifest import read_manifest
from iql.runs.run import configuration_name
from iql.training.build import build_learner

EARLIER = Path(__file__).parents[1] / "earlier_versions"
NAMES = json.loads((EARLIER / "run_names.json").read_text())


@pytest.fixture(scope="module")
def configured():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda overrides: read(compose("config", overrides))[0]


@pytest.mark.parametrize("command", NAMES)
def test_every_configuration_keeps_its_directory(configured, command):
    """The names of version 0.1, of every task and of what is usually changed, with the data's digest "digest"."""
    overrides = command.split(" ")
    task = [each for each in overrides if each.startswith(("env=", "env.dataset"))]
    defaults = configured(overrides if overrides[0] == "env=hdf5" else task)
    assert configuration_name(configured(overrides), defaults, "digest") == NAMES[command]


def test_an_old_name_of_a_class_means_the_class_of_today(configured):
    old = configured(["env=hopper-medium-v2", "network.policy._target_=iql.networks.Policy"])
    assert old == configured(["env=hopper-medium-v2"])
    assert set(MOVED.values()) <= ALGORITHMS | NETWORKS | TASKS


@pytest.mark.parametrize("path", ["native", "plain"])
def test_a_checkpoint_is_resumed(path):
    """native: Adam's moments as rows; plain: as torch.optim.Adam saved them."""
    directory = EARLIER / path / "seed=0"
    manifest, (states, damaged) = read_manifest(directory), checkpoints.read_undamaged(directory / "checkpoints")
    state = states[40]["learner"]
    learner = build_learner([manifest["settings"]], observation_dim=4, action_dim=2)
    learner.load(0, state)
    assert damaged == [] and learner.update_count == 40
    for network, weights in learner.network_state(0).items():
        for name, weight in weights.items():
            torch.testing.assert_close(weight, state["networks"][network][name], rtol=0, atol=0)
    for optimizer in learner.optimizers.values():
        assert optimizer.state(0)["step"].tolist() == [40.0] * optimizer.flat.copies
        assert optimizer.state(0)["exp_avg_sq"].sum() > 0


def test_both_layouts_of_adam_mean_the_same():
    moments = []
    for path in ("native", "plain"):
        directory = EARLIER / path / "seed=0"
        learner = build_learner([read_manifest(directory)["settings"]], observation_dim=4, action_dim=2)
        learner.load(0, checkpoints.read_undamaged(directory / "checkpoints")[0][40]["learner"])
        moments.append({name: each.state(0)["exp_avg"].clone() for name, each in learner.optimizers.items()})
    for name, moment in moments[0].items():
        torch.testing.assert_close(moments[1][name], moment, rtol=1e-3, atol=1e-6)


def test_policies_are_loaded_and_agree():
    finished, exported = iql.load_policy(EARLIER / "done" / "seed=0"), iql.load_policy(EARLIER / "policy.safetensors")
    observations = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(finished.act(observations), exported.act(observations))
    assert current(finished.settings) == finished.settings


def test_a_report_reads_them(tmp_path):
    folder = tmp_path / "maze2d-umaze-made" / "default-00000000" / "seed=0"
    shutil.copytree(EARLIER / "done" / "seed=0", folder)
    record = read_run(folder, now=0.0)
    assert record.summary["updates"] == 60
