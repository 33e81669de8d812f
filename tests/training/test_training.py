"""What a user sees of a training: directories, packs, kills, signals, owners, damage and full disks."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import commands
import mujoco
import psutil
import pytest
from conftest import Trainer, numbers_of, refusal_of
from kills import signal_at, stop_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iql.runs import checkpoints

slow = pytest.mark.slow

# The process kills itself, as kill -9 would, at its n-th call of a function that makes something durable.
KILL_AT = """
import os, signal
calls = 0
real = os.{function}
def counting(*arguments, **options):
    global calls
    calls += 1
    if calls == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
os.{function} = counting
"""

# ... in the middle of a line of metrics.jsonl.
KILL_IN_LINE = """
import os, signal
from iql.runs.metrics_file import MetricsFile
real = MetricsFile.flush
flushes = 0
def flush(self, sync=False):
    global flushes
    flushes += 1
    if flushes == {number}:
        with open(self.path, 'ab') as file:
            file.write(self._buffered[0][:17])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, sync)
MetricsFile.flush = flush
"""

# ... in the middle of a checkpoint's bytes.
KILL_IN_CHECKPOINT = """
import os, signal
from iql.runs import checkpoints
def half(path, *parts):
    with open(path.with_name('.half.tmp'), 'wb') as file:
        file.write(parts[0])
        file.write(bytes(parts[1])[:1000])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.replace_file = half
"""

# ... or is sent a signal, when it begins its n-th evaluation.
SIGNAL_AT_EVALUATION = """
import os, signal
from iql.evaluation.pending import Evaluator
real_submit = Evaluator._submit
begun = 0
def submit(self, *arguments, **options):
    global begun
    real_submit(self, *arguments, **options)
    begun += 1
    if begun == {number}:
        os.kill(os.getpid(), signal.{signal})
Evaluator._submit = submit
"""

# ... or where it would wait for an evaluation.
SIGNAL_IN_WAIT = """
import os, signal
from iql.evaluation.pending import Evaluator
real_collect = Evaluator.collect
def collect(self, keep_waiting):
    if keep_waiting():
        os.kill(os.getpid(), signal.SIGTERM)
    return real_collect(self, keep_waiting)
Evaluator.collect = collect
"""

# What rollout workers do instead of playing; they import it by its name.
DISTURBING = """
import os, signal, time
from iql.errors import UserError
from iql.evaluation.worker_process import play

def never(*arguments):
    time.sleep(1000)

def late(*arguments):
    time.sleep(0.5)
    return play(*arguments)

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def refuse(*arguments):
    raise UserError('the ice is melting')

def fail(*arguments):
    raise ZeroDivisionError('inside the simulator')
"""

# ... or waits before an update for as long as a file that it makes is there.
WAIT_AT = """
import pathlib, time
from iql.execution.threads import MemberThreads
real_advance, reached = MemberThreads.advance, pathlib.Path({reached!r})
def advance(self, batches, count, measure):
    if self._learner.update_count <= {update} < self._learner.update_count + count:
        reached.touch()
        while reached.exists():
            time.sleep(0.01)
    return real_advance(self, batches, count, measure)
MemberThreads.advance = advance
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir):
    """The numbers of a pack of two that nothing disturbed."""
    environment = {**os.environ, "IQL_DATA_DIR": str(data_dir), "OMP_NUM_THREADS": "1"}
    train = Trainer(tmp_path_factory.mktemp("undisturbed") / "runs", environment)
    result = train("seed=[0,1]")
    assert result.returncode == 0, result.stderr
    return [numbers_of(directory) for directory in train.directories()]


def finish_and_compare(train: Trainer, undisturbed: list[dict], *overrides: str) -> None:
    result = train("seed=[0,1]", *overrides)
    assert result.returncode == 0, result.stderr
    assert [numbers_of(directory) for directory in train.directories()] == undisturbed
    for directory in train.directories():
        left = {path.name for path in directory.iterdir()}
        assert left == {
            *("manifest.json", "metrics.jsonl", "summary.json", "networks.ckpt", "map.npz"),
            *("curve.png", "map.png", ".lock"),
        }


def test_a_run_directory_holds_everything_and_the_same_command_does_nothing_more(train):
    first = train("algorithm.tau=0.9")
    assert first.returncode == 0, first.stderr
    (directory,) = train.directories()
    sweep, env, configuration, seed = directory.relative_to(train.runs).parts
    assert (sweep, env, seed) == ("single", "maze2d-umaze-made", "seed=0")
    assert "tau=0.9" in configuration
    assert len(configuration.encode()) <= 130

    summary = json.loads((directory / "summary.json").read_text())
    for key in (
        *("env", "seed", "updates", "final_score", "last10_score", "best_score", "episodes", "wall_seconds"),
        *("updates_per_second", "device", "mujoco", "physics"),
    ):
        assert key in summary
    assert (summary["updates"], summary["episodes"], summary["evaluations"]) == (60, 2, 3)
    assert (summary["mujoco"], summary["physics"]) == (mujoco.__version__, "d4rl")

    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["settings"]["algorithm"]["tau"] == 0.9
    assert "algorithm.tau=0.9" in manifest["overrides"]
    assert manifest["packages"]["mujoco"] == mujoco.__version__
    assert len(manifest["lives"]) == 1

    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [r["update"] for r in records if r["kind"] == "train"] == list(range(5, 61, 5))
    assert [r["update"] for r in records if r["kind"] == "eval"] == [20, 40, 60]
    assert "score" in first.stdout
    assert "random policy" in first.stdout

    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    again = train("algorithm.tau=0.9")
    assert again.returncode == 0
    assert "done already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir() if path.name != ".lock"} == {
        path: when for path, when in before.items() if path.name != ".lock"
    }


@slow
def test_what_does_not_decide_the_numbers_does_not_change_the_directory(train):
    assert train("updates=20").returncode == 0
    assert "done already" in train("updates=20", "checkpoint.every=7", "log_every=3", "device=cpu").stderr
    assert len(train.directories()) == 1


@slow
def test_a_pack_is_one_run_a_seed_and_each_equals_the_run_alone(train, trainer_in, tmp_path):
    assert train("seed=[0,1]", "updates=100").returncode == 0
    assert [directory.name for directory in train.directories()] == ["seed=0", "seed=1"]
    alone = trainer_in(tmp_path / "alone")
    assert alone("seed=1", "updates=100").returncode == 0
    (own,), packed = alone.directories(), train.directories()[1]
    for ours, theirs in zip(numbers_of(own)["metrics"], numbers_of(packed)["metrics"], strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["kind"] == theirs["kind"]
        for key, value in ours.items():
            assert key == "kind" or value == pytest.approx(theirs[key], rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize(
    "numbers", [(1, 3, 4), *(pytest.param(n, marks=slow) for n in ((5, 7, 2), (9, 6, 8)))], ids=str
)
def test_kill_9_while_files_are_made_durable_leaves_no_trace(train, undisturbed, numbers):
    for number in numbers:
        killed = train("seed=[0,1]", patch=KILL_AT.format(function="fsync", number=number))
        assert killed.returncode == -signal.SIGKILL
    finish_and_compare(train, undisturbed)


@slow
def test_kill_9_between_writing_and_renaming_leaves_no_trace(train, undisturbed):
    for number in (4, 7, 5):
        killed = train("seed=[0,1]", patch=KILL_AT.format(function="replace", number=number))
        assert killed.returncode == -signal.SIGKILL
    finish_and_compare(train, undisturbed)


@pytest.fixture
def playing(train, tmp_path) -> Callable[[str], str]:
    """The patch by which rollout workers do something of DISTURBING."""
    (tmp_path / "disturbing.py").write_text(DISTURBING)
    train.environment["PYTHONPATH"] = str(tmp_path)
    return lambda how: f"import iql.evaluation.workers, disturbing\niql.evaluation.workers.play = disturbing.{how}\n"


@slow
def test_kill_9_when_an_evaluation_begins_leaves_no_trace(train, undisturbed):
    for number in (1, 2, 3, 3):  # of updates 20, 40 and 60, and the map's
        killed = train("seed=[0,1]", patch=SIGNAL_AT_EVALUATION.format(number=number, signal="SIGKILL"))
        assert killed.returncode == -signal.SIGKILL
    finish_and_compare(train, undisturbed)


@slow
def test_kill_9_with_an_evaluation_under_way_since_an_earlier_checkpoint_leaves_no_trace(train, undisturbed, playing):
    killed = train("seed=[0,1]", "checkpoint.every=6", patch=playing("never") + stop_at(33))
    assert killed.returncode == -signal.SIGKILL
    for update, held in ((24, []), (30, [25, 30])):
        for directory in train.directories():
            state = checkpoints.read(directory / "checkpoints" / f"update={update:09d}.ckpt")
            assert state["evaluation"]["update"] == 20
            assert [record["update"] for record in state["evaluation"]["held"]] == held
            assert state["position"]["evaluated"] == 0
    finish_and_compare(train, undisturbed)


def test_rollout_workers_die_with_a_killed_training(train, playing):
    process = train.start(patch=playing("never"))
    wait_for(lambda: any((directory / "checkpoints").is_dir() for directory in train.directories()))
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.communicate()
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]


@slow
def test_a_signal_does_not_wait_for_an_evaluation_and_the_resumed_run_plays_it(train, undisturbed, playing):
    stopped = train("seed=[0,1]", patch=playing("never") + signal_at(33))
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    (left,) = (train.directories()[0] / "checkpoints").glob("*35.ckpt")
    assert checkpoints.read(left)["evaluation"]["update"] == 20
    # Where the next evaluation waits for the one under way, and where a resumed run begins with that wait.
    for update in (40, 40):
        stopped = train("seed=[0,1]", patch=playing("never") + SIGNAL_IN_WAIT)
        assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
        assert f"after update {update}" in stopped.stderr
        assert (
            checkpoints.read(train.directories()[0] / f"checkpoints/update={update:09d}.ckpt")["evaluation"]["update"]
            == 20
        )
    # When a resumed run begins the one that was due, with the last one under way, and in the map's.
    for number in (2, 3, 2):
        stopped = train("seed=[0,1]", patch=SIGNAL_AT_EVALUATION.format(number=number, signal="SIGTERM"))
        assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    finish_and_compare(train, undisturbed)


@slow
@pytest.mark.parametrize("overrides", [["evaluation.workers=2"], ["evaluation.workers=3", "log_every=5"]], ids=str)
def test_the_record_is_the_same_however_many_play_and_however_long_they_take(train, undisturbed, playing, overrides):
    result = train("seed=[0,1]", *overrides, patch=playing("late"))
    assert result.returncode == 0, result.stderr
    assert [numbers_of(directory) for directory in train.directories()] == undisturbed


def test_a_killed_rollout_worker_is_one_line_that_names_the_likely_cause(train, undisturbed, playing):
    result = train("seed=[0,1]", patch=playing("die"))
    assert result.returncode == 1
    refusal = refusal_of(result)
    assert "SIGKILL" in refusal
    assert "memory" in refusal
    assert "the same command again" in refusal
    assert "Traceback" not in result.stderr
    finish_and_compare(train, undisturbed)


def test_what_an_environment_raises_arrives(train, playing):
    result = train(patch=playing("refuse"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "train.py: the ice is melting"
    assert "Traceback" not in result.stderr
    result = train(patch=playing("fail"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: inside the simulator"


@slow
def test_kill_9_before_the_pictures_are_drawn_leaves_them_to_the_next_call(train, undisturbed):
    draw = "import os, signal\nfrom iql.reporting import run_figures as figures\n"
    draw += "figures.learning_curve = lambda directory: os.kill(os.getpid(), signal.SIGKILL)"
    assert train("seed=[0,1]", patch=draw).returncode == -signal.SIGKILL
    finish_and_compare(train, undisturbed)


@slow
def test_kill_9_in_the_middle_of_a_line_and_of_a_checkpoint_leaves_no_trace(train, undisturbed):
    for patch in (KILL_IN_LINE.format(number=1), KILL_IN_LINE.format(number=4), KILL_IN_CHECKPOINT):
        assert train("seed=[0,1]", patch=patch).returncode == -signal.SIGKILL
    finish_and_compare(train, undisturbed)


def start_until(train: Trainer, update: int, *overrides: str) -> commands.Process:
    """A training that waits before this update."""
    reached = train.runs.parent / f"reached {update}"
    process = train.start(*overrides, patch=WAIT_AT.format(reached=str(reached), update=update))
    wait_for(reached.exists)
    return process


@slow
def test_kill_9_anywhere_leaves_no_trace_and_no_process(train, undisturbed):
    for update in (0, 17, 33, 58):
        process = start_until(train, update, "seed=[0,1]")
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running()]
    finish_and_compare(train, undisturbed)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=slow) for n in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2))],
)
def test_a_signal_saves_says_how_to_go_on_and_exits_with_its_number(train, undisturbed, number):
    process = start_until(train, 33, "seed=[0,1]")
    process.send_signal(number)
    (train.runs.parent / "reached 33").unlink()
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in stderr
    assert number.name in stderr
    assert all(list((directory / "checkpoints").glob("*.ckpt")) for directory in train.directories())
    finish_and_compare(train, undisturbed)


def test_a_handler_that_stood_there_before_is_called_after_saving(train):
    requeue = (
        "import signal, sys; signal.signal(signal.SIGUSR2, lambda *a: (print('REQUEUED', flush=True), sys.exit(7)))\n"
    )
    stopped = train(patch=requeue + signal_at(33, "SIGUSR2"))
    assert "REQUEUED" in stopped.stdout
    assert stopped.returncode == 7
    assert list((train.directories()[0] / "checkpoints").glob("*.ckpt"))


def test_a_second_process_says_who_owns_the_run_and_leaves(train):
    first = start_until(train, 17)
    second = train()
    assert second.returncode == 1
    assert f"is being trained by process {first.pid}" in refusal_of(second)
    first.kill()
    first.communicate()
    assert train().returncode == 0  # a dead owner's run is taken over at once


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.02)


OWN = """
import torch
from torch import nn
from iql.algorithms.iql import IQL

class Residual(nn.Module):
    def __init__(self, observation_dim, action_dim, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(observation_dim, width), nn.ReLU(), nn.Linear(width, observation_dim))
        self.head = nn.Linear(observation_dim, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observations):
        return torch.tanh(self.head(observations + self.inner(observations))), self.log_std

class Careful(IQL):
    def update(self, step):
        step.batch = step.batch._replace(rewards=step.batch.rewards - 1)
        super().update(step)

class Lines:
    def __init__(self, path):
        self.path = path

    def start(self, info):
        self.name = info.name

    def log(self, record):
        with open(self.path, 'a') as file:
            file.write(f"{self.name} {record['kind']} {record['update']}\\n")

    def finish(self, summary, exit_code=0):
        pass
"""


def test_a_users_own_policy_algorithm_and_tracker_take_their_places(train, tmp_path):
    (tmp_path / "own_parts.py").write_text(OWN)
    train.environment["PYTHONPATH"] = str(tmp_path)
    result = train(
        "~network.policy",
        "+network.policy={_target_:own_parts.Residual,width:8}",
        "algorithm._target_=own_parts.Careful",
        f"+tracker.lines={{_target_:own_parts.Lines,path:{tmp_path / 'lines'}}}",
        "seed=[0,1]",
        "updates=20",
    )
    assert result.returncode == 0, result.stderr
    configuration = train.directories()[0].parent.name
    assert "algorithm=Careful" in configuration
    assert "policy=Residual" in configuration
    lines = (tmp_path / "lines").read_text().splitlines()
    assert [line.split()[1:] for line in lines if "seed=1" in line] == [
        *(["train", str(update)] for update in (5, 10, 15, 20)),
        ["eval", "20"],
    ]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("class Own:\n    pass", "must derive from iql.algorithms.algorithm.Algorithm"),
        (
            "from iql.algorithms.algorithm import Algorithm\n"
            "class Own(Algorithm):\n    networks = ('policy', 'model')\n    def update(self, step):\n        pass",
            "trains model, which is none of the networks that are configured: value, q, policy",
        ),
    ],
)
def test_a_class_that_is_no_algorithm_is_refused_in_one_line(train, tmp_path, body, line):
    (tmp_path / "own_parts.py").write_text(body)
    train.environment["PYTHONPATH"] = str(tmp_path)
    own = "+algorithm={_target_:own_parts.Own,initialization:orthogonal,policy_mean:tanh}"
    refused = train("~algorithm", own)
    assert refused.returncode == 1
    assert refusal_of(refused) == f"train.py: algorithm._target_=own_parts.Own: {line}"
    assert train.directories() == []


@slow
def test_another_class_is_another_run(train, tmp_path):
    (tmp_path / "own_parts.py").write_text(OWN)
    train.environment["PYTHONPATH"] = str(tmp_path)
    assert train("updates=20").returncode == 0
    assert "done already" not in train("updates=20", "algorithm._target_=own_parts.Careful").stderr
    assert len(train.directories()) == 2


def test_what_a_users_constructor_raises_is_one_line_that_names_its_place(train, tmp_path):
    (tmp_path / "own_parts.py").write_text("def broken():\n    raise ValueError('not today')\n")
    train.environment["PYTHONPATH"] = str(tmp_path)
    result = train("+tracker.mine={_target_:own_parts.broken}")
    assert result.returncode == 1
    refusal = refusal_of(result)
    assert "own_parts.broken" in refusal
    assert "not today" in refusal
    assert "Traceback" not in result.stderr


@slow
def test_with_trackers_a_killed_run_is_whole_in_each_of_them(train):
    assert train("tracker=all", patch=stop_at(50)).returncode == -signal.SIGKILL
    result = train("tracker=all")
    assert result.returncode == 0, result.stderr
    assert "wandb beta leet" in result.stderr
    assert "wandb sync" in result.stderr
    (directory,) = train.directories()
    assert len(list((directory / "wandb").glob("offline-run-*"))) == 1
    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/score")] == [20, 40, 60]
    assert [event.step for event in events.Scalars("train/value_loss")] == list(range(5, 61, 5))


@slow
def test_without_a_way_to_wandb_training_goes_on_and_the_record_is_complete(train, undisturbed):
    unreachable = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_RUN_ID": "stray"}
    train.environment.update(unreachable)
    train.environment.pop("WANDB_MODE")
    result = train("seed=[0,1]", "tracker=wandb", "tracker.wandb.init_timeout=2")
    assert result.returncode == 0, result.stderr
    assert [numbers_of(directory) for directory in train.directories()] == undisturbed
    assert not list(train.runs.rglob("*stray*"))


@slow
def test_a_run_goes_on_on_the_code_path_that_it_began_on(train):
    assert train("code_path=plain", patch=stop_at(50, "eager.Eager")).returncode == -signal.SIGKILL
    refused = train("code_path=fused")
    assert refused.returncode == 1
    assert "code_path=fused: the run began as plain, and a run never changes its path" in refused.stderr
    assert train().returncode == 0
    (directory,) = train.directories()
    lives = json.loads((directory / "manifest.json").read_text())["lives"]
    assert [life["code_path"] for life in lives] == ["plain", "plain"]


@slow
def test_a_run_has_the_same_bits_alone_and_in_a_pack_with_one_thread_a_member(train, trainer_in, tmp_path):
    assert train("seed=[0,1,2]", "threads=2", "updates=20").returncode == 0
    alone = trainer_in(tmp_path / "alone")
    assert alone("seed=1", "threads=1", "updates=20").returncode == 0
    (directory,) = alone.directories()
    own, packed = numbers_of(directory), numbers_of(train.directories()[1])
    assert own["networks"] == packed["networks"]
    assert own["metrics"] == packed["metrics"]
