"""env.physics=legacy: its subprocess, on a stand-in for gym, mujoco_py and d4rl that the real server imports.

What the real stack computes is compared by scripts/legacy.py, which needs its environment.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import commands
import numpy as np
import psutil
import pytest

from iql.envs.legacy import client, server
from iql.envs.legacy.client import LegacyEnvs
from iql.errors import UserError
from iql.evaluation.rollout import evaluate

ROOT = Path(__file__).resolve().parents[2]

# The old stack in small: gym's old step and seed, an antmaze whose goal comes from the global generator, a
# wrapper that is no gym.Wrapper, prints on stdout, an environment that dies and one that fails.
GYM = """
import sys
import types
import numpy as np
print("gym says hello")
error = types.SimpleNamespace(UnregisteredEnv=type("UnregisteredEnv", (Exception,), {}))
logger = types.SimpleNamespace(set_level=lambda level: None, ERROR=40)
spaces = types.SimpleNamespace()
registry = {}

class Env:
    pass

class Wrapper(Env):
    def __init__(self, env):
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
    def step(self, action):
        raise AssertionError("the step limit is not ours")

def make(name):
    if name not in registry:
        raise error.UnregisteredEnv("No registered env\\n with id: " + name)
    return Wrapper(registry[name]())
"""

D4RL = '''
import os
import sys
import types
import numpy as np
import gym
print("Target Goal: on stdout")
os.makedirs(os.environ.get("D4RL_DATASET_DIR", os.path.expanduser("~/.d4rl/datasets")), exist_ok=True)
import mjrl.envs.mujoco_env

class Maze(gym.Env):
    """qpos [2] starts from the environment's own generator, the goal from numpy's; observation [4]."""
    observation_space, action_space = types.SimpleNamespace(shape=(4,)), types.SimpleNamespace(shape=(2,))
    v2_resets = False
    def __init__(self):
        self.sim = types.SimpleNamespace(data=types.SimpleNamespace(qpos=np.zeros(2), qvel=np.zeros(2)))
        self.set_target()
    def seed(self, seed):
        self.rng = np.random.default_rng(seed)
    def set_target(self, goal=None):
        self.target_goal = np.random.uniform(size=2) if goal is None else goal
    def reset(self):
        if self.v2_resets:
            self.set_target()
        self.set_state(self.rng.uniform(size=2), np.zeros(2))
        return self.observe()
    def observe(self):
        return np.concatenate([self.sim.data.qpos, self.target_goal])
    def set_state(self, qpos, qvel):
        self.sim.data.qpos, self.sim.data.qvel = qpos, qvel
    def step(self, action):
        print("a line on stdout at every step")
        self.sim.data.qpos = self.sim.data.qpos + action
        return self.observe(), float(action.sum()), bool(self.sim.data.qpos[0] > 3), {}

class MazeV2(Maze):
    v2_resets = True

class Dies(Maze):
    def step(self, action):
        print("Fatal: out of luck", file=sys.stderr)
        sys.stderr.flush()
        os._exit(9)

class Fails(Maze):
    def step(self, action):
        raise Exception("\\nUnknown error\\n\\nin the old stack")

class Proxy:
    def __init__(self, kind):
        self._wrapped_env = kind()
        self.observation_space, self.action_space = self._wrapped_env.observation_space, self._wrapped_env.action_space
    def seed(self, seed):
        raise AssertionError("the wrapper keeps the seed to itself")
    def reset(self):
        return self._wrapped_env.reset()
    def step(self, action):
        assert action.dtype == np.float32
        return self._wrapped_env.step(action)

for name, kind in {"maze-v0": Maze, "maze-v2": MazeV2, "dies-v0": Dies, "fails-v0": Fails}.items():
    gym.registry[name] = lambda kind=kind: Proxy(kind)
'''


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the stand-ins, as an environment of its own would have the old stack."""
    folder = tmp_path_factory.mktemp("stack")
    packages = {"gym": GYM, "mujoco_py": "", "d4rl": D4RL}
    for name, source in packages.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source)
        metadata = folder / f"{name}-1.2.dist-info"
        metadata.mkdir()
        distribution = server.PACKAGES[name][0]
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    return script(folder / "python", f'export PYTHONPATH={quote(str(folder))}\nexec {quote(sys.executable)} "$@"')


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def old_stack(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IQL_LEGACY_PYTHON", str(stand_in))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(client, "_versions", lambda python: {"mujoco": "2.1.0"})
    (tmp_path / "home").mkdir()
    return tmp_path


@pytest.fixture
def mazes(old_stack: Path) -> Iterator[LegacyEnvs]:
    envs = LegacyEnvs("maze-v0", 3, 5, 4, 2)
    yield envs
    envs.close()


def server_of(envs: LegacyEnvs) -> psutil.Process:
    (child,) = [one for one in psutil.Process().children() if any("legacy/server" in part for part in one.cmdline())]
    return child


def test_steps_and_resets_look_as_those_of_a_vector_environment_without_autoreset(mazes):
    observations, info = mazes.reset(seed=[1, 2, 3])
    assert observations.shape == (3, 4) and observations.dtype == np.float64 and info == {}
    actions = np.array([[0.5, 0.25], [0.0, 0.0], [9.0, 0.0]], np.float32)
    after, rewards, terminated, truncated, _ = mazes.step(actions)
    np.testing.assert_array_equal(after[:, :2], observations[:, :2] + actions)
    np.testing.assert_array_equal(rewards, [0.75, 0.0, 9.0])
    assert rewards.dtype == np.float64 and terminated.dtype == truncated.dtype == np.bool_
    assert terminated.tolist() == [False, False, True] and not truncated.any()


def test_an_ended_environment_waits_for_its_reset_which_leaves_the_others_alone(mazes):
    mazes.reset(seed=[1, 2, 3])
    before, *_ = mazes.step(np.array([[0, 0], [9, 0], [0, 0]], np.float32))
    with pytest.raises(ValueError, match=r"reset environments \[1\] first"):
        mazes.step(np.zeros((3, 2), np.float32))
    observations, _ = mazes.reset(seed=[7, 8, 9], options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(observations[[0, 2]], before[[0, 2]])
    assert (observations[1] != before[1]).all()
    mazes.step(np.zeros((3, 2), np.float32))


def test_an_episode_is_truncated_at_the_tasks_horizon_whatever_gym_has(mazes):
    mazes.reset(seed=0)
    still = np.zeros((3, 2), np.float32)
    for _ in range(4):
        assert not mazes.step(still)[3].any()
    *_, terminated, truncated, _ = mazes.step(still)
    assert truncated.all() and not terminated.any()


def test_an_episode_depends_on_its_seed_alone(mazes):
    first, _ = mazes.reset(seed=[5, 6, 7])
    mazes.step(np.ones((3, 2), np.float32))
    second, _ = mazes.reset(seed=[7, 9, 5])
    np.testing.assert_array_equal(first[[0, 2]], second[[2, 0]])
    one = LegacyEnvs("maze-v0", 1, 5, 4, 2)
    alone, _ = one.reset(seed=[6])
    one.close()
    np.testing.assert_array_equal(alone[0], first[1])


@pytest.mark.parametrize("env_id", ["maze-v0", "maze-v2"])
def test_seeds_that_carry_a_runs_seed_share_its_goal_and_others_have_their_own(old_stack, env_id):
    envs = LegacyEnvs(env_id, 4, 5, 4, 2)
    run = 3 << 31
    observations, _ = envs.reset(seed=[run + 1, run + 2, 1, 2])
    starts, goals = observations[:, :2], observations[:, 2:]
    np.testing.assert_array_equal(goals[0], goals[1])
    assert len({tuple(goal) for goal in goals}) == 3
    assert len({tuple(start) for start in starts}) == 4
    envs.close()


def test_a_state_can_be_taken_and_put_back(mazes):
    mazes.reset(seed=[1, 2, 3])
    state = mazes.get_state(1)
    assert set(state) == {"qpos", "qvel", "goal"}
    mazes.set_state(2, state)
    for key, value in mazes.get_state(2).items():
        np.testing.assert_array_equal(value, state[key])


def test_an_evaluation_gives_the_same_with_any_number_of_environments(old_stack):
    def act(rows: np.ndarray) -> np.ndarray:
        return 0.4 * np.abs(rows[..., :2]) + 0.3

    results = []
    for num in (1, 3):
        envs = LegacyEnvs("maze-v2", num, 4, 4, 2)
        results.append(evaluate(act, envs, [[11, 12, 13, 14, 15]])[0])
        envs.close()
    assert len(set(results[0].lengths)) > 1  # some end early
    np.testing.assert_array_equal(results[0].returns, results[1].returns)


def test_a_failing_environment_is_one_line_and_the_process_lives_on(old_stack):
    envs = LegacyEnvs("fails-v0", 1, 5, 4, 2)
    envs.reset(seed=[0])
    with pytest.raises(UserError, match=r"^\S+: Exception: Unknown error in the old stack$"):
        envs.step(np.zeros((1, 2), np.float32))
    envs.reset(seed=[0])
    envs.close()


def test_a_process_that_dies_is_one_line_with_its_last_words(old_stack):
    envs = LegacyEnvs("dies-v0", 1, 5, 4, 2)
    envs.reset(seed=[0])
    with pytest.raises(UserError, match=r"held dies-v0 ended \(exit 9\): Fatal: out of luck$"):
        envs.step(np.zeros((1, 2), np.float32))
    assert list(old_stack.glob("iql-legacy-*")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hoper-v0", 1, 5, 4, 2), "have no environment hoper-v0: No registered env with id: hoper-v0"),
        (("maze-v0", 1, 5, 4, 3), "observations of 4 entries and actions of 2, the task 4 and 3"),
    ],
)
def test_an_environment_that_the_old_stack_lacks_or_has_otherwise_is_refused(old_stack, arguments, message):
    before = psutil.Process().children()
    with pytest.raises(UserError, match=message):
        LegacyEnvs(*arguments)
    assert psutil.Process().children() == before


def test_closing_leaves_no_process_no_folder_and_nothing_in_the_home(old_stack):
    envs = LegacyEnvs("maze-v0", 1, 5, 4, 2)
    server = server_of(envs)
    envs.close()
    assert not server.is_running()
    assert [path.name for path in old_stack.iterdir()] == ["home"]
    assert list((old_stack / "home").iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        envs.reset(seed=[0])


def test_a_first_import_says_once_that_it_compiles(stand_in, old_stack, caplog):
    caplog.set_level(logging.INFO)
    LegacyEnvs("maze-v0", 1, 5, 4, 2).close()
    assert "compiled now" in caplog.text
    caplog.clear()
    built = stand_in.parent / "mujoco_py/generated"
    built.mkdir()
    version = f"{sys.version_info[0]}{sys.version_info[1]}"
    (built / f"cymj_2.1.2.14_{version}_linuxcpuextensionbuilder_{version}.so").touch()
    LegacyEnvs("maze-v0", 1, 5, 4, 2).close()
    assert caplog.text == ""


def test_ctrl_c_does_not_reach_the_old_stack(mazes):
    assert os.getpgid(server_of(mazes).pid) != os.getpgid(0)


@pytest.mark.parametrize("busy", [False, True], ids=["waiting", "busy"])
def test_it_dies_with_a_killed_parent_and_takes_its_folder_along(old_stack, stand_in, busy):
    code = (
        "import sys, numpy as np; from iql.envs.legacy import client\n"
        "client._versions = lambda python: {}\n"
        "envs = client.LegacyEnvs('maze-v0', 1, 10**9, 4, 2)\n"
        "envs.reset(seed=[0]); print(envs._process.pid, flush=True)\n"
        + ("while True: envs.step(np.zeros((1, 2), np.float32))\n" if busy else "sys.stdin.read()\n")
    )
    parent = commands.start(
        [sys.executable, "-c", code], cwd=ROOT, stdin=commands.PIPE, stdout=commands.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdin is not None
    server = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    server.wait(timeout=20)
    deadline = time.monotonic() + 20
    while list(old_stack.glob("iql-legacy-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(old_stack.glob("iql-legacy-*")) == []
    for stream in (parent.stdin, parent.stdout):
        stream.close()


def test_without_an_interpreter_one_line_says_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.delenv("IQL_LEGACY_PYTHON", raising=False)
    monkeypatch.setattr(client, "VENV", tmp_path / ".venv-legacy")
    with pytest.raises(
        UserError, match=r"\.venv-legacy/bin/python is not a program; run `python scripts/legacy\.py setup`"
    ):
        client.facts()
    monkeypatch.setenv("IQL_LEGACY_PYTHON", str(tmp_path))
    with pytest.raises(UserError, match=f"IQL_LEGACY_PYTHON={tmp_path} is not a program"):
        LegacyEnvs("maze-v0", 1, 5, 4, 2)


def test_an_interpreter_without_the_old_stack_is_refused_by_what_it_lacks(tmp_path, monkeypatch):
    bare = script(tmp_path / "python", f'exec {quote(sys.executable)} "$@"')
    monkeypatch.setenv("IQL_LEGACY_PYTHON", str(bare))
    with pytest.raises(
        UserError, match=f"^{bare} has no gym, d4rl, mujoco_py, .*; run `python scripts/legacy.py setup`"
    ):
        client.facts()


def test_an_interpreter_that_cannot_run_the_server_is_refused_with_its_own_words(tmp_path, monkeypatch):
    old = script(tmp_path / "python", "echo 'SyntaxError: invalid syntax' >&2; exit 1")
    monkeypatch.setenv("IQL_LEGACY_PYTHON", str(old))
    with pytest.raises(UserError, match="cannot host D4RL's old stack: SyntaxError: invalid syntax; run"):
        client.facts()
    broken = tmp_path / "broken"
    broken.write_text("#!/nowhere/python\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IQL_LEGACY_PYTHON", str(broken))
    with pytest.raises(UserError, match="broken cannot be run: No such file or directory"):
        client.facts()


def test_facts_are_the_versions_that_the_interpreter_has(stand_in, monkeypatch):
    monkeypatch.setenv("IQL_LEGACY_PYTHON", str(stand_in))
    monkeypatch.setattr(server, "PACKAGES", server.PACKAGES)
    monkeypatch.setattr(client, "_versions", client._versions.__wrapped__)
    with pytest.raises(UserError, match="has no mujoco for env.physics=legacy"):  # the stand-in brings none
        client.facts()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_there_is_no_mujoco_in_it():
    assert server.mujoco_folder() is None


def test_what_the_old_stack_needs_stands_in_the_extra():
    done = commands.run(
        [sys.executable, str(ROOT / "scripts/legacy.py"), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "setup" in done.stdout
