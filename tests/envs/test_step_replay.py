"""Recorded steps replayed: files of this package's simulators agree, and any difference is found and named."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import h5py
import numpy as np
import pytest

from iql.dataset_files.data_file import read as read_rows
from iql.envs.registry import SIMULATORS, make
from iql.envs.verification import step_replay
from iql.envs.verification.recording import read, sample

ROOT = Path(__file__).resolve().parents[2]

HOPPER = "hopper-medium-v2"


def record(simulator: str, length: int = 120, episodes: int = 3, physics: str = "d4rl") -> dict[str, np.ndarray]:
    """`episodes` of at most `length` random actions in D4RL's layout, float64, as D4RL's generators record them.

    The simulator is stepped on and on: what it leaves behind from one step to the next is in the data.
    """
    env = make(simulator, physics, length)
    inner, draws = env.unwrapped, np.random.default_rng(0)
    columns: dict[str, list] = {
        key: [] for key in ("observations", "actions", "rewards", "terminals", "timeouts", "infos/qpos", "infos/qvel")
    }
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        terminated = truncated = False
        while not (terminated or truncated):
            action = draws.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            columns["observations"].append(observation)
            columns["actions"].append(action)
            columns["infos/qpos"].append(inner.data.qpos.copy())
            columns["infos/qvel"].append(inner.data.qvel.copy())
            observation, reward, terminated, truncated, _ = env.step(action)
            columns["rewards"].append(reward)
            columns["terminals"].append(terminated)
            columns["timeouts"].append(truncated and not terminated)
    env.close()
    found = {key: np.array(values) for key, values in columns.items()}
    if simulator.startswith("maze2d-"):  # relabelled: the reward of the row's own position
        found["rewards"] = np.concatenate([[0.0], found["rewards"][:-1]])
    if simulator.startswith("antmaze-"):  # recorded after the step, and rewards of another goal
        found["infos/qpos"] = np.roll(found["infos/qpos"], -1, axis=0)
        found["rewards"] += 5
    return found


def save(path: Path, data: dict[str, np.ndarray], single: bool = False) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in data.items():
            file[key] = values.astype(np.float32) if single and values.dtype.kind == "f" else values
    return path


@pytest.fixture(scope="module")
def hopper() -> dict[str, np.ndarray]:
    return record("hopper")


def errors_of(path: Path, simulator: str, physics: str = "d4rl") -> step_replay.Errors:
    recording = read(path, simulator, read_rows(path, SIMULATORS[simulator].horizon))
    return step_replay.compare(recording, sample(recording, None), physics)


def verify(*arguments: object) -> commands.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "verify.py"), *map(str, arguments)]
    return commands.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


SMALL = [name for name in SIMULATORS if "kitchen" not in name and not re.search("medium|large", name)]


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize("simulator", SMALL)
def test_what_a_simulator_recorded_it_does_again(tmp_path, simulator, single):
    errors = errors_of(save(tmp_path / "own.hdf5", record(simulator), single), simulator)
    assert errors.agree
    assert len(errors.rows) > 50
    assert not errors.breaks.any()
    for part, values in errors.parts().items():
        assert np.median(values) < (1e-6 if single else 1e-10), part
        assert single or values.max() < 1e-8, part
    assert (errors.reward is None) == simulator.startswith("antmaze-")


def test_a_step_that_rounding_throws_far_agrees_and_the_same_error_elsewhere_does_not(tmp_path, hopper):
    """Where a foot just touches the ground, a float32's last place decides on the contact."""
    errors = errors_of(save(tmp_path / "own.hdf5", hopper, single=True), "hopper")
    worst = int(errors.state.argmax())
    assert errors.state[worst] > 10 * step_replay.TOLERANCE
    calm = int(errors.rows[np.argsort(errors.state)[len(errors.state) // 2]])
    hopper = {key: values.copy() for key, values in hopper.items()}
    hopper["infos/qvel"][calm + 1, 0] += errors.state[worst]
    changed = errors_of(save(tmp_path / "changed.hdf5", hopper, single=True), "hopper")
    assert {calm} <= set(changed.rows[changed.unexplained].tolist()) <= {calm, calm + 1}


def test_large_numbers_are_compared_by_their_share():
    assert step_replay.error(np.array([0.5, 600.0]), np.array([0.5, 600.006])) == pytest.approx(1e-5, rel=1e-3)
    assert step_replay.error(np.array([0.5]), np.array([0.501])) == pytest.approx(1e-3)


def test_ends_that_the_file_does_not_mark_are_left_out(tmp_path):
    data = record("antmaze-umaze")
    ends = np.flatnonzero(data["timeouts"])
    data["observations"][: ends[0] + 1, 0] += 8  # the first episode takes place elsewhere in the maze
    data["timeouts"][ends[0]] = False
    errors = errors_of(save(tmp_path / "unmarked.hdf5", data), "antmaze-umaze")
    assert errors.rows[errors.breaks].tolist() == [ends[0]]


def test_rows_are_spread_evenly_and_skip_ends(tmp_path, hopper):
    path = save(tmp_path / "own.hdf5", hopper)
    recording = read(path, "hopper", read_rows(path, 1000))
    ends = np.flatnonzero(hopper["terminals"] | hopper["timeouts"])
    rows = np.arange(len(hopper["rewards"]))
    assert sample(recording, None).tolist() == [row for row in rows if row not in ends]
    few = sample(recording, 7)
    assert len(few) == 7
    assert (few[0], few[-1]) == (recording.steps[0], recording.steps[-1])
    assert np.ptp(np.diff(few)) <= 3


# The command.


def test_the_command_prints_errors_and_agrees(tmp_path, hopper):
    path = save(tmp_path / "own.hdf5", hopper, single=True)
    done = verify(HOPPER, path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(hopper['rewards']):,} rows, states as float32" in done.stdout
    assert re.search(r"^\d+ of \d+ steps .* physics=d4rl, mujoco \d", done.stdout, re.M)
    for part in ("state", "observation", "reward"):
        assert re.search(rf"^{part} +\d\S+ +\d\S+ +\d\S+   \d", done.stdout, re.M), part
    assert re.search(r"^agree: every step to 1e-05, or \(1 of them\)", done.stdout, re.M)


def test_other_physics_are_large_errors_and_the_right_ones_are_named(tmp_path, hopper):
    path = save(tmp_path / "own.hdf5", hopper, single=True)
    done = verify(HOPPER, path, "--physics", "gymnasium", "--steps", "50")
    assert done.returncode == 1
    assert "DIFFERENT: 50 of 50 steps" in done.stdout
    assert "suspect: the steps agree with physics=d4rl" in done.stdout
    median = re.search(r"^state +(\S+)", done.stdout, re.M)
    assert median is not None
    assert float(median[1]) > 1e-3


def test_a_file_from_other_physics_is_told(tmp_path):
    path = save(tmp_path / "other.hdf5", record("hopper", physics="gymnasium"), single=True)
    done = verify(HOPPER, path)
    assert done.returncode == 1
    assert "suspect: the steps agree with physics=gymnasium" in done.stdout


def change(key: str, how: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    def apply(data: dict[str, np.ndarray]) -> None:
        data[key] = how(data[key])

    return apply


@pytest.mark.parametrize(
    ("edit", "suspected"),
    [
        (change("rewards", lambda rewards: rewards * 0.3), "the rewards are another version's"),
        (change("observations", lambda seen: (seen - seen.mean(0)) / seen.std(0)), "or were normalised"),
        (change("actions", lambda actions: actions.clip(-0.5, 0.5)), "scaled or clipped"),
        (change("infos/qvel", lambda qvel: np.roll(qvel, 1, 0)), "states of other rows"),
    ],
    ids=["rewards", "observations", "actions", "states"],
)
def test_what_was_changed_after_recording_is_suspected(tmp_path, hopper, edit, suspected):
    data = dict(hopper)
    edit(data)
    done = verify(HOPPER, save(tmp_path / "changed.hdf5", data))
    assert done.returncode == 1
    assert "DIFFERENT" in done.stdout
    assert suspected in done.stdout.splitlines()[-1]


def test_a_few_wrong_rows_are_told_from_a_wrong_simulator(tmp_path, hopper):
    data = {key: values.copy() for key, values in hopper.items()}
    data["infos/qvel"][50] += 0.01
    done = verify(HOPPER, save(tmp_path / "changed.hdf5", data))
    assert done.returncode == 1
    assert "DIFFERENT: 2 of" in done.stdout
    assert "suspect: only 1.69% of the steps" in done.stdout


@pytest.mark.parametrize(
    ("task", "drop", "message"),
    [
        (
            "door-expert-v1",
            ("infos/qpos", "infos/qvel"),
            "has no infos/qpos, infos/qvel: without the simulator's states",
        ),
        ("hammer-expert-v1", (), "observations of 39 entries and actions of 28, but hammer-expert-v1 takes 46 and 26"),
        ("door-expert-v1", ("actions",), "has no actions"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(tmp_path, task, drop, message):
    data = {key: values for key, values in record("door", 20, 1).items() if key not in drop}
    done = verify(task, save(tmp_path / "some.hdf5", data))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "some.hdf5" in done.stderr and message in done.stderr


def test_states_of_another_size_are_one_line(tmp_path, hopper):
    data = {**hopper, "infos/qpos": hopper["infos/qpos"][:, 1:]}
    done = verify(HOPPER, save(tmp_path / "some.hdf5", data))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"infos/qpos is [{len(hopper['rewards'])}, 5] where hopper has [{len(hopper['rewards'])}, 6]" in done.stderr


def test_kitchen_is_one_line(tmp_path):
    data = {key: np.zeros((300, width), np.float32) for key, width in (("observations", 60), ("actions", 9))}
    data |= {key: np.zeros(300, np.float32) for key in ("rewards", "terminals", "timeouts")}
    done = verify("kitchen-mixed-v0", save(tmp_path / "kitchen.hdf5", data))
    assert (done.returncode, done.stdout) == (1, "")
    assert "kitchen's files hold no simulator states" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hoper-medium-v2",), "did you mean hopper-medium-v2"),
        (("hopper-*",), "is not one task"),
        (("hdf5",), "is not one task"),
        (("hopper-medium-v2", "nowhere.hdf5"), "nowhere.hdf5 does not exist"),
        (("hopper-medium-v2", "--steps", "some"), "give a number of steps, or all"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    done = verify(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
