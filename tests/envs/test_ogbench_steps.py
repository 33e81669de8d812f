"""Recorded steps of OGBench's environments taken again, by scripts/verify.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ogbench_data
import pytest

from iql.commands.verify import verify
from iql.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("steps")


def changed(path: Path, **columns: np.ndarray | None) -> Path:
    kept = {name: array for name, array in {**dict(np.load(path)), **columns}.items() if array is not None}
    np.savez(path.with_name("changed.npz"), **kept)
    return path.with_name("changed.npz")


@pytest.mark.parametrize(
    "family",
    [
        "antmaze-large-navigate",
        "cube-single-play",
        "puzzle-3x3-play",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("humanoidmaze-medium-navigate", "antsoccer-arena-navigate", "cube-double-play", "scene-play")
        ),
    ],
)
def test_the_steps_of_a_file_agree_and_those_of_a_changed_one_do_not(folder, family, capsys):
    path = ogbench_data.make(folder / f"{family}-v0.npz", f"{family}-v0", steps=25, episodes=2)
    assert verify(f"{family}-singletask-v0", str(path), None, "d4rl") == 0
    said = capsys.readouterr().out
    assert "50 of 50 steps within episodes taken again, physics=ogbench" in said
    assert "agree: every step to 1e-05" in said
    half = changed(path, actions=np.load(path)["actions"] / 2)
    assert verify(f"{family}-singletask-v0", str(half), None, "d4rl") == 1
    assert "suspect: another environment or version of it" in capsys.readouterr().out


def test_where_a_hole_leads_to_is_not_compared(folder):
    path = ogbench_data.make(folder / "holes.npz", "pointmaze-teleport-navigate-v0", steps=400, episodes=2)
    jumps = np.abs(np.diff(np.load(path)["qpos"], axis=0)).max(1) > 1
    jumps[400] = False  # the next trajectory
    assert jumps.any()
    assert verify("pointmaze-teleport-navigate-singletask-v0", str(path), None, "d4rl") == 0


def test_states_without_velocities_and_of_other_sizes_are_refused(folder):
    path = ogbench_data.make(folder / "ant.npz", "antmaze-large-navigate-v0", steps=5, episodes=1)
    for columns, line in (({"qvel": None}, "has no qvel"), ({"qvel": np.zeros((6, 3), np.float32)}, "qvel is [6, 3]")):
        with pytest.raises(UserError) as refused:
            verify("antmaze-large-navigate-singletask-v0", str(changed(path, **columns)), None, "d4rl")
        assert line in str(refused.value)
