"""Sweeps on a real SLURM cluster: finished, interrupted in every way that a cluster can, cancelled, refused."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import h5py
import pytest
from conftest import ROOT, SMALL, numbers_of
from slurm_cluster import Cluster, missing

from iql.launching.ledger import Ledger
from iql.launching.status import CANCELLED, DONE, FAILED, LOST, NEW, RUNNING, UNKNOWN, WAITING, RunStatus, StatusReader
from iql.launching.submission import submit

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or bool(missing()), reason="needs root and Debian's SLURM packages"),
]

SLURM = ("launcher=slurm", "launcher.gpus=0", "launcher.cpus=1", "launcher.memory_gb=1")

EVERY = 2_000
# Half a minute of updates: long enough to be interrupted.
LONG = (*SMALL, "updates=100000", "log_every=500", f"checkpoint.every={EVERY}", "evaluation.every=50000")


class Sweep:
    """One sweep of a test, with what submits it, reads its status and waits for it."""

    def __init__(self, folder: Path, name: str, environment: dict[str, str]):
        self.runs, self.name, self.environment = folder, name, environment
        self.folder = folder / name
        self.ledger = Ledger(self.folder)

    def __call__(self, *overrides: str, folder: Path = ROOT) -> commands.CompletedProcess[str]:
        command = [sys.executable, str(folder / "sweep.py"), f"runs={self.runs}", f"sweep.name={self.name}", *overrides]
        return commands.run(command, env=self.environment, capture_output=True, text=True, timeout=300)

    def status(self, *options: str) -> commands.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "status.py"), str(self.folder), *options]
        return commands.run(command, env=self.environment, capture_output=True, text=True, timeout=300)

    def statuses(self) -> dict[str, RunStatus]:
        return StatusReader(self.ledger).statuses()

    def states(self) -> list[str]:
        return sorted(each.state for each in self.statuses().values())

    def until(self, condition: Callable[[dict[str, RunStatus]], object], seconds: float = 400) -> dict[str, RunStatus]:
        deadline = time.monotonic() + seconds
        while True:
            statuses = self.statuses()
            if condition(statuses):
                return statuses
            assert time.monotonic() < deadline, f"{statuses}\n{self.logs()}"
            time.sleep(0.3)

    def until_done(self, seconds: float = 400) -> list[Path]:
        """The runs' directories, once all are done."""
        ended = self.until(lambda statuses: {each.state for each in statuses.values()} <= {DONE, FAILED}, seconds)
        assert {each.state for each in ended.values()} == {DONE}, f"{ended}\n{self.logs()}"
        return [self.folder / run for run in ended]

    def directory(self) -> Path:
        """The directory of the only run, once it has a checkpoint."""
        self.until(lambda _: list(self.folder.glob("*/*/*/checkpoints/*.ckpt")))
        return next(self.folder.glob("*/*/seed=*"))

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob(".sweep/*/*/*.out"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def sweep(cluster: Cluster, environment: dict[str, str], tmp_path: Path) -> Iterator[Sweep]:
    yield Sweep(tmp_path / "runs", "it", {**environment, "SLURM_CONF": str(cluster.conf)})
    cluster.ask("scancel", "--user=root")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict:
    """The numbers of the long run, trained by train.py without interruption."""
    runs = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, str(ROOT / "train.py"), *LONG, f"runs={runs}"]
    environment = {**os.environ, "IQL_DATA_DIR": str(data_dir)}
    commands.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return numbers_of(next(runs.glob("*/*/*/seed=*")))


def attempts(directory: Path) -> list[dict]:
    return json.loads((directory / "manifest.json").read_text())["lives"]


def test_a_sweep_finishes_and_its_table_is_right(sweep):
    overrides = (*SMALL, *SLURM, "algorithm.tau=0.7,0.9", "algorithm.beta=3.0,10.0", "seed=0,1")
    planned = sweep(*overrides, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "8 new" in planned.stdout and "to train: 8 runs in 8 jobs of 1" in planned.stdout
    assert not sweep.folder.exists()
    submitted = sweep(*overrides)
    assert submitted.returncode == 0, submitted.stderr
    assert "scripts/status.py" in submitted.stdout
    again = sweep(*overrides)  # while they wait and run: nothing is submitted twice
    assert "to train: 0 runs" in again.stdout
    directories = sweep.until_done()
    assert len(directories) == 8
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in directories]
    settings = [json.loads((directory / "manifest.json").read_text())["settings"] for directory in directories]
    combinations = {(each["algorithm"]["tau"], each["algorithm"]["beta"], each["seed"]) for each in settings}
    assert combinations == set(itertools.product((0.7, 0.9), (3.0, 10.0), (0, 1)))
    table = sweep.status()
    lines = [line for line in table.stdout.splitlines() if line.startswith("maze2d-umaze-made")]
    assert len(lines) == 4 and "8 runs: 8 done" in table.stdout
    for line in lines:
        configuration, score = line.split()[1], float(line.split()[-1])
        scores = [
            each["score"] for each, path in zip(summaries, directories, strict=True) if configuration in str(path)
        ]
        assert len(scores) == 2
        assert score == pytest.approx(sum(scores) / 2, abs=0.051)
    more = sweep(*overrides[:-1], "seed=0,1,2")
    assert "to train: 4 runs in 4 jobs" in more.stdout  # the new seed alone
    assert len(sweep.until_done()) == 12
    attempt = attempts(directories[0])[0]
    assert attempt["slurm"]["SLURM_ARRAY_TASK_ID"] is not None


def test_runs_share_a_job(sweep):
    submitted = sweep(*SMALL, *SLURM, "algorithm.tau=0.7,0.9", "seed=0,1,2", "launcher.pack=4")
    assert "to train: 6 runs in 2 jobs of 3" in submitted.stdout, submitted.stderr
    for directory in sweep.until_done():
        assert len(attempts(directory)[0]["pack"]) == 3


def test_edits_after_submission_do_not_affect_its_jobs(sweep, cluster, tmp_path):
    copy = tmp_path / "project"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("iql/**/*.py"), *ROOT.glob("conf/**/*.yaml")):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    blocker = _occupy(cluster)
    assert sweep(*SMALL, *SLURM, folder=copy).returncode == 0
    sweep.until(lambda statuses: all(each.state == WAITING for each in statuses.values()))
    for path in ("iql/algorithms/losses.py", "iql/training/loop.py", "train.py"):
        (copy / path).write_text("raise RuntimeError('edited')\n")
    cluster.ask("scancel", blocker)
    (directory,) = sweep.until_done()
    assert json.loads((directory / "manifest.json").read_text())["git"]["commit"]


def test_preemption(sweep, cluster, undisturbed):
    sweep(*LONG, *SLURM, "launcher.partition=low")
    directory = sweep.directory()
    _occupy(cluster, seconds=4)
    sweep.until(lambda statuses: all(each.state == WAITING for each in statuses.values()), 60)
    sweep.until_done()
    assert numbers_of(directory) == undisturbed
    assert len(attempts(directory)) == 2


def test_requeue_by_a_signal_keeps_every_update_and_one_wandb_run(sweep, cluster, undisturbed):
    sweep(*LONG, *SLURM, "tracker=wandb")
    directory = sweep.directory()
    (status,) = sweep.until(lambda statuses: all(each.job for each in statuses.values())).values()
    cluster.ask("scancel", "--signal=USR2", status.job)
    sweep.until_done()
    assert numbers_of(directory) == undisturbed
    assert attempts(directory)[1]["from_update"] % EVERY  # it was saved when the signal came, between two checkpoints
    tracked = [path.name.rpartition("-")[2] for path in directory.glob("wandb/**/offline-run-*") if path.is_dir()]
    assert len(set(tracked)) == 1, tracked


def test_a_time_limit_that_is_reached_twice(sweep):
    # More updates than any machine does in this time: how often the limit is reached does not depend on its speed.
    longer = ("updates=100000000", "evaluation.every=50000000", f"log_every={EVERY}")
    sweep(*LONG, *longer, *SLURM, "launcher.time_minutes=1", "launcher.warning_seconds=5")
    directory = sweep.directory()

    def updates() -> list[int]:
        lines = (directory / "metrics.jsonl").read_text().splitlines()[:-1]  # the last may be half written
        return [record["update"] for record in map(json.loads, lines) if record["kind"] == "train"]

    def third_goes_on(_: object) -> bool:
        starts = [attempt["from_update"] for attempt in attempts(directory)]
        return len(starts) == 3 and updates()[-1] > starts[-1] + EVERY

    sweep.until(third_goes_on, 560)
    starts = [attempt["from_update"] for attempt in attempts(directory)]
    assert starts == sorted(set(starts))
    logged = updates()
    assert logged == list(range(EVERY, logged[-1] + 1, EVERY))


def test_power_loss_of_a_node(sweep, cluster, undisturbed):
    sweep(*LONG, *SLURM)
    directory = sweep.directory()
    before = max(int(path.stem.partition("=")[2]) for path in directory.glob("checkpoints/*.ckpt"))
    (node,) = (node for node in cluster.nodes if cluster.jobs_of(node))
    cluster.kill_node(node)
    try:
        sweep.until(lambda _: len(attempts(directory)) == 2)
        assert attempts(directory)[1]["from_update"] >= before
        sweep.until_done()
    finally:
        cluster.start_node(node)
    assert numbers_of(directory) == undisturbed


def test_two_attempts_of_one_job_never_write_at_the_same_time(sweep, cluster, undisturbed):
    """If slurmd alone is killed, SLURM starts a second copy of the job while the first still runs."""
    sweep(*LONG, *SLURM, "checkpoint.every=20000")
    directory = sweep.directory()
    (node,) = (node for node in cluster.nodes if cluster.jobs_of(node))
    cluster.kill_node(node, jobs=False)
    try:
        sweep.until_done()
    finally:
        cluster.start_node(node)
    assert numbers_of(directory)["metrics"] == undisturbed["metrics"]
    assert numbers_of(directory)["networks"] == undisturbed["networks"]


def test_kill_9_and_the_same_command(sweep, cluster, undisturbed):
    sweep(*LONG, *SLURM)
    directory = sweep.directory()
    os.kill(attempts(directory)[0]["pid"], 9)
    sweep.until(lambda statuses: all(each.state == LOST for each in statuses.values()), 60)
    assert "lost" in sweep.status().stdout
    assert sweep(*LONG, *SLURM).returncode == 0
    sweep.until_done()
    assert numbers_of(directory) == undisturbed
    assert len(attempts(directory)) == 2


def test_a_job_whose_data_is_gone_fails_alone(sweep, cluster, tmp_path, data_dir):
    made = next(data_dir.glob("made/*rows2000*.hdf5"))
    kept, gone = tmp_path / "kept.hdf5", tmp_path / "gone.hdf5"
    for copy in (kept, gone):
        shutil.copy(made, copy)
    with h5py.File(gone, "a") as file:
        file.attrs["other"] = "data"
    blocker = _occupy(cluster)
    overrides = (*SMALL, *SLURM, f"env.path={kept},{gone}")
    submitted = sweep(*overrides)
    assert submitted.returncode == 0, submitted.stderr
    gone.unlink()
    cluster.ask("scancel", blocker)
    statuses = sweep.until(lambda statuses: {each.state for each in statuses.values()} <= {DONE, FAILED})
    assert sorted(each.state for each in statuses.values()) == [DONE, FAILED]
    (failed,) = (each for each in statuses.values() if each.state == FAILED)
    assert f"env.path={gone} does not exist" in failed.detail
    table = sweep.status().stdout
    assert failed.detail in table and "--retry" in table
    again = sweep(*overrides)
    assert again.returncode == 1 and "does not exist" in again.stderr  # reported before anything is submitted


def test_cancel_and_the_same_command_again(sweep):
    sweep(*LONG, *SLURM, "seed=0,1,2,3,4,5,6,7")
    sweep.until(lambda statuses: RUNNING in {each.state for each in statuses.values()})
    cancelled = sweep.status("--cancel")
    assert cancelled.returncode == 0, cancelled.stderr
    statuses = sweep.until(lambda statuses: not {RUNNING, WAITING} & {each.state for each in statuses.values()}, 60)
    assert {each.state for each in statuses.values()} == {CANCELLED}
    short = sweep(*LONG, *SLURM, "seed=0,1,2,3,4,5,6,7")
    assert "to train: 8 runs in 8 jobs" in short.stdout
    assert CANCELLED not in sweep.states()
    sweep.status("--cancel")


def test_failed_runs_are_retried_only_on_request(sweep):
    diverging = (*SMALL, *SLURM, "algorithm.q_loss_scale=1e38,1.0")
    assert sweep(*diverging).returncode == 0
    statuses = sweep.until(lambda statuses: {each.state for each in statuses.values()} == {DONE, FAILED})
    (failed,) = (each for each in statuses.values() if each.state == FAILED)
    assert "not finite" in failed.detail
    again = sweep(*diverging)
    assert "to train: 0 runs" in again.stdout and "1 runs failed and are not submitted" in again.stdout
    assert "to train: 1 runs in 1 jobs" in sweep(*diverging, "--dry-run", "--retry").stdout
    retried = sweep.status("--retry")
    assert "submitted again: 1 jobs" in retried.stdout, retried.stderr
    assert len(sweep.ledger.submissions()) == 2


def test_three_hundred_tiny_jobs(sweep, tmp_path):
    node = {"_target_": "iql.launching.slurm.SlurmLauncher", "partition": None, "account": None, "qos": None}
    node |= {"constraint": None, "time_minutes": 5, "cpus": 1, "memory_gb": 0.2, "gpus": 0, "gpu_memory_gb": 1.0}
    node |= {"pack": None, "parallel": 100, "warning_seconds": 30, "setup": [], "sbatch": {}}
    runs = [f"tiny/it/seed={number}" for number in range(300)]
    # The entry point is not the project's own, so that each job ends at once and writes the reason.
    line = {"entry": "os:mkdir", "folder": str(tmp_path), "arguments": {"path": "made"}}
    with sweep.ledger.lock():
        submission = submit(sweep.ledger, node, (([run], line) for run in runs))
    assert submission.chunk == 200 and len(submission.chunk_names) == 2  # arrays split at the cluster's MaxArraySize
    sweep.until(lambda _: len(list(submission.folder.glob("*/*.failed"))) == 300)
    assert not (tmp_path / "made").exists()
    assert max(len(list(folder.iterdir())) for folder in submission.folder.iterdir() if folder.is_dir()) <= 200 * 5


def test_hydras_own_launcher_with_optuna(sweep):
    overrides = ("hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=30")
    overrides += ("hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.direction=maximize")
    overrides += ("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "algorithm.tau=interval(0.5,0.9)")
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "--multirun",
        *SMALL,
        f"runs={sweep.runs}",
        "sweep.name=it",
        *overrides,
    ]
    done = subprocess.run(command, env=sweep.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [each.state for each in sweep.statuses().values()] == [DONE, DONE]
    best = max(json.loads(path.read_text())["last10_score"] for path in sweep.folder.glob("*/*/*/summary.json"))
    assert f"best_value: {best}" in (sweep.folder / "optimization_results.yaml").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("launcher.partition=nope", "Invalid partition name specified (launcher.partition=nope)"),
        ("launcher.account=nope", "Invalid account or account/partition combination specified (launcher.account=nope)"),
        ("launcher.time_minutes=10000", "Requested time limit is invalid"),
        ("launcher.memory_gb=999", "launcher.memory_gb=999"),
        ("launcher.cpus=99", "More processors requested than permitted (launcher.cpus=99)"),
        ("launcher.constraint=a100", "Invalid feature specification (launcher.constraint=a100)"),
        ("launcher.sbatch={nodelist: n99}", "nvalid node name specified"),
    ],
)
def test_a_refusal_of_the_cluster_is_one_line_and_leaves_no_submission(sweep, override, message):
    refused = sweep(*SMALL, *SLURM, override)
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if line.strip()]
    assert line.startswith("sweep.py: launcher=slurm: the cluster refused the jobs: ") and message in line
    assert sweep.ledger.submissions() == []
    assert set(sweep.states()) <= {NEW}


def test_a_cluster_that_does_not_answer(sweep, cluster, tmp_path):
    assert sweep(*SMALL, *SLURM).returncode == 0
    sweep.environment["SLURM_CONF"] = str(tmp_path / "none.conf")
    (tmp_path / "none.conf").write_text(cluster.conf.read_text().replace("SlurmctldPort=", "SlurmctldPort=1"))
    refused = sweep(*SMALL, *SLURM, "seed=5")
    assert refused.returncode == 1 and "nothing was submitted" in refused.stderr
    shown = sweep.status()
    assert shown.returncode == 0, shown.stderr
    assert UNKNOWN in shown.stdout or DONE in shown.stdout or RUNNING in shown.stdout
    sweep.environment["SLURM_CONF"] = str(cluster.conf)
    sweep.until_done()


def test_a_cluster_without_accounting(environment, tmp_path):
    with Cluster(nodes=1, accounting=False) as cluster:
        sweep = Sweep(tmp_path / "runs", "it", {**environment, "SLURM_CONF": str(cluster.conf)})
        assert sweep(*LONG, *SLURM).returncode == 0
        directory = sweep.directory()
        os.kill(attempts(directory)[0]["pid"], 9)
        sweep.until(lambda statuses: all(each.state == LOST for each in statuses.values()), 60)
        assert "no queue knows it" in sweep.status().stdout


def _occupy(cluster: Cluster, seconds: int = 300) -> str:
    """Start a job that occupies every core of the cluster; returns its id."""
    nodes = len(cluster.nodes)
    command = ["sbatch", "--parsable", "-p", "high", f"-N{nodes}", "--exclusive", "--output=/dev/null"]
    blocker = cluster.ask(*command, f"--wrap=sleep {seconds}")
    assert blocker
    deadline = time.monotonic() + 60
    while cluster.ask("squeue", "-h", "-j", blocker, "-o%T") != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return blocker
