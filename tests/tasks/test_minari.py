"""Minari's datasets: what is learned from is what Minari holds, and its own environment is evaluated in."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import commands
import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from minari.data_collector import EpisodeBuffer
from minari.storage import remotes
from minari.storage.remotes.cloud_storage import CloudStorage

from iql.errors import UserError
from iql.tasks.minari import MinariTask

HERE = Path(__file__).parent

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's, of every author that a dataset lacks

OBSERVATIONS = {
    "box": Box(-np.inf, np.inf, (3,), np.float64),
    "goal": Dict(
        {
            "observation": Box(-np.inf, np.inf, (3,), np.float64),
            "goals": Dict({"desired": Box(-9, 9, (2,), np.float32), "achieved": Box(-9, 9, (2,), np.float32)}),
        }
    ),
    "parts": Tuple((Box(-9, 9, (2, 2), np.float32), Discrete(3, start=1), MultiDiscrete([2, 4]))),
    "pixels": Box(0, 255, (40, 40, 3), np.uint8),
    "text": gymnasium.spaces.Text(5),
}

ACTIONS = {
    "unit": Box(-1, 1, (2,), np.float32),
    "skew": Box(np.float32([-1, 0.2]), np.float32([0.4, 1]), dtype=np.float32),
    "boundless": Box(-np.inf, np.inf, (2,), np.float64),
    "discrete": Discrete(4),
    "several": MultiDiscrete([2, 3]),
}


class Walk(gymnasium.Env):
    """A number walks; the episode ends beyond `end`. Observations of the space named, functions of the state."""

    def __init__(self, observations: str = "box", actions: str = "unit", end: float = 4.0):
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]
        self.kind, self.end = observations, end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = float(self.np_random.uniform(-1, 1))
        return self._observed(), {}

    def step(self, action):
        self.state += float(np.sum(action)) / 2
        return self._observed(), -abs(self.state), abs(self.state) > self.end, False, {"state": self.state}

    def _observed(self) -> Any:
        x = self.state
        vector = np.array([x, x * x, 1.0])
        if self.kind == "goal":
            two = np.float32([x, -x])
            return {"observation": vector, "goals": {"desired": two + 1, "achieved": two}}
        if self.kind == "parts":
            matrix = np.float32([[x, 1], [2, -x]])
            return matrix, np.int64(1 + abs(int(x)) % 3), np.array([x > 0, abs(int(x)) % 4], np.int64)
        return vector


SPEC = {"entry_point": "test_minari:Walk", "max_episode_steps": 20}


def spec(**kwargs: Any) -> gymnasium.envs.registration.EnvSpec:
    return gymnasium.envs.registration.EnvSpec("Walk-v0", **SPEC, kwargs=kwargs)


def stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stacked(list(part)) for part in zip(*values, strict=True))
    return np.stack(values)


def rolled_out(env: gymnasium.Env, seed: int) -> EpisodeBuffer:
    """An episode of random actions, as Minari's collector keeps one."""
    rng = np.random.default_rng(seed)
    box = env.action_space
    assert isinstance(box, Box)
    low, high = (np.clip(bound, -2, 2) if np.isinf(bound).any() else bound for bound in (box.low, box.high))
    observations, actions, rewards, terminations, truncations = [env.reset(seed=seed)[0]], [], [], [], []
    while not (terminations and (terminations[-1] or truncations[-1])):
        actions.append(rng.uniform(low * 0.99, high * 0.99).astype(box.dtype))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        for series, value in (
            (observations, observation),
            (rewards, float(reward)),
            (terminations, terminated),
            (truncations, truncated),
        ):
            series.append(value)
    return EpisodeBuffer(
        seed=seed,
        observations=stacked(observations),
        actions=stacked(actions),
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        infos={"state": np.zeros(len(observations))},
    )


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's folder, empty, and no network."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "minari"


def record(
    dataset: str = "walk/random-v0", env: Any = None, episodes: int = 12, **metadata: Any
) -> minari.MinariDataset:
    env = env or spec()
    made = gymnasium.make(env, disable_env_checker=True)
    buffers = [rolled_out(made, seed) for seed in range(episodes)]
    return minari.create_dataset_from_buffers(dataset, buffers, env=env, **metadata)


def write(observations: Any, actions: Any, dataset: str = "walk/random-v0", env: Any = None, **spaces: Any) -> None:
    """One truncated episode as it is given."""
    steps = len(actions)
    buffer = EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=[0.0] * steps,
        terminations=[False] * steps,
        truncations=[False] * (steps - 1) + [True],
    )
    minari.create_dataset_from_buffers(dataset, [buffer], env=env, **spaces)


def task(dataset: str = "walk/random-v0", **options: Any) -> MinariTask:
    defaults: dict[str, Any] = {"horizon": None, "reward": "none", "ref_min": None, "ref_max": None, "normalize": False}
    defaults["trust"] = True  # Walk is no environment that Gymnasium knows
    return MinariTask(name=dataset, dataset=dataset, **{**defaults, **options})


def complaint(attempt: Any) -> str:
    with pytest.raises(UserError) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("observations", ["box", "goal", "parts"])
@pytest.mark.parametrize("actions", ["unit", "skew", "boundless"])
def test_every_transition_is_minaris(observations, actions):
    dataset = record(env=spec(observations=observations, actions=actions))
    mine = task()
    seen = mine.transitions()
    recorded = np.concatenate([episode.actions for episode in dataset])
    space = dataset.action_space
    low, high = (space.low, space.high) if actions != "boundless" else (recorded.min(0), recorded.max(0))

    def flat(episode: Any, step: int) -> np.ndarray:
        def at(values: Any) -> Any:
            if isinstance(values, dict):
                return {key: at(value) for key, value in values.items()}
            return tuple(map(at, values)) if isinstance(values, tuple) else values[step]

        return gymnasium.spaces.flatten(dataset.observation_space, at(episode.observations)).astype(np.float32)

    rows = iter(seen.rows)
    for episode in dataset:
        for step in range(len(episode)):
            row = next(rows)
            assert np.array_equal(seen.observations[row], flat(episode, step))
            scaled = 2 * (episode.actions[step] - low) / (high - low) - 1
            assert seen.actions[row] == pytest.approx(np.clip(scaled, -1 + 1e-5, 1 - 1e-5), abs=3e-7)
            assert seen.rewards[row] == np.float32(episode.rewards[step])
            assert seen.masks[row] == 1 - episode.terminations[step]
            if seen.masks[row]:  # behind a terminal nothing is looked at
                assert np.array_equal(seen.observations[row + 1], flat(episode, step + 1))
    assert next(rows, None) is None and len(seen) == dataset.total_steps
    assert (mine.observation_dim, mine.action_dim) == (seen.observations.shape[1], 2)
    ends = [bool(episode.terminations[-1]) for episode in dataset]
    assert 0 < sum(ends) < len(ends), "some episodes end, some are cut"
    facts = mine.facts()
    assert (facts["episodes"], facts["transitions"]) == (len(ends), dataset.total_steps)
    assert facts["data_score"] == pytest.approx(np.mean([episode.rewards.sum() for episode in dataset]), rel=1e-6)


@pytest.mark.parametrize("last_ends", [True, False])
def test_the_last_transition_of_all_is_kept(last_ends):
    record(env=spec(end=0.5 if last_ends else 99.0), episodes=1)
    seen = task().transitions()
    assert seen.masks[seen.rows[-1]] == 1 - last_ends
    assert len(seen) == minari.load_dataset("walk/random-v0").total_steps
    assert task().facts()["episodes"] == 1


@pytest.mark.parametrize("observations", ["box", "goal", "parts"])
@pytest.mark.parametrize("actions", ["unit", "skew", "boundless"])
def test_the_environment_replays_the_data(observations, actions):
    """Same seeds, the learner's own actions: the recorded observations come again, so scaling and order agree."""
    dataset = record(env=spec(observations=observations, actions=actions), episodes=3)
    mine = task()
    data, _ = mine.read()
    env = mine.make_envs(1)
    assert env.single_action_space == Box(-1, 1, (2,), np.float32)
    assert env.single_observation_space.shape == (mine.observation_dim,)
    row = 0
    for seed, episode in enumerate(dataset):
        observation, _ = env.reset(seed=[seed])
        for step in range(len(episode)):
            assert observation[0] == pytest.approx(data.observations[row], abs=1e-5)
            observation, reward, terminated, truncated, _ = env.step(data.actions[None, row])
            assert reward[0] == pytest.approx(data.rewards[row], abs=1e-5)
            row += 1
            assert (terminated | truncated)[0] == (step == len(episode) - 1)
        row += not terminated[0]  # the row that closes an episode cut short


def test_pendulums_torque_is_scaled_from_two_to_one():
    record(env=gymnasium.spec("Pendulum-v1"), episodes=1)
    mine = task()
    seen = mine.transitions()
    dataset = minari.load_dataset("walk/random-v0")
    assert seen.actions[seen.rows] == pytest.approx(dataset[0].actions / 2, abs=1e-6)
    assert len(seen) == 200 and seen.masks.all()
    env = mine.make_envs(2)
    env.reset(seed=[0, 0])
    env.step(np.float32([[1], [-0.5]]))
    assert [each.unwrapped.last_u for each in env.envs] == [2.0, -1.0]
    assert mine.simulator_facts() == {"mujoco": None, "physics": "Pendulum-v1"}


def test_the_wrappers_that_the_data_was_recorded_in_come_back():
    inner = gymnasium.make(spec(), disable_env_checker=True)
    env = gymnasium.wrappers.RescaleAction(gymnasium.wrappers.FrameStackObservation(inner, 2), -5.0, 5.0)
    buffers = [rolled_out(env, seed) for seed in range(2)]
    minari.create_dataset_from_buffers("walk/random-v0", buffers, env=env)
    mine = task()
    seen = mine.transitions()
    assert mine.observation_dim == 6
    observation, _ = (envs := mine.make_envs(1)).reset(seed=[0])
    assert observation[0] == pytest.approx(seen.observations[0])
    assert envs.step(seen.actions[:1])[0][0] == pytest.approx(seen.observations[1], abs=1e-5)


def test_it_is_evaluated_in_the_evaluation_environment_where_there_is_one():
    record(eval_env=gymnasium.envs.registration.EnvSpec("Far-v3", entry_point=SPEC["entry_point"], max_episode_steps=7))
    mine = task()
    assert mine.simulator_facts()["physics"] == "Far-v3"
    assert mine._env.spec.max_episode_steps == 7


def test_a_score_is_minaris_normalised_one_in_percent():
    dataset = record(ref_min_score=-60.0, ref_max_score=-5.0)
    returns = np.array([-60.0, -33.0, 1.0])
    assert task().score(returns) == pytest.approx(100 * minari.get_normalized_score(dataset, returns))
    mine = task()
    mine.transitions()
    assert mine.facts()["scored"] == "normalised"
    assert task(ref_min=0.0, ref_max=10.0).score(np.array([5.0])) == [50.0]


def test_without_references_a_score_is_the_return():
    record()
    mine = task()
    assert mine.score(np.array([-3.0])) == [-3.0]
    assert mine.facts()["scored"] == "return"


def test_references_that_make_no_score_are_refused():
    record(ref_min_score=5.0, ref_max_score=5.0)
    assert "give env.ref_min and env.ref_max" in complaint(task().transitions)


def test_the_digest_is_of_the_data_and_what_decides_a_score(root, monkeypatch):
    record()
    first = task().digest
    shutil.rmtree(root)
    monkeypatch.setattr("time.time", lambda: 4e9)
    record(author="somebody else", description="recorded later")
    assert task().digest == first
    shutil.rmtree(root)
    record(ref_min_score=0.0, ref_max_score=1.0)
    scored = task().digest
    shutil.rmtree(root)
    record(episodes=11)
    shorter = task().digest
    shutil.rmtree(root)
    record(env=spec(end=4.5))
    assert len({first, scored, shorter, task().digest}) == 4


def test_an_episode_without_limit_needs_a_horizon():
    env = gymnasium.envs.registration.EnvSpec("Walk-v0", entry_point=SPEC["entry_point"])
    write(np.zeros((3, 3)), np.zeros((2, 2), np.float32), env=env)
    assert "give env.horizon=STEPS" in complaint(lambda: task().make_envs(1))
    env = task(horizon=3).make_envs(1)
    env.reset(seed=[0])
    assert [env.step(np.zeros((1, 2), np.float32))[3][0] for _ in range(3)] == [False, False, True]


def test_without_an_environment_there_is_data_and_no_evaluation():
    write(
        np.zeros((3, 3)),
        np.zeros((2, 2), np.float32),
        observation_space=OBSERVATIONS["box"],
        action_space=ACTIONS["unit"],
    )
    mine = task()
    assert len(mine.transitions()) == 2
    assert mine.facts()["physics"] is None
    assert "names no environment to evaluate in: train it with evaluation=none" in complaint(lambda: mine.make_envs(1))


def test_an_environment_that_is_not_installed_is_named_and_spoils_no_data(root):
    record()
    edit_metadata(root, env_spec=lambda text: text.replace("test_minari:Walk", "nowhere_at_all:Walk"))
    mine = task()
    assert mine.transitions() and mine.facts()["physics"] == "Walk-v0"
    message = complaint(lambda: mine.make_envs(1))
    assert message.startswith("the environment Walk-v0 of walk/random-v0 cannot be made (No module named 'nowhere_at")
    assert message.endswith("install what is missing")


def test_an_environment_of_other_sizes_is_refused():
    record(eval_env=spec(observations="goal"))
    assert "has observations Box" in complaint(lambda: task().make_envs(1))


def test_requirements_that_are_not_met_are_logged_once(caplog):
    record(requirements=["mujoco>=99", "numpy>=1"])
    with caplog.at_level(logging.INFO, "iql"):
        task().make_envs(3)
    assert [text for text in caplog.messages if "requirement" in text] == [
        text for text in caplog.messages if "mujoco" in text
    ]
    assert sum("mujoco" in text and "\n" not in text for text in caplog.messages) == 1


@pytest.mark.parametrize(
    ("observations", "actions", "wanted"),
    [("box", "several", "one discrete choice"), ("pixels", "unit", "images"), ("text", "unit", "cannot be made into")],
)
def test_what_cannot_be_learned_is_refused(observations, actions, wanted):
    seen, done = OBSERVATIONS[observations], ACTIONS[actions]
    values = [seen.sample() for _ in range(3)]
    write(
        values if observations == "text" else np.stack(values),
        np.stack([done.sample() for _ in range(2)]),
        observation_space=seen,
        action_space=done,
    )
    message = complaint(task().transitions)
    assert message.startswith("Minari's walk/random-v0: ") and wanted in message


def edit_metadata(root: Path, **changes: Any) -> None:
    path = root / "walk/random-v0/data/metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, **{key: change(metadata[key]) for key, change in changes.items()}}))


@pytest.mark.parametrize("missing", ["metadata.json", "main_data.hdf5"])
def test_a_folder_half_downloaded_is_named(root, missing):
    record()
    (root / "walk/random-v0/data" / missing).unlink()
    message = complaint(task().transitions)
    assert f"delete {root / 'walk/random-v0'} " in message and "No data found" in message


def test_a_data_file_cut_short_is_named(root):
    record()
    path = root / "walk/random-v0/data/main_data.hdf5"
    os.truncate(path, path.stat().st_size // 2)
    message = complaint(task().transitions)
    assert "truncated file" in message and f"delete {root / 'walk/random-v0'} " in message


@pytest.mark.parametrize("change", [-1, 1])
def test_steps_that_metadata_does_not_know_of_are_told(root, change):
    record()
    edit_metadata(root, total_steps=lambda steps: steps + 40 * change)
    assert "get it again" in complaint(task().transitions) or "declared" in complaint(task().transitions)


def test_an_episode_without_its_last_observation_is_refused():
    write(np.zeros((2, 3)), np.zeros((2, 2), np.float32), env=spec())
    assert "episode 0 has 2 observations, 2 actions, 2 rewards" in complaint(task().transitions)


def test_infinite_numbers_are_refused():
    write(np.float64([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]), np.zeros((2, 2), np.float32), env=spec())
    assert "observations holds NaN, first in row 1" in complaint(task().transitions)


@pytest.mark.parametrize("dataset", ["door", "D4RL/door/human", "/tmp/door-v1", "../door-v1", "D4RL//door-v1"])
def test_what_is_no_id_is_told_at_once(dataset):
    assert f"env.dataset={dataset} is not an id of Minari" in complaint(lambda: task(dataset))


def test_no_id_is_told_at_once():
    task = {"name": "x", "horizon": None, "reward": "none", "ref_min": None, "ref_max": None, "normalize": False}
    assert "give env.dataset=ID" in complaint(lambda: MinariTask(dataset=None, **task))


class FolderStorage(CloudStorage):
    """A server that is a folder: what Minari asks of one when it downloads. Dies once in the middle if told so."""

    def __init__(self, name: str, token: str | None = None) -> None:
        self.folder = Path(os.environ["TEST_REMOTE"])

    def list_datasets(self, prefix=None):
        for path in self.folder.rglob("metadata.json"):
            if (dataset := path.parent.parent.relative_to(self.folder).as_posix()).startswith(prefix or ""):
                yield dataset

    def get_dataset_metadata(self, dataset_id):
        return json.loads((self.folder / dataset_id / "data/metadata.json").read_text())

    def download_dataset(self, dataset_id, path):
        with (self.folder / "log").open("a") as log:
            log.write(f"{dataset_id}\n")
        target = path / dataset_id / "data"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / dataset_id / "data/metadata.json", target)
        if (self.folder / "die").exists():
            (self.folder / "die").unlink()
            raise ConnectionError("the line went dead")
        shutil.copy(self.folder / dataset_id / "data/main_data.hdf5", target)

    def list_namespaces(self):
        return ["walk"]

    def download_namespace_metadata(self, namespace, path):
        (path / namespace / "namespace_metadata.json").write_text("{}")

    def upload_dataset(self, dataset_id): ...

    def upload_namespace(self, namespace): ...


@pytest.fixture
def remote(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server with one dataset, and nothing in Minari's own folder."""
    record()
    root.rename(tmp_path / "remote")
    monkeypatch.setenv("TEST_REMOTE", str(tmp_path / "remote"))
    monkeypatch.setenv("MINARI_REMOTE", "folder://here")
    monkeypatch.setitem(remotes._registry, "folder", lambda: FolderStorage)
    return tmp_path / "remote"


def test_a_dataset_that_is_missing_is_downloaded_whole(remote, root):
    assert task().locate() == root / "walk/random-v0"
    assert len(task().transitions()) == minari.load_dataset("walk/random-v0").total_steps
    assert (remote / "log").read_text() == "walk/random-v0\n"
    assert list(minari.list_local_datasets()) == ["walk/random-v0"]
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


def test_a_download_cut_short_leaves_no_dataset_and_the_next_one_goes_on(remote, root):
    (remote / "die").touch()
    assert "cannot be downloaded (the line went dead)" in complaint(task().locate)
    assert not (root / "walk").exists()
    assert len(task().transitions())


def test_a_dataset_that_nobody_has_is_told(remote, root):
    message = complaint(task("walk/expert-v0").transitions)
    assert "Couldn't find any version" in message and "minari list remote" in message
    assert not (root / "walk").exists()


def test_processes_that_start_together_download_once(remote, root):
    code = (
        "import test_minari as t; t.remotes._registry['folder'] = lambda: t.FolderStorage\n"
        "print(len(t.task().transitions()))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    both = [commands.start(command, env=environment, stdout=commands.PIPE, text=True) for _ in range(2)]
    counts = [process.communicate(timeout=120)[0] for process in both]
    assert counts[0] == counts[1] and int(counts[0]) > 0
    assert (remote / "log").read_text() == "walk/random-v0\n"


def test_without_a_network_what_to_do_is_told_at_once(root):
    message = complaint(task("D4RL/door/human-v2").transitions)
    assert message.startswith(f"D4RL/door/human-v2 is not in {root} and http://127.0.0.1:9 cannot be reached")
    assert "minari download D4RL/door/human-v2" in message and "MINARI_DATASETS_PATH" in message


@pytest.mark.parametrize(
    ("package", "wanted"),
    [("minari", "pip install 'minari[hdf5,hf]'"), ("huggingface_hub", "pip install 'minari[hf]'")],
)
def test_a_package_that_is_not_installed_is_named(package, wanted, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    assert wanted in complaint(task("D4RL/door/human-v2").transitions)


def test_the_command_line_trains_and_evaluates(train):
    record(ref_min_score=-60.0, ref_max_score=-5.0, requirements=["mujoco>=99"])
    train.environment["PYTHONPATH"] = f"{HERE}:{HERE.parent}"
    done = train("env=minari", "env.dataset=walk/random-v0", "env.trust=true")
    assert done.returncode == 0, done.stderr
    (directory,) = train.directories()
    assert directory.is_relative_to(train.runs / "single/walk-random-v0")
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["evaluations"] == 3 and np.isfinite(summary["score"])
    assert {"dataset": "Minari's walk/random-v0", "scored": "normalised"}.items() <= summary["data"].items()
    assert done.stderr.count("Installed mujoco version") == 1
    assert "done already" in train("env=minari", "env.dataset=walk/random-v0", "env.trust=true").stderr


def test_the_command_line_finetunes(train):
    record(ref_min_score=-60.0, ref_max_score=-5.0)
    train.environment["PYTHONPATH"] = f"{HERE}:{HERE.parent}"
    done = train("env=minari", "env.dataset=walk/random-v0", "env.trust=true", "finetune=online", "updates=20",
                 "finetune.steps=30", "finetune.evaluate_every=30")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (directory,) = train.directories()
    finetune = json.loads((directory / "summary.json").read_text())["finetune"]
    assert finetune["steps"] == 30 and finetune["episodes"] > 0 and 0 <= finetune["regret"] <= 1


def test_the_command_line_trains_without_an_environment(train):
    write(
        np.random.default_rng(0).normal(size=(201, 3)),
        np.zeros((200, 2), np.float32),
        observation_space=OBSERVATIONS["box"],
        action_space=ACTIONS["unit"],
    )
    done = train("env=minari", "env.dataset=walk/random-v0", "evaluation=none", "evaluation.every=null")
    assert done.returncode == 0, done.stderr
    assert "not evaluated, losses at the end" in done.stdout


# From somebody else


def claim(root: Path, **metadata: Any) -> None:
    path = root / "walk/random-v0/data/metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **metadata}))


def without_spaces(root: Path) -> None:
    path = root / "walk/random-v0/data/metadata.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if "space" not in key}))


@pytest.mark.parametrize("spaces", [True, False])
@pytest.mark.parametrize("where", ["env_spec", "eval_env_spec", "vector_entry_point", "additional_wrappers"])
def test_a_dataset_names_no_command(root, tmp_path, where, spaces):
    record()
    attack = {"entry_point": "subprocess:Popen", "kwargs": {"args": f"touch {tmp_path / 'ran'}", "shell": True}}
    mine = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    if where == "additional_wrappers":
        claim(root, env_spec=json.dumps({**mine, where: [{"name": "x", **attack}]}))
    elif where == "vector_entry_point":
        claim(root, env_spec=json.dumps({**mine, where: attack["entry_point"]}))
    else:
        claim(root, **{"env_spec": json.dumps(mine), where: json.dumps({**mine, **attack})})
    if not spaces:
        without_spaces(root)
    attempt = (lambda: task(trust=False).make_envs(1)) if spaces else task(trust=False).transitions
    said = complaint(attempt)
    assert "would run subprocess:Popen" in said and "env.trust=true" in said
    assert not (tmp_path / "ran").exists()
    if spaces:
        assert len(task(trust=False).transitions())  # its data is data


@pytest.mark.parametrize("metadata", ["", "[]", "{", "[" * 100_000, '{"env_spec": 3}', '{"env_spec": "[]"}'])
def test_metadata_that_is_none(root, metadata):
    record()
    (root / "walk/random-v0/data/metadata.json").write_text(metadata)
    assert "metadata.json" in complaint(task(trust=False).transitions)


def test_a_dataset_leads_into_no_other_file(root, tmp_path):
    record()
    path = root / "walk/random-v0/data/main_data.hdf5"
    with h5py.File(tmp_path / "secret.hdf5", "w") as secret, h5py.File(path, "a") as file:
        secret["rewards"] = file["episode_3/rewards"][:]
        del file["episode_3/rewards"]
        file["episode_3/rewards"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "/rewards")
    assert "episode_3/rewards is a link into another file" in complaint(task().transitions)
    path.unlink()
    path.symlink_to(tmp_path / "secret.hdf5")
    assert "is a link; put the file itself there" in complaint(task().transitions)


def test_more_steps_than_memory_holds(root):
    record()
    claim(root, total_steps=10**12)
    assert "cannot be read (Unable to allocate" in complaint(task().transitions)


def test_an_episode_larger_than_memory(root):
    record()
    with h5py.File(root / "walk/random-v0/data/main_data.hdf5", "a") as file:
        del file["episode_3/rewards"]
        file.create_dataset("episode_3/rewards", (10**12,), chunks=(10,))
    assert "episode_3/rewards claims 3,725.3 GiB of memory" in complaint(task().transitions)


def discrete_episodes(steps: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Observations and actions of CartPole-v1 in one episode that is cut."""
    env = gymnasium.make("CartPole-v1")
    seen, actions = [env.reset(seed=0)[0]], []
    while len(actions) < steps:
        angle, speed = seen[-1][2:]
        actions.append(int(angle + 0.3 * speed > 0))
        seen.append(env.step(actions[-1])[0])
    return np.stack(seen), np.array(actions)


def test_a_discrete_choice_is_one_hot_and_played_in_the_environment():
    seen, actions = discrete_episodes()
    write(seen, actions, env="CartPole-v1")
    own = task()
    data = own.transitions()
    assert own.discrete and own.action_dim == 2
    assert data.actions[data.rows].tolist() == np.eye(2)[actions].tolist()
    envs = task().make_envs(1)  # in a process that has not read the data
    first, _ = envs.reset(seed=[0])
    assert first[0] == pytest.approx(seen[0])
    for step, action in enumerate(actions):
        after, *_ = envs.step(np.eye(2, dtype=np.float32)[[action]])
        assert after[0] == pytest.approx(seen[step + 1], abs=1e-6)


@pytest.mark.parametrize("space", [Discrete(3), Discrete(2, start=1)])
def test_a_discrete_choice_of_another_environment_is_refused(space):
    seen, actions = discrete_episodes()
    write(seen, actions + space.start, env="CartPole-v1", action_space=space)
    attempt = task().transitions if space.start else lambda: task().make_envs(1)
    wanted = (
        "begin at 1; they must begin at 0" if space.start else "actions Discrete(3), but its environment CartPole-v1"
    )
    assert wanted in complaint(attempt)


def test_a_run_on_a_discrete_dataset_asks_for_the_discrete_network(train, root):
    write(*discrete_episodes(), env="CartPole-v1")
    train.environment["MINARI_DATASETS_PATH"] = str(root)
    own = ("env=minari", "env.dataset=walk/random-v0", "updates=20")
    refused = train(*own)
    assert refused.returncode == 1 and "add network=discrete" in refused.stderr
    result = train(*own, "network=discrete")
    assert result.returncode == 0, result.stderr
    (directory,) = train.directories()
    assert json.loads((directory / "summary.json").read_text())["evaluations"]
