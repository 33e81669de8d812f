"""What several tests need: small trainings by the real command line."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest

from iql.data.transitions import Transitions

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

# Tests see the same machine everywhere: one thread unless they ask for more, no GPU unless IQL_TEST_CUDA is set, and
# nothing of the job, the accounts and the caches of whoever started them.
FOREIGN = ("WANDB_", "SLURM_", "SBATCH_", "D4RL_", "IQL_", "HYDRA_", "MINARI_", "MUJOCO_")
for name in [name for name in os.environ if name.startswith(FOREIGN) and not name.startswith("IQL_TEST_")]:
    del os.environ[name]
os.environ["OMP_NUM_THREADS"] = "1"
if not os.environ.get("IQL_TEST_CUDA"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
if os.path.expanduser("~") == "~":  # an account without a home directory, which W&B's own commands need
    os.environ["HOME"] = tempfile.mkdtemp()
signal.signal(signal.SIGINT, signal.default_int_handler)  # `nohup pytest &` leaves it ignored, for children too

# A training of seconds that passes every station: several checkpoints and evaluations, the maze's map.
SMALL = (
    "env=maze2d-umaze-made",
    "env.made_rows=2000",
    "updates=60",
    "log_every=5",
    "checkpoint.every=20",
    "evaluation.every=20",
    "evaluation.episodes=2",
    "evaluation.workers=1",  # starting one takes most of what its episodes take
    "network.hidden_dims=[16,16]",
    "batch_size=32",
    "threads=1",
    "tracker=none",
)

# Fields that hold times and places; everything else of two equal runs is equal.
TIMES = {"seconds", "updates_per_second", "wall_seconds", "train_seconds"}


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Takes back what libraries add to the environment, with which commands of later tests would start cold."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def environment(data_dir: Path) -> dict[str, str]:
    """The environment of a user with an empty cache, without a key and without a network."""
    return {**os.environ, "IQL_DATA_DIR": str(data_dir), "WANDB_MODE": "offline"}


class Trainer:
    """Runs train.py with small settings in a folder of its own."""

    def __init__(self, runs: Path, environment: dict[str, str]):
        self.runs = runs
        self.environment = environment

    def command(self, *overrides: str, patch: str = "") -> list[str]:
        """The command line; `patch` is Python that runs before train.py."""
        own_env = any(override.startswith("env=") for override in overrides)  # then there is no data to be made
        small = [override for override in SMALL if not (own_env and override.startswith("env"))]
        arguments = [*small, f"runs={self.runs}", *overrides]
        if not patch:
            return [sys.executable, str(ROOT / "train.py"), *arguments]
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = {str(ROOT / 'train.py')!r}\n{patch}\n"
        code += f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
        return [sys.executable, "-c", code, *arguments]

    def __call__(self, *overrides: str, patch: str = "") -> commands.CompletedProcess[str]:
        command = self.command(*overrides, patch=patch)
        return commands.run(command, env=self.environment, capture_output=True, text=True, timeout=300)

    def start(self, *overrides: str, patch: str = "") -> commands.Process:
        command = self.command(*overrides, patch=patch)
        return commands.start(command, env=self.environment, stdout=commands.PIPE, stderr=commands.PIPE, text=True)

    def directories(self) -> list[Path]:
        return sorted(path.parent for path in self.runs.rglob("manifest.json"))


@pytest.fixture
def train(tmp_path: Path, environment: dict[str, str]) -> Iterator[Trainer]:
    yield Trainer(tmp_path / "runs", environment)


@pytest.fixture
def trainer_in(environment: dict[str, str]) -> Callable[[Path], Trainer]:
    return lambda runs: Trainer(runs, environment)


@functools.cache
def _can_mount() -> bool:
    """Whether this account may mount file systems that only its own processes see."""
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=20).returncode == 0
    except OSError:  # not Linux, or no util-linux
        return False


def mounts(test: Callable) -> Callable:
    """Marks a test that mounts a full or read-only disk."""
    return pytest.mark.root(pytest.mark.skipif(not _can_mount(), reason="needs root on Linux, to mount disks")(test))


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that has no home directory, as some containers run with; no environment variable names one."""
    for name in ("HOME", "XDG_CACHE_HOME", "IQL_DATA_DIR", "D4RL_DATASET_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2_000_000_000)


def native_library() -> Any:
    """The update in C; without a C compiler the test that asks is skipped."""
    from iql.execution.native_library import Unavailable, load  # here: tests of data run where there is no torch

    try:
        return load()
    except Unavailable as error:
        pytest.skip(str(error))


def refusal_of(result: commands.CompletedProcess[str]) -> str:
    """The one line in which train.py refuses; what it said before may be there too."""
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("train.py: "))
    return line


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record or summary without its times."""
    return {key: value for key, value in record.items() if key not in TIMES}


def numbers_of(directory: Path) -> dict[str, Any]:
    """All that must be equal between a disturbed and an undisturbed run: weights bit for bit, records, summary."""
    return {
        "networks": (directory / "networks.ckpt").read_bytes(),
        "metrics": [timeless(json.loads(line)) for line in (directory / "metrics.jsonl").read_text().splitlines()],
        "summary": timeless(json.loads((directory / "summary.json").read_text())),
        "map": (directory / "map.npz").read_bytes(),
    }


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where IQL_TEST_NO_SKIPS is set, a skipped test fails the run: everything should run there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("IQL_TEST_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def random_transitions(observation_dim: int, action_dim: int) -> Transitions:
    """500 rows of noise in which a tenth are terminal: enough to train on, and nothing to learn."""
    random, rows = np.random.default_rng(0), 500
    return Transitions(
        observations=random.normal(size=(rows, observation_dim)).astype(np.float32),
        actions=random.uniform(-1, 1, (rows, action_dim)).astype(np.float32),
        rewards=random.normal(size=rows).astype(np.float32),
        masks=(random.random(rows) > 0.1).astype(np.float32),
        rows=np.arange(rows - 1),
        observation_mean=np.zeros(observation_dim, np.float32),
        observation_std=np.ones(observation_dim, np.float32),
    )
