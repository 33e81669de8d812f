"""Rollout workers: the same episodes in whichever process; no torch, no signals; they end with their parent."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import psutil
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from iql.config.schema import constructor_arguments
from iql.config.settings import read
from iql.envs import registry
from iql.envs.vector import Lockstep
from iql.errors import UserError
from iql.evaluation.numpy_policies import NumpyPerceptron, NumpyPolicy
from iql.evaluation.rollout import CHUNK, EpisodeError, Episodes, evaluate, joined
from iql.evaluation.workers import MAX_WORKERS, RolloutWorkers, step_seconds
from iql.system.worker_context import _Worker
from iql.tasks.d4rl import D4RLTask
from iql.tasks.file import FileTask

ROOT = Path(__file__).resolve().parents[2]


class Hopper:
    """The part of a task that workers need, as a user's own class."""

    def make_envs(self, num: int) -> Lockstep:
        return Lockstep([lambda: registry.make("hopper")] * num)


class Odd(gymnasium.Env):
    """One step; does what its seed says."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = seed
        return np.array([seed], np.float32), {}

    def step(self, action):
        if self.seed == 13:
            raise Unlucky(self.seed, "thirteen")
        if self.seed == 99:
            time.sleep(1000)
        return np.zeros(1, np.float32), float(self.seed), True, False, {}


class Unlucky(Exception):
    """Cannot be unpickled: its constructor wants more than its message."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(f"{number} is {name}")


def unlucky(number: int, observations: np.ndarray) -> np.ndarray:
    """A policy that fails."""
    raise Unlucky(number, "the policy")


class OddTask:
    def make_envs(self, num: int) -> Lockstep:
        return Lockstep([Odd] * num)


class Closed:
    """A task that holds what no other process can have."""

    def __init__(self) -> None:
        self.file = open(__file__)  # noqa: SIM115


def policy(observation_dim: int, action_dim: int, seed: int = 0) -> bytes:
    draws = np.random.default_rng(seed)
    widths = [observation_dim, 32, 32, action_dim]
    kernels = [draws.standard_normal(shape).astype(np.float32) for shape in zip(widths[:-1], widths[1:], strict=True)]
    biases = [np.zeros(width, np.float32) for width in widths[1:]]
    zeros, ones = np.zeros(observation_dim, np.float32), np.ones(observation_dim, np.float32)
    net = NumpyPerceptron(kernels, biases, "relu", None, 1e-6, [], [])
    return pickle.dumps(NumpyPolicy(net, True, zeros, ones))


@pytest.fixture
def workers_of(request):
    """The workers of a task, closed after the test."""

    def make(task, number: int | None = 1, members: int = 1, episodes: int = 10) -> RolloutWorkers:
        workers = RolloutWorkers(task, number, members, episodes)
        request.addfinalizer(workers.close)
        return workers

    return make


def played(workers: RolloutWorkers, act: bytes, seeds, keep_observations: bool = False) -> Episodes:
    return joined([workers.result(chunk) for chunk in workers.play(act, seeds, keep_observations)])


def test_workers_use_the_parents_glfw_and_start_no_process_to_ask_for_its_version(workers_of):
    import glfw.library

    workers = workers_of(Hopper())
    assert workers.result(workers._pool.submit(os.getenv, "PYGLFW_LIBRARY")) == glfw.library.glfw._name
    assert "PYGLFW_LIBRARY" not in os.environ


def processes_of(workers: RolloutWorkers) -> list[psutil.Process]:
    workers.result(workers._pool.submit(os.getpid))
    return [psutil.Process(process.pid) for process in workers._context.workers]


def test_the_number_of_workers_and_what_they_played_before_change_no_bit(workers_of):
    seeds = list(range(1000, 1012))  # the last chunk is not full
    acts = [policy(11, 3, seed) for seed in (0, 1)]
    results = []
    for number in (1, 2, 3):
        workers = workers_of(Hopper(), number, episodes=len(seeds))
        for _ in range(2):
            results.append([played(workers, act, seeds, keep_observations=True) for act in acts])
        results.append([played(workers, act, seeds) for act in reversed(acts)][::-1])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.returns.tobytes() == two.returns.tobytes()
            assert one.lengths.tolist() == two.lengths.tolist()
    for episodes in results[0]:
        assert len(set(episodes.returns)) == len(seeds)
        assert [len(seen) for seen in episodes.observations] == [length + 1 for length in episodes.lengths]
    assert results[2][0].observations == []


def test_an_episode_does_not_depend_on_how_many_follow(workers_of):
    workers = workers_of(Hopper(), episodes=CHUNK)
    act = policy(11, 3)
    assert played(workers, act, range(3)).returns.tobytes() == played(workers, act, range(8)).returns[:3].tobytes()


def test_workers_import_no_torch_and_compute_on_one_thread(workers_of):
    workers = workers_of(Hopper(), 2)
    played(workers, policy(11, 3), range(10))
    for expression, value in (
        ("'torch' in __import__('sys').modules", False),
        ("__import__('os').environ['OMP_NUM_THREADS']", "1"),
        ("__import__('os').environ['OPENBLAS_NUM_THREADS']", "1"),
    ):
        assert workers.result(workers._pool.submit(eval, expression)) == value


def test_our_own_environment_and_signals_stay_as_they_were(workers_of, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    processes_of(workers_of(OddTask(), 2))
    assert (dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, [])) == before


def test_signals_are_for_the_parent(workers_of):
    workers = workers_of(OddTask(), 2)
    for process in workers._context.workers:  # some are still starting
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(process.pid, number)
    assert played(workers, policy(1, 1), [1, 2, 3, 4, 5, 6]).returns.tolist() == [1, 2, 3, 4, 5, 6]
    assert all(process.is_running() for process in processes_of(workers))


def test_a_killed_worker_is_a_user_error_that_names_the_cause(workers_of):
    workers = workers_of(OddTask(), 2)
    chunks = workers.play(policy(1, 1), [99] * 10)
    processes = [psutil.Process(process.pid) for process in workers._context.workers]
    processes[1].kill()
    with pytest.raises(UserError, match=r"SIGKILL.*memory.*evaluation\.workers=N.*same command"):
        for chunk in chunks:
            workers.result(chunk)
    with pytest.raises(UserError, match="SIGKILL"):
        workers.play(policy(1, 1), [1])
    gone, left = psutil.wait_procs(processes, timeout=10)
    assert not left


def test_a_worker_killed_while_the_next_is_started_is_a_user_error_too(monkeypatch):
    pools, started = [], []

    def pool(*arguments):
        pools.append(ProcessPoolExecutor(*arguments))
        return pools[-1]

    def start(self, real=_Worker.start):
        if started:
            started[0].kill()
            deadline = time.monotonic() + 2  # some versions of Python notice it only afterwards
            while not pools[0]._broken and time.monotonic() < deadline:
                time.sleep(0.01)
        started.append(self)
        real(self)

    monkeypatch.setattr("iql.evaluation.workers.ProcessPoolExecutor", pool)
    monkeypatch.setattr(_Worker, "start", start)
    with pytest.raises(UserError, match="SIGKILL"), contextlib.closing(RolloutWorkers(OddTask(), 2, 1, 10)) as workers:
        for future in workers.play(policy(1, 1), [1] * 10):
            workers.result(future)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_system_that_starts_no_process_is_a_user_error(monkeypatch, number):
    def start(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_Worker, "start", start)
    with pytest.raises(UserError, match=rf"cannot be started: {os.strerror(number)}; evaluation\.workers=N"):
        RolloutWorkers(OddTask(), 2, 1, 10)


def test_closing_ends_workers_in_the_middle_of_a_chunk(workers_of):
    workers = RolloutWorkers(OddTask(), 2, 1, 10)
    workers.play(policy(1, 1), [99] * 10)
    processes = [psutil.Process(process.pid) for process in workers._context.workers]
    workers.close()
    assert not [process for process in processes if process.is_running()]


def test_what_an_environment_raises_arrives_even_if_it_cannot_be_pickled(workers_of):
    workers = workers_of(OddTask())
    with pytest.raises(EpisodeError, match=r"Odd, episode 7 \(seed 13\), step 1: raised Unlucky: 13 is thirteen"):
        played(workers, policy(1, 1), [*range(6), 13])
    with pytest.raises(RuntimeError, match="Unlucky: 1 is the policy"):
        played(workers, pickle.dumps(partial(unlucky, 1)), [1])
    with pytest.raises(np.linalg.LinAlgError, match="square"):
        played(workers, pickle.dumps(np.linalg.inv), [1])
    assert played(workers, policy(1, 1), [5]).returns.tolist() == [5]


def test_a_task_that_cannot_be_sent_is_refused_at_once():
    with pytest.raises(UserError, match="the task Closed cannot be sent .*evaluation=none"):
        RolloutWorkers(Closed(), 1, 1, 1)


def test_environments_that_cannot_be_opened_are_reported_before_an_evaluation(workers_of, monkeypatch):
    task = D4RLTask(**settings_of("hopper-medium-v2"))
    task.simulator = "hoper"
    workers = workers_of(task)
    with pytest.raises(UserError, match="no simulator is called 'hoper'"):
        while True:
            workers.check_start()
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "members", "episodes", "expected"),
    [(None, 1, 1, 1), (None, 1, 10, 2), (None, 10, 10, 8), (3, 1, 10, 2), (3, 10, 100, 3), (20, 10, 100, 20)],
)
def test_there_is_one_worker_a_core_and_at_most_one_a_chunk(
    workers_of, monkeypatch, number, members, episodes, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("iql.evaluation.workers.open_environments", int)
    assert workers_of(OddTask(), number, members, episodes)._pool._max_workers == expected


def test_many_cores_are_not_all_taken(workers_of, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr("iql.evaluation.workers.open_environments", int)
    assert workers_of(OddTask(), None, 10, 100)._pool._max_workers == MAX_WORKERS


def settings_of(name: str) -> dict:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = read(compose("config", [f"env={name}"]))[0]
    return {k: v for k, v in constructor_arguments("env", settings["env"]).items() if k != "_target_"}


@pytest.mark.parametrize(
    "name",
    ["ant-medium-v2", "antmaze-umaze-v0", "door-human-v1", "kitchen-complete-v0", "maze2d-umaze-made"],
)
def test_every_kind_of_task_can_be_sent(workers_of, name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = read(compose("config", [f"env={name}"]))[0]
    task = instantiate(constructor_arguments("env", settings["env"]), _convert_="all")
    act = policy(task.observation_dim, task.action_dim)
    here = evaluated_here(task, act, [3])
    assert played(workers_of(task, episodes=1), act, [3]).returns.tobytes() == here.returns.tobytes()


def evaluated_here(task, act: bytes, seeds) -> Episodes:
    full = np.zeros((CHUNK, task.observation_dim), np.float32)

    def padded(rows):
        full[: len(seeds)] = rows[0]
        return pickle.loads(act)(full)[None, : len(seeds)]

    return evaluate(padded, task.make_envs(len(seeds)), [seeds])[0]


def test_an_environment_that_only_the_parent_registered_is_found(workers_of, tmp_path):
    gymnasium.register("Odd-v7", entry_point=Odd, max_episode_steps=5)
    try:
        task = file_task(tmp_path / "odd.hdf5", "Odd-v7")
        task.transitions()
        task.make_envs(1).close()
        assert "_env" in task.__dict__  # opened here and not sent
        assert played(workers_of(task), policy(1, 1), [4, 6]).returns.tolist() == [4, 6]
    finally:
        del gymnasium.registry["Odd-v7"]


def file_task(path: Path, gym_id: str) -> FileTask:
    with h5py.File(path, "w") as file:
        for key in ("observations", "actions"):
            file[key] = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
        file["rewards"] = np.zeros(20, np.float32)
        file["terminals"] = np.zeros(20, bool)
        file["timeouts"] = np.arange(20) % 5 == 4
    return FileTask(
        path=path, gym_id=gym_id, name="odd", horizon=None, reward="none", ref_min=None, ref_max=None, normalize=False
    )


def test_the_time_of_a_step_is_that_of_all_over_their_number(monkeypatch):
    clock = iter([100.0, 107.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert step_seconds(OddTask(), pickle.loads(policy(1, 1)), range(7)) == 1.0  # each seed makes one step


def test_the_helper_process_of_multiprocessing_blocks_the_signals_of_a_job():
    program = (
        "import signal, sys; from multiprocessing import resource_tracker\n"
        "from iql.system.worker_context import start_resource_tracker\n"
        "start_resource_tracker(); pid = resource_tracker._resource_tracker._pid\n"
        "fields = dict(line.split(':', 1) for line in open(f'/proc/{pid}/status'))\n"
        "unreachable = int(fields['SigBlk'], 16) | int(fields['SigIgn'], 16)\n"
        "numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)\n"
        "print([number.name for number in numbers if not unreachable >> (number - 1) & 1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
