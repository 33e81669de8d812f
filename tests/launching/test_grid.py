"""A grid gives the settings that Hydra itself composes for each of its runs."""

from __future__ import annotations

import random

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from iql.config.settings import read
from iql.errors import UserError
from iql.launching.grids.grid import expand

CONF = ROOT / "conf"


def test_every_cell_is_what_hydra_composes():
    overrides = [
        "env=hopper-medium-v2,antmaze-umaze-v2,maze2d-umaze-made",
        "algorithm=iql,iql_gwthomas",
        "algorithm.tau=choice(0.5,0.9)",
        "network.hidden_dims=[64,64],[32]",
        "optimizer.lr=1e-4,3e-4",
        "seed=range(0,3)",
        "+optimizer.weight_decay=0.1",
        "tracker=none",
    ]
    cells = expand(overrides, CONF)
    assert len(cells) == 3 * 2 * 2 * 2 * 2 * 3
    assert cells[0].overrides[-3:] == ("seed=0", "+optimizer.weight_decay=0.1", "tracker=none")
    assert cells[1].overrides[-3] == "seed=1"  # the last override varies fastest
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for cell in random.Random(0).sample(cells, 12):
            assert cell.members == read(compose("config", list(cell.overrides))), cell.overrides
            assert cell.defaults == read(compose("config", [cell.overrides[0]]))[0]


def test_a_list_of_seeds_is_several_runs_of_one_cell():
    (cell,) = expand(["seed=[0,1,2]"], CONF)
    assert [member["seed"] for member in cell.members] == [0, 1, 2]


def test_without_a_sweep_there_is_one_cell():
    (cell,) = expand(["algorithm.tau=0.8"], CONF)
    assert cell.members[0]["algorithm"]["tau"] == 0.8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=0,0"], "names the same run twice"),
        (["algorithm.beta=3,3.0"], "names the same run twice"),
        (["seed=0,1", "algorithm.tau=0.5,1.5"], "tau"),
        (["+algorithm.tua=1,2"], "tua"),
        (["seed=[0,1],[1,2]"], "names the same run twice"),
    ],
)
def test_invalid_overrides_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        expand(overrides, CONF)


@pytest.mark.parametrize("overrides", [["algorithm.tua=1,2"], ["env=hoper-medium-v2,hopper-medium-v2"], ["seed=(1"]])
def test_hydra_reports_unknown_overrides(overrides):
    with pytest.raises(HydraException):
        expand(overrides, CONF)
