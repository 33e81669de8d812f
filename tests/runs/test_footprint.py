"""Estimates of memory and disk usage, whichever networks an algorithm trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from iql.config import settings
from iql.config.folders import CONF
from iql.config.schema import algorithm_schema
from iql.runs import footprint

TASK = SimpleNamespace(observation_dim=11, action_dim=3)
V = 11 * 256 + 256 + 256 * 256 + 256 + 256 + 1
Q = 14 * 256 + 256 + 256 * 256 + 256 + 256 + 1
POLICY = 11 * 256 + 256 + 256 * 256 + 256 + 256 * 3 + 3


def read(algorithm: str) -> settings.Settings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return settings.read(compose("config", ["env=hopper-medium-v2", f"algorithm={algorithm}"]))[0]


@pytest.mark.parametrize("algorithm", sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml")))
def test_every_algorithm_has_an_estimate_of_the_networks_that_it_trains(algorithm):
    own = read(algorithm)
    widths = footprint.widths(own, TASK)
    assert widths.keys() == set(algorithm_schema(own["algorithm"]).networks)
    assert 0 < footprint.member_bytes(own, widths) < 2**30
    kept, temporary = footprint.disk_bytes(own, widths)
    assert 0 < kept < 2**30 and 0 < temporary < 2**30


@pytest.mark.parametrize(
    ("algorithm", "trained", "targets"),
    [("iql", V + 2 * Q + POLICY, 2 * Q), ("td3_bc", 2 * Q + POLICY, 2 * Q + POLICY), ("bc", POLICY, 0)],
)
def test_weights_gradients_and_moments_are_of_the_trained_networks(algorithm, trained, targets):
    own = {**read(algorithm), "batch_size": 0}
    widths = footprint.widths(own, TASK)
    assert footprint.member_bytes(own, widths) == 4 * (4 * trained + targets)
    _, temporary = footprint.disk_bytes(own, widths)
    assert temporary == own["checkpoint"]["keep"] * 4 * (trained + targets + 2 * trained)


def test_layer_normalisation_and_gelu_keep_tensors_of_their_own():
    plain, more = read("iql"), read("iql")
    more["network"]["q"] |= {"layer_norm": "after", "activation": "gelu"}
    widths, outputs = footprint.widths(plain, TASK), 256 + 256 + 1
    added = footprint.member_bytes(more, widths) - footprint.member_bytes(plain, widths)
    assert added == 4 * plain["batch_size"] * 2 * 2 * outputs  # two tensors of each of both Q
