"""The records and the figures of a run's directory."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.image import imread

from iql.errors import UserError
from iql.reporting.run_figures import figures_missing, learning_curve, value_map
from iql.runs.metrics_file import read_metrics

BLUE = (0, 114, 178)  # the score's line
GREEN = (0, 158, 115)  # the value loss
YELLOW = (253, 231, 37)  # the highest V
RED = (213, 94, 0)  # a rollout that failed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "hopper-medium-v2" / "tau=0.7-1a2b3c" / "seed=0"
    directory.mkdir(parents=True)
    return directory


def train(update: int) -> dict:
    losses = {"value_loss": 1 / update, "q_loss": 10 / update, "policy_loss": -update / 1000}
    return {"kind": "train", "update": update, **losses}


def evaluation(update: int, score: float) -> dict:
    return {"kind": "eval", "update": update, "score": score, "score_std": 2.0, "returns": [1.0] * 10}


def write(directory: Path, records: list[dict], tail: str = "") -> None:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (directory / "metrics.jsonl").write_text(lines + tail)


def pixels(path: Path, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has a colour (± 6), [P, 2] as x from the left and y from the top, both 0 to 1."""
    image = np.round(imread(path)[..., :3] * 255)
    rows, columns = np.nonzero((np.abs(image - colour) <= 6).all(axis=-1))
    return np.stack([columns / image.shape[1], rows / image.shape[0]], axis=1)


def test_metrics_are_split_by_kind_and_a_truncated_line_is_reported(run: Path, caplog) -> None:
    write(run, [train(100), evaluation(100, 5.0), train(200)], tail='{"kind": "train", "upd')
    with caplog.at_level(logging.WARNING):
        assert read_metrics(run) == ([train(100), train(200)], [evaluation(100, 5.0)])
    assert f"{run / 'metrics.jsonl'}, line 4" in caplog.text
    assert read_metrics(run / "nowhere") == ([], [])


def test_the_learning_curve_of_a_rising_score_rises(run: Path) -> None:
    write(run, [r for u in range(100, 3100, 100) for r in (train(u), evaluation(u, u / 50))])
    path = learning_curve(run)
    assert path == run / "curve.png"
    line = pixels(path, BLUE)
    early, late = line[line[:, 0] < 0.3], line[(line[:, 0] > 0.6) & (line[:, 0] < 0.9)]
    assert len(early) > 50 and len(late) > 50
    assert late[:, 1].mean() < early[:, 1].mean() - 0.1
    assert not [other for other in run.iterdir() if other.name not in ("curve.png", "metrics.jsonl")]


def test_learning_curve_shows_scores_and_losses_of_zero(run: Path) -> None:
    nothing = {"value_loss": 0.0, "q_loss": 1.0, "policy_loss": 1.0}
    write(run, [record for u in range(1, 9) for record in (evaluation(u, 0.0), {**train(u), **nothing})])
    picture = learning_curve(run)
    assert all(len(pixels(picture, colour)) > 500 for colour in (BLUE, GREEN))


NAN = float("nan")


@pytest.mark.parametrize(
    "records",
    [
        [],
        [train(100)],
        [evaluation(0, 3.0)],
        [{**train(100), "value_loss": NAN, "q_loss": None, "policy_loss": 0.0}, evaluation(100, NAN)],
        [evaluation(1_000_000, -4.0), {**evaluation(2_000_000, 7.0), "score_std": None}],
    ],
    ids=["empty", "train only", "one evaluation", "not finite", "no spread"],
)
def test_learning_curve_of_a_run_with_few_records(run: Path, records: list[dict]) -> None:
    write(run, records)
    assert imread(learning_curve(run)).shape[2] >= 3


def write_map(directory: Path, rows: int = 5, columns: int = 7, episodes: int = 3, side: float = 1.0) -> None:
    """Free cells of that side inside a border; V is highest in the cell of small x and large y."""
    walls = np.ones((rows, columns), bool)
    walls[1:-1, 1:-1] = False
    corner, scale = -0.3, 10
    values = np.zeros((rows * scale, columns * scale), np.float32)
    values[scale : 2 * scale, (columns - 2) * scale : (columns - 1) * scale] = 1.0
    values[np.kron(walls, np.ones((scale, scale), bool))] = np.nan
    paths = np.full((episodes, 51, 2), np.nan, np.float32)
    paths[:, :20, 0] = corner + side * np.linspace(rows - 1.5, 1.5, 20)  # from large x, at small y
    paths[:, :20, 1] = corner + side * 1.5
    np.savez(
        directory / "map.npz",
        values=values,
        extent=np.array([corner, corner + side * rows, corner, corner + side * columns]),
        walls=walls,
        goal=corner + side * np.array([1.5, columns - 1.5]),
        paths=paths,
        success=np.zeros(episodes, bool),
    )


@pytest.mark.parametrize("side", [1.0, 4.0])
def test_value_map_has_x_to_the_right_and_y_upwards(run: Path, side: float) -> None:
    assert value_map(run) is None
    write_map(run, side=side)
    path = value_map(run)
    assert path == run / "map.png"
    inside = pixels(path, YELLOW)
    inside = inside[inside[:, 0] < 0.8]  # the colour bar lies to the right
    assert len(inside) > 1000
    start = pixels(path, RED)  # the dot that a failed rollout starts from
    start = start[start[:, 1] < 0.85]  # the legend lies below
    assert inside[:, 0].mean() < start[:, 0].mean() - 0.1
    assert inside[:, 1].mean() < 0.4 < 0.6 < start[:, 1].mean()
    # paths lie on the map to scale: the cell's middle is four cells above the path
    assert start[:, 1].mean() - inside[:, 1].mean() == pytest.approx(4 * np.ptp(inside[:, 1]), rel=0.05)


@pytest.mark.parametrize(("rows", "columns", "episodes"), [(9, 12, 1), (3, 20, 2), (4, 4, 0)])
def test_value_map_of_other_mazes(run: Path, rows: int, columns: int, episodes: int) -> None:
    write_map(run, rows, columns, episodes)
    path = value_map(run)
    assert path is not None and imread(path).shape[2] >= 3


@pytest.mark.parametrize("damage", ["cut", "text", "array missing"])
def test_a_damaged_map_is_reported_with_its_path(run: Path, damage: str) -> None:
    write_map(run)
    source = run / "map.npz"
    if damage == "cut":
        source.write_bytes(source.read_bytes()[:2000])
    elif damage == "text":
        source.write_text("no archive")
    else:
        np.savez(source, values=np.zeros((2, 2)))
    with pytest.raises(UserError, match="map.npz is damaged"):
        value_map(run)


def test_figures_need_no_display_and_log_nothing(run: Path, tmp_path: Path) -> None:
    """Also with an empty home directory, where matplotlib builds its font cache."""
    write(run, [train(100), evaluation(100, 5.0)])
    write_map(run)
    code = f"""
import logging, sys
logging.basicConfig(level=logging.INFO)
from iql.reporting.run_figures import learning_curve, value_map
assert "matplotlib" not in sys.modules
learning_curve({str(run)!r}), value_map({str(run)!r})
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MPLBACKEND": "tkagg"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("missing", ["curve.png", "map.png", None])
def test_a_run_with_a_missing_picture_is_drawn_again(run: Path, missing: str | None) -> None:
    for name in {"curve.png", "map.png", "map.npz"} - {missing}:
        (run / name).touch()
    assert figures_missing(run) == (missing is not None)


def test_a_run_without_a_maze_misses_no_map(run: Path) -> None:
    (run / "curve.png").touch()
    assert not figures_missing(run)
