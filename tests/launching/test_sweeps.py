"""Sweeps on this machine: the plan, packs, one submitter at a time, the local launcher, invalid overrides."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import psutil
import pytest
from conftest import ROOT, SMALL, numbers_of
from filelock import FileLock

from iql.config.task_configs import CONF
from iql.errors import UserError
from iql.launching import local_server, plan
from iql.launching.grids import command, grid
from iql.launching.ledger import Ledger
from iql.launching.status import CANCELLED, DONE, FAILED, LOST, NEW, RUNNING, WAITING, RunStatus, StatusReader
from iql.runs import checkpoints
from iql.runs.leases import STALE_SECONDS
from iql.system.atomic_files import write_json

# Long enough to be disturbed while it runs.
LONG = (*SMALL, "updates=25000", "log_every=500", "checkpoint.every=1000", "evaluation.every=12500")


class Sweep:
    """The sweep `it` in a folder of its own."""

    def __init__(self, runs: Path, environment: dict[str, str]):
        self.runs, self.environment = runs, environment
        self.folder = runs / "it"
        self.ledger = Ledger(self.folder)

    def start(self, *overrides: str) -> commands.Process:
        own = [f"runs={self.runs}", "sweep.name=it"]
        arguments = [sys.executable, str(ROOT / "sweep.py"), *own, *overrides]
        pipe = commands.PIPE
        return commands.start(arguments, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *overrides: str) -> commands.CompletedProcess[str]:
        process = self.start(*overrides)
        out, err = process.communicate(timeout=200)
        return commands.CompletedProcess(process.args, process.returncode, out, err)

    def status(self, *options: str) -> commands.CompletedProcess[str]:
        arguments = [sys.executable, str(ROOT / "scripts" / "status.py"), str(self.folder), *options]
        return commands.run(arguments, env=self.environment, capture_output=True, text=True, timeout=200)

    def statuses(self) -> dict[str, RunStatus]:
        return StatusReader(self.ledger).statuses()

    def until(self, condition: Callable[[set[str]], object], seconds: float = 200) -> dict[str, RunStatus]:
        deadline = time.monotonic() + seconds
        while True:
            statuses = self.statuses()
            if condition({each.state for each in statuses.values()}):
                return statuses
            logs = [path.read_text()[-1000:] for path in self.folder.glob(".sweep/**/*.log")]
            assert time.monotonic() < deadline, f"{statuses}\n{logs}"
            time.sleep(0.2)

    def server(self) -> psutil.Process:
        """The process that starts this sweep's jobs."""
        return psutil.Process(json.loads((self.ledger.folder / "local.json").read_text())["pid"])


@pytest.fixture
def sweep(tmp_path: Path, environment: dict[str, str]) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path / "sweeps", environment)
    yield sweep
    if (sweep.ledger.folder / "local.json").exists():
        sweep.status("--cancel")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict:
    """The numbers of the long run, trained by train.py without interruption."""
    runs = tmp_path_factory.mktemp("undisturbed")
    arguments = [sys.executable, str(ROOT / "train.py"), *LONG, f"runs={runs}"]
    commands.run(arguments, env={**os.environ, "IQL_DATA_DIR": str(data_dir)}, check=True, capture_output=True)
    return numbers_of(next(runs.glob("*/*/*/seed=*")))


def directories(sweep: Sweep) -> list[Path]:
    return sorted(path.parent for path in sweep.folder.glob("*/*/*/manifest.json"))


def attempts(directory: Path) -> list[dict]:
    return json.loads((directory / "manifest.json").read_text())["lives"]


def test_a_sweep_on_this_machine(sweep, train):
    overrides = (*SMALL, "seed=0", "algorithm.tau=0.7,0.9")
    submitted = sweep(*overrides)
    assert submitted.returncode == 0, submitted.stderr
    assert "to train: 2 runs in 2 jobs of 1" in submitted.stdout
    assert "to train: 0 runs" in sweep(*overrides).stdout  # they wait or run
    watched = sweep.status("--watch", "--every", "1")
    assert "2 runs: 2 done" in watched.stdout.splitlines()[-1]
    assert train("seed=0").returncode == 0
    (alone,) = train.directories()
    (same,) = (path for path in directories(sweep) if path.parts[-2:] == alone.parts[-2:])
    assert numbers_of(same) == numbers_of(alone)
    (attempt,) = attempts(same)
    assert attempt["threads"] == 1
    assert json.loads((same / "manifest.json").read_text())["overrides"][-2:] == ["seed=0", "algorithm.tau=0.7"]
    sweep.until(lambda states: states == {DONE} and not (sweep.ledger.folder / "local.json").exists())
    more = sweep(*overrides[:-1], "algorithm.tau=0.7,0.8,0.9")
    assert "to train: 1 runs in 1 jobs" in more.stdout
    sweep.until(lambda states: states == {DONE})
    assert len(directories(sweep)) == 3
    assert not any("-" in each.code.name for each in sweep.ledger.submissions())  # jobs leave their code as it is


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_each_worker_has_its_own_cores(sweep):
    sweep(*LONG, "seed=0,1,2", "launcher.workers=2")
    sweep.until(lambda states: RUNNING in states and len(directories(sweep)) == 2)
    jobs = [each for each in sweep.server().children() if "iql.launching.job" in each.cmdline()]
    cores = [set(job.cpu_affinity()) for job in jobs]
    assert len(jobs) == 2 and cores[0] and cores[1] and not cores[0] & cores[1]
    assert os.getsid(sweep.server().pid) != os.getsid(0)  # it outlives the terminal
    statuses = sweep.statuses()
    assert sorted(each.state for each in statuses.values()) == [RUNNING, RUNNING, WAITING]
    assert "waiting 1 for: the jobs before it" in sweep.status().stdout


@pytest.mark.slow
def test_cancelled_runs_save_and_the_same_command_resumes_them(sweep, undisturbed):
    sweep(*LONG)
    sweep.until(lambda _: list(sweep.folder.glob("*/*/*/checkpoints/*.ckpt")))
    cancelled = sweep.status("--cancel")
    assert cancelled.returncode == 0 and "1 cancelled" in cancelled.stdout, cancelled.stderr
    assert {each.state for each in sweep.statuses().values()} == {CANCELLED}
    assert "to train: 1 runs" in sweep(*LONG).stdout
    sweep.until(lambda states: states == {DONE})
    (directory,) = directories(sweep)
    assert len(attempts(directory)) == 2
    assert numbers_of(directory) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["job", "server"])
def test_kill_9_and_retry(sweep, undisturbed, victim):
    sweep(*LONG)
    sweep.until(lambda _: list(sweep.folder.glob("*/*/*/checkpoints/*.ckpt")))
    (directory,) = directories(sweep)
    job = psutil.Process(attempts(directory)[0]["pid"])
    (job if victim == "job" else sweep.server()).kill()
    job.wait(60)  # no job outlives the server
    sweep.until(lambda states: states == {LOST}, STALE_SECONDS)
    assert "--retry" in sweep.status().stdout
    retried = sweep.status("--retry")
    assert "submitted again: 1 jobs" in retried.stdout, retried.stderr
    sweep.until(lambda states: states == {DONE})
    assert numbers_of(directory) == undisturbed


@pytest.mark.slow
def test_two_submitters_of_one_sweep(sweep):
    both = [sweep.start(*SMALL, "seed=0,1") for _ in range(2)]
    shown = [process.communicate(timeout=200)[0] for process in both]
    assert sorted("to train: 0 runs" in text for text in shown) == [False, True]
    assert len(sweep.ledger.submissions()) == 1
    sweep.until(lambda states: states == {DONE})


@pytest.mark.slow
def test_a_member_that_fails_does_not_disturb_the_others(sweep):
    overrides = (*SMALL, "algorithm.advantage_cap=100.0,1e38", "algorithm.beta=1e6", "launcher.pack=2")
    assert "in 1 jobs of 2" in sweep(*overrides).stdout
    statuses = sweep.until(lambda states: not states & {NEW, WAITING, RUNNING, LOST})
    assert sorted(each.state for each in statuses.values()) == [DONE, FAILED], statuses
    (failed,) = (each for each in statuses.values() if each.state == FAILED)
    assert "not finite" in failed.detail and "not finite" in sweep.status().stdout


@pytest.mark.slow
def test_runs_that_began_as_a_pack_resume_as_one(sweep):
    overrides = (*LONG, "seed=0,1", "launcher.pack=2")
    sweep(*overrides)
    sweep.until(lambda _: len(list(sweep.folder.glob("*/*/*/checkpoints/*.ckpt"))) > 2)
    sweep.status("--cancel")
    again = sweep(*LONG, "seed=0,1", "launcher.pack=1")
    assert "to train: 2 runs in 1 jobs of 2" in again.stdout


def test_the_status_of_a_folder_that_train_py_wrote(sweep, train):
    train("sweep.name=it")
    shown = Sweep(train.runs, sweep.environment).status()
    assert "1 runs: 1 done" in shown.stdout
    assert "to train: 1 runs" in Sweep(train.runs, sweep.environment)(*SMALL, "seed=0,1", "--dry-run").stdout


@pytest.mark.slow
def test_a_stopped_server_lets_its_jobs_save(sweep):
    sweep(*LONG)
    sweep.until(lambda _: list(sweep.folder.glob("*/*/*/checkpoints/*.ckpt")))
    (directory,) = directories(sweep)
    server, job = sweep.server(), attempts(directory)[0]["pid"]
    server.send_signal(signal.SIGTERM)
    server.wait(60)
    assert not psutil.pid_exists(job)
    assert {each.state for each in sweep.statuses().values()} == {LOST}
    records = (directory / "metrics.jsonl").read_text().splitlines()
    assert json.loads(records[-1])["update"] % 1000 or len(records) > 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["launcher.partition=x"], "launcher.partition: LocalLauncher has no such key; it has workers, pack"),
        (["launcher.wokers=2"], "did you mean launcher.workers? (launcher=local takes launcher.workers, launcher.pack"),
        (["launcher.workers=two"], "launcher.workers='two': must be a whole number >= 1 or null"),
        (["launcher.workers=1,2"], "launcher.workers=1,2: a launcher's setting has one value"),
        (["launcher=slrm"], "launcher=slrm: no such option; did you mean launcher=slurm?"),
        (["sweep=locomotoin"], "sweep=locomotoin: no such option; did you mean sweep=locomotion?"),
        (["algorithm.tua=1"], "algorithm.tua: no such key; did you mean algorithm.tau or"),
        (["seed=0,1", "algorithm.tau=0.7,1.7"], "algorithm.tau=1.7: must be a number >= 0.5 and < 1"),
        (["sweep.name=a,b"], "one value for the whole sweep"),
        (["device=cpu,auto"], "two of the runs train the same numbers"),
        (["env=hopper-medium-v2,walker2d-random-v2"], "python scripts/fetch.py hopper-medium-v2 walker2d-random-v2"),
        (["env=hdf5", "env.path=/none.hdf5"], "env.path=/none.hdf5 does not exist"),
        (["seed=(0"], "not in Hydra's grammar"),
        (["runs=/proc/nothing"], "choose another folder"),
        (["launcher=slurm"], "there is no sbatch on this machine"),
    ],
)
def test_invalid_overrides_are_reported_in_one_line(sweep, overrides, message, tmp_path):
    sweep.environment["PATH"] = str(tmp_path)  # no sbatch
    refused = sweep(*overrides)
    assert refused.returncode == 1
    (line,) = (line for line in refused.stderr.splitlines() if not line.startswith("ma"))  # "making" data
    assert line.startswith("sweep.py: ") and message in line, line
    assert not sweep.ledger.submissions()


@pytest.mark.parametrize(("arguments", "message"), [(["nowhere"], "no such folder"), (["."], "there are no runs")])
def test_the_status_of_a_folder_without_runs_is_refused(arguments, message, tmp_path):
    shown = commands.run(
        [sys.executable, str(ROOT / "scripts" / "status.py"), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert line.startswith("status.py: ") and message in line


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("locomotion", 90),
        ("antmaze", 60),
        ("kitchen", 30),
        ("adroit", 80),
        ("maze2d", 30),
        ("tau_beta", 120),
        ("smoke", 8),
        ("baselines", 405),
        ("ogbench", 400),
        ("ogbench_default", 80),
    ],
)
def test_named_sweeps(name, runs):
    asked = command.read([f"sweep={name}", "launcher=slurm", "launcher.partition=gpu"])
    cells = grid.expand(asked.overrides, CONF)
    assert len(cells) == runs
    assert {cell.members[0]["sweep"]["name"] for cell in cells} == {name}
    assert len({cell.members[0]["seed"] for cell in cells}) == {
        "smoke": 2,
        "baselines": 5,
        "ogbench": 8,
        "ogbench_default": 8,
    }.get(name, 10)
    assert asked.launcher["partition"] == "gpu"


def test_explicit_overrides_replace_those_of_a_named_sweep():
    asked = command.read(["sweep=tau_beta", "seed=0,1", "env=maze2d-umaze-made", "sweep.name=mine", "updates=100"])
    cells = grid.expand(asked.overrides, CONF)
    assert len(cells) == 4 * 3 * 2
    members = [cell.members[0] for cell in cells]
    assert {each["env"]["name"] for each in members} == {"maze2d-umaze-made"}
    assert {each["sweep"]["name"] for each in members} == {"mine"}
    assert {each["updates"] for each in members} == {100}


def test_train_py_refuses_a_grid():
    command_line = [sys.executable, str(ROOT / "train.py"), "sweep=locomotion"]
    refused = commands.run(command_line, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "python sweep.py sweep=locomotion" in refused.stderr


class FixedPackSize:
    """As much of a launcher as a plan uses."""

    def __init__(self, size: int):
        self.size = size

    def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
        assert 0 < member_bytes < 2**30 and 0 < data_bytes < 2**34
        return self.size


@pytest.fixture
def thirty(tmp_path, data_dir, monkeypatch) -> list[plan.PlannedRun]:
    """Two batch sizes, three taus, five seeds."""
    monkeypatch.setenv("IQL_DATA_DIR", str(data_dir))
    overrides = [*SMALL[:-1], f"runs={tmp_path}", "sweep.name=it", "batch_size=32,64"]
    overrides = [override for override in overrides if override != "batch_size=32"]
    cells = grid.expand([*overrides, "algorithm.tau=0.5,0.7,0.9", "seed=range(0,5)"], CONF)
    return plan.planned(cells, plan.Datasets())


def test_packs_share_the_required_settings_and_have_equal_sizes(thirty):
    statuses = {each.run.id: RunStatus(NEW) for each in thirty}
    packs = plan.packs(thirty, thirty, statuses, FixedPackSize(8))
    assert [len(pack) for pack in packs] == [8, 7, 8, 7]
    for pack in packs:
        assert len({each.run.settings["batch_size"] for each in pack}) == 1
    assert sorted(each.run.id for pack in packs for each in pack) == sorted(statuses)


def test_algorithms_are_never_in_one_pack(tmp_path, data_dir, monkeypatch):
    """Not even with the same settings of everything else; and each pack has the size of its own networks."""
    monkeypatch.setenv("IQL_DATA_DIR", str(data_dir))
    overrides = [*SMALL, f"runs={tmp_path}", "algorithm=iql,bc,bc_10", "optimizer.lr=1e-4,3e-4", "seed=range(0,3)"]
    runs = plan.planned(grid.expand(overrides, CONF), plan.Datasets())
    sizes = []

    class Recorder(FixedPackSize):
        def pack_size(self, member_bytes: int, data_bytes: int, device: str) -> int:
            sizes.append(member_bytes)
            return super().pack_size(member_bytes, data_bytes, device)

    packs = plan.packs(runs, runs, {each.run.id: RunStatus(NEW) for each in runs}, Recorder(64))
    algorithms = [
        {
            (each.run.settings["algorithm"]["_target_"], each.run.settings["algorithm"].get("top_fraction"))
            for each in pack
        }
        for pack in packs
    ]
    assert algorithms == [
        {("iql.algorithms.iql.IQL", None)},
        {("iql.algorithms.bc.BC", None)},
        {("iql.algorithms.bc.BC", 0.1)},
    ]
    assert [len(pack) for pack in packs] == [6, 6, 6]  # three seeds of two learning rates
    assert sizes[1] == sizes[2] < sizes[0] / 3  # the policy alone


@pytest.fixture
def lost_pack(thirty):
    """Four runs that began as one pack and were lost, with their statuses."""
    four = thirty[:4]
    for each in four:
        each.run.directory.mkdir(parents=True)
        begin(each, four)
        checkpoints.write(checkpoints.path_of(each.run.checkpoints, 5), {})
    return four, {each.run.id: RunStatus(LOST) for each in four}


def begin(each: plan.PlannedRun, pack: list[plan.PlannedRun]) -> None:
    manifest = {"run": each.run.id, "settings": each.run.settings, "facts": {}}
    write_json(each.run.directory / "manifest.json", manifest | {"lives": [{"pack": [one.run.id for one in pack]}]})


def test_the_chosen_runs_of_a_lost_pack_are_submitted_together(lost_pack):
    four, statuses = lost_pack
    assert plan.packs(four, four, statuses, FixedPackSize(1)) == [four]
    assert plan.packs(four[:2], four[:2], statuses, FixedPackSize(1)) == [four[:2]]
    statuses[four[0].run.id] = RunStatus(DONE)
    assert plan.packs(four, four[1:], statuses, FixedPackSize(1)) == [four]  # the done one keeps its place
    assert plan.packs(four[1:3], four[1:3], statuses, FixedPackSize(1)) == [four[1:3]]


@pytest.mark.parametrize("began", ["as one", "as two"])
def test_a_running_pack_is_not_submitted_again_but_one_that_split_up_is(lost_pack, began):
    four, statuses = lost_pack
    statuses[four[3].run.id] = RunStatus(RUNNING)
    if began == "as two":
        begin(four[3], four[3:])
    packs = plan.packs(four, four[:3], statuses, FixedPackSize(1))
    assert packs == ([] if began == "as one" else [four[:3]])


def test_which_states_are_trained_again(thirty):
    states = [DONE, FAILED, LOST, RUNNING, WAITING, CANCELLED, NEW]
    statuses = {each.run.id: RunStatus(state) for each, state in zip(thirty, states * 5, strict=False)}
    chosen = plan.to_train(statuses, thirty, retry=False)
    assert {statuses[each.run.id].state for each in chosen} == {LOST, CANCELLED, NEW}
    with_failed = plan.to_train(statuses, thirty, retry=True)
    assert {statuses[each.run.id].state for each in with_failed} == {LOST, CANCELLED, NEW, FAILED}


@pytest.mark.parametrize("algorithm", ["iql", "bc"])
def test_the_planned_disk_use_is_about_that_of_the_runs(algorithm, tmp_path, train, data_dir, monkeypatch):
    monkeypatch.setenv("IQL_DATA_DIR", str(data_dir))
    assert train(f"algorithm={algorithm}").returncode == 0
    (directory,) = train.directories()
    own = plan.planned(grid.expand([*SMALL, f"runs={tmp_path}", f"algorithm={algorithm}"], CONF), plan.Datasets())
    assert [each.run.configuration for each in own] == [directory.parent.name]
    kept, _ = plan.disk(own)
    files = ("metrics.jsonl", "networks.ckpt")
    assert kept == pytest.approx(sum((directory / name).stat().st_size for name in files), rel=0.5)


def test_a_pack_has_as_many_runs_as_the_gpu_has_memory_for():
    from iql.launching.launcher import MAX_PACK_SIZE, pack_size_for

    assert pack_size_for(10**9, 10**9, 16.0) == 13  # 0.9 · 16 − 1
    assert pack_size_for(10**6, 10**9, 16.0) == MAX_PACK_SIZE
    assert pack_size_for(10**11, 10**9, 16.0) == 1


def test_status_reads_a_finished_run_once(sweep, monkeypatch):
    folder = sweep.folder
    for seed in range(20):
        directory = folder / "task" / "default-0" / f"seed={seed}"
        directory.mkdir(parents=True)
        summary = {"updates": 10, "updates_per_second": 5.0, "score": float(seed)}
        (directory / "manifest.json").write_text(json.dumps({"settings": {"updates": 10}}))
        (directory / "summary.json").write_text(json.dumps(summary))
    sweep.ledger.folder.mkdir()
    first = sweep.statuses()
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
    opened.clear()
    assert sweep.statuses() == first
    assert not [path for path in opened if str(path).startswith(str(folder / "task"))]
    assert {each.score for each in first.values()} == set(map(float, range(20)))
    (folder / "task" / "default-0" / "seed=3" / "summary.json").unlink()
    looked = StatusReader(sweep.ledger).statuses(use_cache=False)  # a submitter does not use the cache
    assert looked["task/default-0/seed=3"].state == LOST


def test_a_submitter_never_relies_on_a_server_that_is_about_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    serving = FileLock(tmp_path / "serving")
    seen = []

    class Watched(Ledger):
        @contextlib.contextmanager
        def lock(self):
            with super().lock():
                yield
                seen.append(serving.is_locked)  # the last moment at which no submitter adds to the ledger

    ledger = Watched(tmp_path / "it")
    ledger.folder.mkdir(parents=True)
    with serving.acquire():
        local_server.Server(ledger, 0, serving).serve()
    assert seen == [False]


@pytest.mark.parametrize("content", ["{}", "[]", "3"])
def test_a_damaged_local_json_is_reported_with_its_path(sweep, content):
    (sweep.ledger.folder / "1").mkdir(parents=True)
    path = sweep.ledger.folder / "local.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{path}: not what a process that starts jobs writes; delete it"):
        local_server.read_state(sweep.folder)
    path.unlink()


def test_the_ledger_refuses_another_versions_index(tmp_path):
    ledger = Ledger(tmp_path / "it")
    (ledger.folder / "1").mkdir(parents=True)
    assert ledger.submissions() == []  # interrupted before its index was written
    (ledger.folder / "1" / "index.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="another version"):
        ledger.submissions()


@pytest.mark.slow
def test_file_operations_are_few_enough_for_a_network_file_system(train):
    """Per 1,000 updates at the default cadence."""
    count = """
import atexit, json, os, sys
counts = dict.fromkeys(('open', 'os.rename', 'fsync'), 0)
def hook(event, arguments):
    if event in counts and (event != 'open' or 'seed=' in str(arguments[0])):
        counts[event] += 1
sys.addaudithook(hook)
real = os.fsync
def fsync(descriptor):
    counts['fsync'] += 1
    real(descriptor)
os.fsync = fsync
atexit.register(lambda: print('COUNTS', json.dumps(counts)))
"""
    cadence = ("log_every=100", "checkpoint.every=5000", "evaluation.every=5000")

    def operations(updates: int) -> dict[str, int]:
        done = train(*cadence, f"updates={updates}", f"sweep.name=of{updates}", patch=count)
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("COUNTS"))
        return json.loads(line.removeprefix("COUNTS "))

    short, long = operations(5_000), operations(25_000)
    more = {name: (long[name] - short[name]) / 20 for name in short}
    assert more["fsync"] <= 1.0 and more["os.rename"] <= 0.5 and more["open"] <= 4.0, more


def test_the_status_of_a_damaged_directory(sweep):
    directory = sweep.folder / "task" / "default-0" / "seed=0"
    directory.mkdir(parents=True)
    (directory / "summary.json").write_text("{")
    (status,) = sweep.statuses().values()
    assert status.state == FAILED and "not JSON" in status.detail
