"""The rows, seeds, noise and resume of exploration, in environments that follow a script."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import random_transitions
from gymnasium import spaces
from learners import ACTION_DIM, DISCRETE, OBSERVATION_DIM, make_learner

from iql.data.replay_buffer import ReplayBuffer
from iql.data.transitions import Transitions
from iql.envs.vector import Lockstep
from iql.evaluation.pending import episode_seeds, training_seed
from iql.networks.distributions import Categorical, Gaussian
from iql.runs.appended_file import AppendedFile
from iql.training.exploration import Exploration

LIMIT = 4


class Scripted(gymnasium.Env):
    """Observations and rewards tell the seed and the step; its second episode terminates, its third does both."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
    forgets = False  # whether an episode goes on otherwise than its seed and its actions say
    faults = ()  # what happens in which step of all

    def __init__(self):
        self.episodes, self.steps, self.seeds = 0, 0, []

    def reset(self, *, seed=None, options=None):
        self.episodes, self.number, self.seed = self.episodes + 1, 0, seed
        self.seeds.append(seed)
        return self.seen(), {}

    def seen(self):
        return np.full(OBSERVATION_DIM, self.seed % 1000 + 0.25 * self.number + self.forgets * self.episodes)

    def step(self, action):
        self.number, self.steps = self.number + 1, self.steps + 1
        fault = dict(self.faults).get(self.steps)
        if fault == "raise":
            raise ZeroDivisionError("the ice is melting")
        terminated = (self.episodes == 2 and self.number == 3) or (self.episodes == 3 and self.number == LIMIT)
        reward = np.nan if fault == "nan" else float(self.number)
        return self.seen(), reward, terminated, self.number == LIMIT, {"success": terminated}


class ScriptedTask:
    observation_dim, action_dim, run_seeded = OBSERVATION_DIM, ACTION_DIM, False

    def __init__(self, make=Scripted):
        self.envs = []
        self._make = make

    def make_envs(self, num):
        self.envs.append(self._make())
        return Lockstep([lambda: self.envs[-1]])

    def score(self, returns):
        return np.asarray(returns) * 10


def statistics() -> Transitions:
    data = random_transitions(OBSERVATION_DIM, ACTION_DIM)
    own = {"observation_mean": np.full(OBSERVATION_DIM, 3.0, np.float32),
           "observation_std": np.full(OBSERVATION_DIM, 2.0, np.float32)}  # fmt: skip
    return Transitions(**{**vars(data), **own, "reward_scale": 0.5, "reward_shift": -1.0})


def explored(folder: Path, seeds=(7,), make=Scripted, temperature=1.0, noise=0.0, learner=None) -> Exploration:
    learner = learner or make_learner(list(seeds))
    data = statistics()
    buffer = ReplayBuffer(data, seeds, 32, "cpu", capacity=1000, steps=200, offline_share=None)
    files = [AppendedFile(folder / f"{place}.bin") for place in range(len(seeds))]
    return Exploration(ScriptedTask(make), learner, buffer, files, data, temperature, noise)


def resumed_from(folder: Path, state: dict, make) -> Exploration:
    exploration = explored(folder, make=make)
    exploration._files[0].cut(state["bytes"])  # as a run that resumes does first
    exploration.resume({0: state})
    return exploration


def rows_of(exploration: Exploration, place: int = 0) -> dict[str, np.ndarray]:
    exploration.state(place)  # which writes them
    rows = np.fromfile(exploration._files[place].path, np.float32).reshape(-1, 2 * OBSERVATION_DIM + ACTION_DIM + 2)
    ends = np.cumsum([OBSERVATION_DIM, ACTION_DIM, 1, 1])
    names = ("observations", "actions", "rewards", "masks", "next_observations")
    return dict(zip(names, np.split(rows, ends, 1), strict=True))


def test_rows_are_the_datas_kind_and_only_a_termination_does_not_bootstrap(tmp_path):
    exploration = explored(tmp_path)
    for _ in range(12):
        exploration.step([0])
    (env,) = exploration._task.envs
    rows = rows_of(exploration)
    assert env.seeds == [training_seed(7, episode) for episode in range(4)] and len(set(env.seeds)) == 4
    # Three episodes: cut by the limit, terminated in step 3, and both in step 4, which is a termination.
    steps = [1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 4]
    assert rows["masks"][:11, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0]
    assert rows["rewards"][:11, 0].tolist() == [0.5 * step - 1 for step in steps]
    starts = np.repeat([seed % 1000 for seed in env.seeds[:3]], [4, 3, 4])
    seen = (starts + 0.25 * (np.array(steps) - 1) - 3) / 2
    np.testing.assert_allclose(rows["observations"][:11, 0], seen, rtol=1e-6)
    np.testing.assert_allclose(rows["next_observations"][:11, 0], seen + 0.125, rtol=1e-6)  # never a reset's
    records = [record for _, record in exploration.finished]
    assert [record["length"] for record in records] == [4, 3, 4]
    assert [record["return"] for record in records] == [10, 6, 10]
    assert [record["success"] for record in records] == [False, True, True]
    assert [(record["step"], record["score"]) for record in records] == [(4, 100), (7, 60), (11, 100)]
    assert int(exploration._buffer.inserted[0]) == 12


def test_actions_are_the_policys_mean_and_noise_within_one(tmp_path):
    learner = make_learner([7])
    policy = learner.networks["policy"]
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([[-1.0, 0.5]]))
    exploration = explored(tmp_path, temperature=0.5, noise=0.25, learner=learner)
    for _ in range(70):  # more than a block of noise
        exploration.step([0])
    rows = rows_of(exploration)
    with torch.no_grad():
        mean = policy(torch.from_numpy(rows["observations"])[None])[0][0].numpy()
    noise = [learner.noise.normal(name, block, (64, ACTION_DIM))[0].numpy()
             for block in range(2) for name in ("exploration", "action_noise")]  # fmt: skip
    sample, added = np.concatenate([noise[0], noise[2]])[:70], np.concatenate([noise[1], noise[3]])[:70]
    expected = mean + 0.5 * np.exp([-1.0, 0.5]) * sample + 0.25 * added
    np.testing.assert_allclose(rows["actions"], expected.clip(-1, 1), atol=1e-5)
    assert (np.abs(rows["actions"]) == 1).any() and (np.abs(expected) < 1).mean() > 0.5
    assert abs(np.corrcoef(sample.ravel(), added.ravel())[0, 1]) < 0.2


def test_samples_have_the_probabilities_of_the_softmax():
    logits = torch.tensor([0.1, 0.3, 0.6]).log()
    uniform = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    policy = Categorical(logits.expand(20_000, 3))
    for temperature, expected in ((1.0, [0.1, 0.3, 0.6]), (0.5, [0.01 / 0.46, 0.09 / 0.46, 0.36 / 0.46])):
        share = policy.sample(uniform, temperature).mean(0)
        torch.testing.assert_close(share, torch.tensor(expected), atol=0.012, rtol=0)
    assert policy.sample(uniform, 0.0)[:, 2].all()
    mean = torch.ones(2, 3)
    assert Gaussian(mean, None).sample(torch.randn(3), 1.0) is mean


def test_a_categorical_policy_explores_with_one_hot_actions(tmp_path):
    exploration = explored(tmp_path, temperature=1000.0, learner=make_learner([0], networks=DISCRETE))
    for _ in range(40):
        exploration.step([0])
    actions = rows_of(exploration)["actions"]
    assert (actions.sum(1) == 1).all() and set(np.unique(actions)) == {0, 1} and 0 < actions[:, 0].mean() < 1


def test_a_member_explores_the_same_alone_and_in_a_pack(tmp_path):
    pack, alone = explored(tmp_path / "pack", (7, 8, 9)), explored(tmp_path / "alone", (8,))
    for _ in range(30):
        pack.step([0, 1, 2])
        alone.step([0])
    for name, column in rows_of(alone).items():
        assert np.array_equal(column, rows_of(pack, 1)[name])
        assert name in ("masks", "rewards") or not np.array_equal(column, rows_of(pack, 2)[name])


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("pack", "alone"):
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("steps", [9, 11, 12, 20])
def test_an_episode_in_progress_is_played_again_up_to_where_it_was(tmp_path, steps):
    undisturbed = explored(tmp_path / "alone")
    for _ in range(30):
        undisturbed.step([0])
    exploration = explored(tmp_path / "pack")
    for _ in range(steps):
        exploration.step([0])
    state = exploration.state(0)
    exploration.step([0])  # a row after the checkpoint
    exploration.state(0)
    begun = state["episode"]

    class FromThere(Scripted):
        def __init__(self):
            super().__init__()
            self.episodes = begun

    resumed = resumed_from(tmp_path / "pack", state, FromThere)
    assert resumed.steps == steps
    while resumed.steps < 30:
        resumed.step([0])
    for name, column in rows_of(undisturbed).items():
        assert np.array_equal(column, rows_of(resumed)[name])
    late = [record for _, record in undisturbed.finished if record["step"] > steps]
    assert [record for _, record in resumed.finished] == late
    assert resumed.facts(0) == {"steps": 30, "taken_back_rows": 0}


def test_where_an_environment_does_not_come_back_its_episode_begins_anew_and_its_rows_go(tmp_path):
    class Forgetful(Scripted):
        forgets = True

    exploration = explored(tmp_path, make=Forgetful)
    for _ in range(9):
        exploration.step([0])
    before, state = rows_of(exploration), exploration.state(0)
    assert state["length"] == 2
    resumed = resumed_from(tmp_path, state, Forgetful)
    assert resumed.facts(0) == {"steps": 9, "taken_back_rows": 2}
    assert int(resumed._buffer.inserted[0]) == 7
    resumed.step([0])
    after = rows_of(resumed)
    assert len(after["masks"]) == 8 and np.array_equal(after["actions"][:7], before["actions"][:7])
    assert resumed.state(0)["length"] == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [("raise", "step 2: raised ZeroDivisionError: the ice is melting"), ("nan", "step 2: the reward is nan")],
)
def test_a_member_whose_environment_fails_is_named_and_the_others_step_on(tmp_path, fault, words):
    made = iter([(), ((6, fault),), ()])

    class Failing(Scripted):
        def __init__(self):
            super().__init__()
            self.faults = next(made)

    exploration = explored(tmp_path, (7, 8, 9), make=Failing)
    for _ in range(6):
        assert not exploration.failures
        exploration.step([0, 1, 2])
    (line,) = exploration.failures.values()
    assert list(exploration.failures) == [1] and words in line and "episode 2" in line
    assert f"(seed {training_seed(8, 1)})" in line and "\n" not in line
    for _ in range(4):
        exploration.step([0, 2])
    assert [len(rows_of(exploration, place)["masks"]) for place in range(3)] == [10, 5, 10]


def test_a_runs_episodes_share_what_its_evaluations_share():
    (evaluated,) = episode_seeds(3, 100, 1, run_seeded=True)
    assert training_seed(3, 0, run_seeded=True) >> 31 == evaluated >> 31 > 0
    assert training_seed(3, 0, run_seeded=True) != evaluated
    assert training_seed(3, 0) < 1 << 31
