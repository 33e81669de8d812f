"""Hydra's own --multirun with submitit's launcher and Optuna's sweeper."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from conftest import ROOT


@pytest.mark.slow
def test_submitit_on_this_machine(train):
    done = train("hydra/launcher=submitit_local", "seed=0,1", "sweep.name=many", "--multirun")
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((path / "summary.json").read_text()) for path in train.directories()]
    assert [summary["seed"] for summary in summaries] == [0, 1]
    assert (train.runs / "many" / "multirun.yaml").exists()  # Hydra's own files lie in the sweep's folder


@pytest.mark.slow
def test_optuna_gets_the_mean_of_the_last_ten_scores(train):
    optuna = ("hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.direction=maximize")
    trials = ("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "algorithm.tau=interval(0.5,0.9)")
    done = train(*optuna, *trials, "sweep.name=search", "--multirun")
    assert done.returncode == 0, done.stderr
    scores = [json.loads((path / "summary.json").read_text())["last10_score"] for path in train.directories()]
    assert len(scores) == 2
    found = yaml.safe_load((train.runs / "search" / "optimization_results.yaml").read_text())
    assert found["best_value"] == max(scores)


def test_a_multirun_stops_at_a_bad_value_with_one_line(train):
    refused = train("seed=0", "algorithm.tau=0.7,1.7", "--multirun")
    assert refused.returncode == 1
    assert re.search(r"train.py: algorithm.tau=1.7: must be", refused.stderr)
    assert (ROOT / "multirun").exists() is False
