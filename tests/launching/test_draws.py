"""Random search in a sweep: what is drawn, and that it stays drawn."""

from __future__ import annotations

from collections import Counter

import pytest
from conftest import ROOT

from iql.errors import UserError
from iql.launching.grids import command
from iql.launching.grids.grid import Cell, expand

CONF = ROOT / "conf"
TAU, BETA = "algorithm.tau=tag(draw,choice(0.5,0.7,0.9))", "algorithm.beta=tag(draw,choice(0.5,3.0,10.0))"
SEED = "seed=tag(draw,range(0,1000))"


def drawn(cells: list[Cell]) -> list[tuple[float, float, int]]:
    members = [member for cell in cells for member in cell.members]
    return [(each["algorithm"]["tau"], each["algorithm"]["beta"], each["seed"]) for each in members]


def test_values_are_drawn_together_and_the_rest_is_their_product():
    cells = expand([TAU, BETA, SEED, "sweep.draws=4", "env=hopper-medium-v2,walker2d-medium-v2"], CONF)
    assert [cell.members[0]["env"]["name"] for cell in cells] == ["hopper-medium-v2"] * 4 + ["walker2d-medium-v2"] * 4
    assert drawn(cells[:4]) == drawn(cells[4:])
    assert len(set(drawn(cells[:4]))) == 4
    assert all(cell.members[0]["sweep"]["draws"] == 4 for cell in cells)
    for cell, (tau, beta, seed) in zip(cells, drawn(cells), strict=True):  # the equal command of train.py
        assert {f"algorithm.tau={tau}", f"algorithm.beta={beta}", f"seed={seed}"} < set(cell.overrides)


def test_a_draw_depends_on_the_sweeps_seed_its_key_and_its_number_alone():
    few = drawn(expand([TAU, BETA, SEED, "sweep.draws=5"], CONF))
    assert drawn(expand([SEED, BETA, "updates=7", TAU, "sweep.draws=5"], CONF)) == few
    assert drawn(expand([TAU, BETA, SEED, "sweep.draws=9"], CONF))[:5] == few
    assert drawn(expand([TAU, BETA, SEED, "sweep.draws=5", "sweep.seed=0"], CONF)) == few
    assert drawn(expand([TAU, BETA, SEED, "sweep.draws=5", "sweep.seed=1"], CONF)) != few
    assert few[:2] == [(0.5, 10.0, 380), (0.5, 0.5, 641)]  # as long as this sweep is to mean the same runs


def test_an_interval_is_drawn_from_uniformly():
    values = [tau for tau, *_ in drawn(expand(["algorithm.tau=interval(0.5,0.9)", "sweep.draws=200"], CONF))]
    assert len(set(values)) == 200
    assert min(values) >= 0.5 and max(values) < 0.9
    counts = Counter(int((tau - 0.5) / 0.1) for tau in values)
    assert all(30 <= counts[quarter] <= 70 for quarter in range(4))


def test_all_of_few_joint_values_are_drawn_once():
    cells = expand([TAU, BETA, "sweep.draws=9"], CONF)
    assert sorted({(tau, beta) for tau, beta, _ in drawn(cells)}) == sorted(
        (tau, beta) for tau in (0.5, 0.7, 0.9) for beta in (0.5, 3.0, 10.0)
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([TAU], "values are drawn from it, so how many"),
        (["seed=interval(0,1)"], "values are drawn from it, so how many"),
        (["sweep.draws=3"], "nothing is drawn"),
        ([TAU, BETA, "sweep.draws=10"], "only 9 joint values"),
        ([TAU, "sweep.draws=0"], "must be one whole number, at least 1"),
        ([TAU, "sweep.draws=2,3"], "must be one whole number"),
        ([TAU, "sweep.draws=2", "sweep.seed=-1"], "must be one whole number, at least 0"),
        (["algorithm.tau=interval(0.5,1.5)", "sweep.draws=50"], "algorithm.tau"),
    ],
)
def test_wrong_draws_are_refused(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        expand(overrides, CONF)
    assert "\n" not in str(caught.value)


def test_the_sweep_for_a_budget_is_nine_datasets_of_the_same_twenty_policies():
    cells = expand(command.read(["sweep=budget"]).overrides, CONF)
    assert len(cells) == 180
    policies = drawn(cells[:20])
    assert drawn(cells) == policies * 9
    assert {tau for tau, *_ in policies} == {0.5, 0.7, 0.9} and {beta for _, beta, _ in policies} == {0.5, 3.0, 10.0}
    assert {cell.members[0]["evaluation"]["final_episodes"] for cell in cells} == {1000}
    fewer = command.read(["sweep=budget", "sweep.draws=5", "env=hopper-medium-v2"]).overrides
    assert drawn(expand(fewer, CONF)) == policies[:5]
