"""scripts/evaluate.py: episodes beyond those of training, with interval, video and picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path

import commands
import imageio.v2 as imageio
import mujoco
import numpy as np
import pytest
from conftest import ROOT, Trainer, mounts
from matplotlib import image

from iql.evaluation.pending import episode_seeds

FAMILIES = [
    *(
        "hopper",
        "halfcheetah",
        "walker2d",
        "ant",
        "antmaze-umaze",
        "antmaze-large",
        "maze2d-medium",
        "maze2d-large-dense",
    ),
    *("door", "hammer", "pen", "relocate", "kitchen-mixed"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A finished run in the maze."""
    return trained(tmp_path_factory.mktemp("evaluated"), data_dir)


def trained(folder: Path, data_dir: Path, *words: str) -> Path:
    environment = {**os.environ, "IQL_DATA_DIR": str(data_dir)}
    train = Trainer(folder / "runs", environment)
    result = train(*words)
    assert result.returncode == 0, result.stderr
    return train.directories()[0]


def evaluate(*arguments: str | Path, expected: int = 0, **environment: str) -> commands.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    kept |= environment
    filmed = "--video" in arguments  # what a film is drawn with is settled when mujoco is imported
    result = commands.run(command, capture_output=True, text=True, timeout=250, env=kept, cold=filmed)
    assert result.returncode == expected, result.stdout + result.stderr
    return result


def saved(tmp_path: Path, run: Path, *options: str) -> dict:
    out = tmp_path / "scores.json"
    evaluate(run, "--save", out, *options)
    return json.loads(out.read_text())


def test_what_it_says(run, tmp_path):
    out = tmp_path / "scores.json"
    result = evaluate(run, "--episodes", "12", "--save", out)
    content = json.loads(out.read_text())
    assert content["episodes"] == len(content["scores"]) == len(content["seeds"]) == 12
    scores = np.array(content["scores"])
    np.testing.assert_allclose(scores, 100 * (np.array(content["returns"]) - 23.85) / (161.86 - 23.85))
    low, high = content["score_interval"]
    assert low <= content["score"] == scores.mean() <= high
    assert f"normalised score   {scores.mean():.1f} [{low:.1f}, {high:.1f}]" in result.stdout
    assert f"goal reached       {100 * np.mean(content['reached']):.0f} %" in result.stdout
    assert f"12 episodes with the mean action, seed 0; d4rl physics on mujoco {mujoco.__version__}" in result.stdout
    assert content["success_rate"] == np.mean(content["reached"])
    assert content["reached"] == [value > 0 for value in content["returns"]]
    assert result.stderr == ""


@pytest.mark.slow
def test_neither_workers_nor_episodes_beside_it_change_an_episode(run, tmp_path):
    one = saved(tmp_path, run, "--episodes", "11", "--workers", "1")
    two = saved(tmp_path, run, "--episodes", "11", "--workers", "2")
    assert one == two
    assert saved(tmp_path, run, "--episodes", "5")["returns"] == one["returns"][:5]
    assert saved(tmp_path, run, "--episodes", "5", "--seed", "1")["seeds"] != one["seeds"][:5]


def test_its_episodes_are_not_those_of_training(run, tmp_path):
    content = saved(tmp_path, run, "--episodes", "3")
    assert not set(content["seeds"]) & set(episode_seeds(0, 60, 100))
    # The same for every policy; the goal of antmaze v0 stays the run's own.
    assert episode_seeds(0, 60, 3, again=7) == episode_seeds(1, 80, 3, again=7)
    shared = {seed >> 31 for seed in episode_seeds(4, 60, 3, run_seeded=True)}
    assert shared == {seed >> 31 for seed in episode_seeds(4, 80, 9, run_seeded=True, again=7)}


def test_one_episode_has_no_interval(run):
    shown = evaluate(run, "--episodes", "1").stdout
    assert "one episode, so no interval" in shown
    assert "[" not in shown


def test_of_a_run_under_way_the_newest_checkpoint(train, data_dir):
    stop = "import os, signal; from iql.training import pack as packs; save = packs.Pack.save\n"
    stop += "def once(self, *a):\n    save(self, *a)\n"
    stop += "    if self.learner.update_count == 40: os.kill(os.getpid(), signal.SIGKILL)\npacks.Pack.save = once"
    assert train(patch=stop).returncode == -9
    assert "update 40" in evaluate(train.directories()[0], "--episodes", "2").stdout


def frames(path: Path) -> list[np.ndarray]:
    with imageio.get_reader(path) as reader:
        return list(reader.iter_data())


EGL, OSMESA = (find_library(name) is not None for name in ("EGL", "OSMesa"))


def drawn(test: Callable) -> Callable:
    """Marks a test that draws a simulator."""
    need = "needs EGL or OSMesa (Debian: libegl1 libegl-mesa0, libosmesa6)"
    return pytest.mark.video(pytest.mark.skipif(not EGL and not OSMESA, reason=need)(test))


@drawn
@pytest.mark.parametrize(
    "backend",
    [
        "",
        pytest.param("egl", marks=pytest.mark.skipif(not EGL, reason="needs EGL (Debian: libegl1 libegl-mesa0)")),
        pytest.param("osmesa", marks=pytest.mark.skipif(not OSMESA, reason="needs OSMesa (Debian: libosmesa6)")),
    ],
)
def test_a_video_of_the_first_episodes(run, tmp_path, backend):
    video = tmp_path / "rollout.mp4"
    environment = {"MUJOCO_GL": backend} if backend else {}
    result = evaluate(run, "--episodes", "2", "--filmed", "1", "--video", video, **environment)
    assert f"written: {video}" in result.stdout
    assert result.stderr == ""
    shots = frames(video)
    assert len(shots) == 150  # 300 steps of 10 ms: 50 frames a second are every second step
    assert shots[0].shape == (480, 640, 3)
    assert np.abs(shots[0].astype(int) - shots[-1]).max() > 50  # the ball moved
    assert list(tmp_path.iterdir()) == [video]


def test_a_picture_of_the_ways_over_v(run, tmp_path):
    picture = tmp_path / "paths.png"
    evaluate(run, "--episodes", "4", "--picture", picture)
    shown = image.imread(picture)
    assert shown.shape[0] > 500
    assert shown[..., :3].std() > 0.1


ONE_FRAME = """
import sys
sys.path.insert(0, {root!r})
from iql.policies.video import Film, Filmed, choose_backend
choose_backend()
import numpy as np
from pathlib import Path
from iql.envs.d4rl.mazes import MAZES
from iql.envs.registry import make
for name in {families!r}:
    env = Filmed(make(name), MAZES.get(name), Film(Path("unwritten.mp4")))
    env.reset(seed=0)
    frame = env.frame()
    for _ in range(20):
        env.env.step(np.ones(env.action_space.shape, np.float32))
    assert frame.shape == (480, 640, 3) and frame.std() > 20, name
    assert (env.frame() != frame).any(), name
    env.close()
    print(name)
"""


@drawn
def test_every_family_is_drawn(tmp_path):
    code = ONE_FRAME.format(root=str(ROOT), families=FAMILIES)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, cwd=tmp_path)
    assert result.stdout.split() == FAMILIES, result.stderr


def test_where_nothing_draws_it_says_what_to_install(run, tmp_path, monkeypatch):
    from iql.errors import UserError
    from iql.policies import video

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(video, "_TRY", "raise SystemExit(1)")
    with pytest.raises(UserError, match="libegl1.*libosmesa6"):
        video.choose_backend()


def test_a_backend_of_the_users_that_draws_nothing_is_named(run, tmp_path):
    result = evaluate(run, "--video", tmp_path / "rollout.mp4", expected=1, MUJOCO_GL="glfw", DISPLAY="")
    assert "MUJOCO_GL=glfw draws nothing here" in result.stderr
    assert result.stderr.count("\n") == 1


@mounts
@drawn
def test_a_video_that_was_cut_is_not_left(run, tmp_path):
    """The disk is full before the film is."""
    (tmp_path / "small").mkdir()
    code = f'mount -t tmpfs -o size=32k none {tmp_path}/small && "$@"; code=$?; ls -A {tmp_path}/small; exit $code'
    command = [sys.executable, str(ROOT / "scripts/evaluate.py"), str(run), "--episodes", "1"]
    command += ["--video", str(tmp_path / "small/rollout.mp4")]
    launched = ["unshare", "-m", "sh", "-c", code, "sh", *command]
    result = subprocess.run(launched, capture_output=True, text=True, timeout=250)
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.fullmatch(r"evaluate.py: --video .*frames were written; is the disk full\?\n", result.stderr), (
        result.stderr
    )
    assert ".mp4" not in result.stdout


@pytest.fixture
def elsewhere(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run whose settings of env are others."""

    def copy(**env: object) -> Path:
        shutil.copytree(run, tmp_path / "run")
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["settings"]["env"].update(env)
        (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path / "run"

    return copy


def test_what_cannot_be_filmed_is_refused_before_it_is_played(elsewhere, tmp_path):
    result = evaluate(elsewhere(physics="legacy"), "--video", tmp_path / "rollout.mp4", expected=1)
    assert "has no environment of ours to be drawn" in result.stderr
    assert not (tmp_path / "rollout.mp4").exists()


def test_data_are_not_needed(elsewhere):
    run = elsewhere(made_rows=999_999)  # which are nowhere, and would take long to make
    assert "3 episodes" in evaluate(run, "--episodes", "3").stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--episodes", "0"), "--episodes 0: must be at least 1"),
        (("--seed", "-1"), "--seed -1: must be at least 0"),
        (("--video", "rollout.avi"), "must end in .mp4"),
        (("--picture", "paths.pdf"), "must end in .png"),
        (("--save", "nowhere/scores.json"), "there is no folder"),
    ],
)
def test_bad_options_are_refused_at_once(run, options, said):
    result = evaluate(run, *options, expected=1)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_is_no_run(run, tmp_path):
    assert "not a run's directory" in evaluate(tmp_path, expected=1).stderr
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "networks.ckpt").write_bytes(b"")
    assert "it is empty" in evaluate(tmp_path / "run", expected=1).stderr


def test_without_an_environment(tmp_path, data_dir):
    rows = np.random.default_rng(0).uniform(-1, 1, (300, 3)).astype(np.float32)
    np.savez(
        tmp_path / "data.npz",
        observations=rows,
        actions=rows[:, :2],
        rewards=rows[:, 0],
        terminals=np.arange(300) % 50 == 49,
        timeouts=np.zeros(300, bool),
    )
    run = trained(
        tmp_path, data_dir, "env=hdf5", f"env.path={tmp_path / 'data.npz'}", "evaluation.every=null", "env.horizon=50"
    )
    result = evaluate(run, expected=1)
    assert "has nothing to evaluate in" in result.stderr
    assert result.stderr.count("\n") == 1
