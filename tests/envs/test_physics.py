"""The simulators against traces of the real legacy stack (gym, mujoco-py, MuJoCo 2.1.0), and D4RL's rules.

Each trace in physics/*.npz holds steps recorded there, every one from a stored state.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from iql.envs.d4rl import mujoco_versions, physics
from iql.envs.registry import SIMULATORS, make
from iql.errors import UserError

TRACES = Path(__file__).parents[1] / "physics"
ROOT = Path(__file__).parents[2]
LOCOMOTION = ("hopper", "halfcheetah", "walker2d")
MAZES = ("maze2d-umaze", "maze2d-medium", "maze2d-large", "antmaze-umaze", "antmaze-medium", "antmaze-large")
TRACED = {
    **{f"{name}-v2": name for name in (*LOCOMOTION, "ant")},
    **{f"expert_{name}-v2": name for name in LOCOMOTION},
    **{name: name for name in (*MAZES, "door", "hammer", "pen", "relocate")},
    "maze2d-large-walls": "maze2d-large",
}


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(TRACES / f"{name}.npz") as file:
        return dict(file)


def prepared(simulator: str, trace: dict[str, np.ndarray], profile: str = "d4rl") -> Any:
    """The bare simulator, with the trace's door, board, target or goal where it has one."""
    env: Any = make(simulator, profile).unwrapped
    env.reset(seed=0)
    state = {key.removeprefix("state_"): trace[key] for key in trace if key.startswith("state_")}
    if state:
        if simulator == "hammer":
            state.pop("target_pos")  # follows from the board
        env.set_env_state(state)
    if simulator.startswith("antmaze-"):
        env.goal = trace["target"]
    return env


def step_errors(env: Any, trace: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest absolute difference per field over all steps, each from the recorded state."""
    errors = dict.fromkeys(("qpos", "qvel", "observation", "reward", "done"), 0.0)
    for row, action in enumerate(trace["action"]):
        env.set_state(trace["qpos"][row], trace["qvel"][row])
        observation, reward, terminated, truncated, _ = env.step(action)
        found = {
            "qpos": env.data.qpos - trace["next_qpos"][row],
            "qvel": env.data.qvel - trace["next_qvel"][row],
            "reward": reward - trace["reward"][row],
            "done": float(terminated or truncated) - float(trace["done"][row]),
        }
        if "observation" in trace:
            found["observation"] = observation - trace["observation"][row]
        errors = {key: max(errors[key], float(np.max(np.abs(found.get(key, 0.0))))) for key in errors}
    return errors


def exact(simulator: str) -> bool:
    """Whether the table says so for the installed mujoco."""
    return mujoco_versions.is_exact(simulator, mujoco.__version__)


@pytest.mark.parametrize("family", sorted({mujoco_versions.family(simulator) for simulator in TRACED.values()}))
def test_every_recorded_step_is_taken_as_the_legacy_stack_took_it(family):
    """... on the versions of mujoco that the table names for the family, and on no other."""
    errors = {}
    for name, simulator in TRACED.items():
        if mujoco_versions.family(simulator) == family:
            trace = load(name)
            errors[name] = step_errors(prepared(simulator, trace), trace)
    worst = max(max(each.values()) for each in errors.values())
    assert (worst < 1e-8) == exact(family), errors


def test_a_resting_ant_creeps_a_little_differently():
    """The one place known where a step is not the legacy stack's: an ant that lies still under constant torques slides
    at some 1e-6 m/s, at another speed in each. No setting of the solver was found that explains it."""
    trace = load("ant-v2-resting")
    errors = step_errors(prepared("ant", trace), trace)
    assert errors.pop("done") == 0
    assert max(errors.values()) < (2e-6 if exact("ant") else 2e-4), errors


@pytest.mark.parametrize("name", ["umaze", "medium", "large"])
def test_the_antmaze_traces_have_ants_at_walls_and_at_the_goal(name):
    """So that the test above says something of both."""
    trace = load(f"antmaze-{name}")
    env = prepared(f"antmaze-{name}", trace)
    touching = 0
    for qpos, qvel in zip(trace["qpos"], trace["qvel"], strict=True):
        env.set_state(qpos, qvel)
        touching += bool(touched_walls(env))
    assert touching > 5
    assert trace["reward"].sum() > 10
    np.testing.assert_array_equal(trace["reward"] == 1, trace["done"])


def test_the_dense_maze2d_rewards_as_the_legacy_stack_did():
    trace = load("maze2d-large-walls")
    trace["reward"] = trace["reward_dense"]
    errors = step_errors(prepared("maze2d-large-dense", trace), trace)
    assert errors["done"] == 0
    assert errors["reward"] < 1e-12
    assert np.ptp(trace["reward"]) > 0.5


@pytest.mark.parametrize("name", [name for name in TRACED if not name.startswith("expert_")])
def test_bodies_have_the_masses_of_mujoco_210(name):
    trace = load(name)
    model = prepared(TRACED[name], trace).model
    for field in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        np.testing.assert_allclose(getattr(model, field), trace[f"model_{field}"], rtol=0, atol=1e-12)


def touched_walls(env: Any) -> set[str]:
    """Names of the wall geoms that anything of an antmaze is in contact with."""
    pairs = env.data.contact.geom[: env.data.ncon].ravel()
    return {name for name in (env.model.geom(geom).name for geom in pairs) if name.startswith("wall_")}


def replay(env: Any, trace: dict[str, np.ndarray], episode: int, steps: int) -> tuple[float, float]:
    """Recorded actions from the episode's start without looking back: return, and largest state error."""
    nq = env.model.nq
    env.reset(seed=episode)
    start = trace["episode_start"][episode]
    env.set_state(start[:nq], start[nq:])
    total, error = 0.0, 0.0
    for row in np.flatnonzero(trace["episode"] == episode)[:steps]:
        _, reward, terminated, _, _ = env.step(trace["action"][row])
        assert terminated == trace["done"][row]
        total += float(reward)
        error = max(
            error,
            np.abs(env.data.qpos - trace["next_qpos"][row]).max(),
            np.abs(env.data.qvel - trace["next_qvel"][row]).max(),
        )
    return total, error


@pytest.mark.parametrize("name", ["hopper", "walker2d"])
def test_the_experts_first_episode_replayed_open_loop_has_the_recorded_return(name):
    """1000 steps without ever going back to a recorded state; the other nine are recorded for 100."""
    trace = load(f"expert_{name}-v2")
    env = make(name).unwrapped
    total, _ = replay(env, trace, 0, 1000)
    assert total == pytest.approx(trace["episode_returns"][0], abs=1e-3)
    for episode in range(1, 10):
        assert replay(env, trace, episode, 100)[1] < (1e-10 if exact(name) else 1e-5)


def test_halfcheetah_replays_the_experts_starts_until_chaos_takes_over():
    """Its errors grow from 1e-15 by an order of magnitude every few steps: no return can be compared."""
    trace = load("expert_halfcheetah-v2")
    env = make("halfcheetah").unwrapped
    for episode in range(10):
        assert replay(env, trace, episode, 30)[1] < 1e-5


@pytest.mark.parametrize("name", LOCOMOTION)
def test_the_experts_return_is_the_sum_of_our_rewards_along_its_recorded_states(name):
    trace = load(f"expert_{name}-v2")
    env = prepared(name, trace)
    total = 0.0
    for row in np.flatnonzero(trace["episode"] == 0):
        env.set_state(trace["qpos"][row], trace["qvel"][row])
        total += float(env.step(trace["action"][row])[1])
    assert total == pytest.approx(trace["episode_returns"][0], abs=1e-8)


@pytest.mark.parametrize("name", [*(f"{name}-v2" for name in (*LOCOMOTION, "ant")), *MAZES])
def test_the_gymnasium_profile_moves_differently(name):
    """In maze2d at walls only: so the traces do touch them, maze2d-large's in its second file."""
    trace = load("maze2d-large-walls" if name == "maze2d-large" else name)
    assert step_errors(prepared(TRACED[name], trace, "gymnasium"), trace)["qvel"] > 1e-2


def test_the_gymnasium_profile_is_the_v4_environment_as_it_comes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of v4 being old
        theirs = gymnasium.make("Hopper-v4")
    ours = make("hopper", "gymnasium")
    for env in (ours, theirs):
        env.action_space.seed(0)
    np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    for _ in range(10):
        mine, upstream = ours.step(ours.action_space.sample()), theirs.step(theirs.action_space.sample())
        for one, other in zip(mine[:4], upstream[:4], strict=True):
            np.testing.assert_array_equal(one, other)


def test_adroits_profiles_are_the_same_where_it_moves_as_in_mujoco_210_already():
    trace = load("pen")
    same = mujoco.__version__ in ("3.1.6", "3.2.6", "3.2.7")
    assert (step_errors(prepared("pen", trace, "gymnasium"), trace)["qvel"] < 1e-8) == same


# Rules: sizes, ends, horizons, seeds


@pytest.mark.parametrize("name", SIMULATORS)
def test_spaces_are_as_listed(name):
    env, entry = make(name), SIMULATORS[name]
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (entry.observation_dim,)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (entry.action_dim,), np.float32)


@pytest.mark.parametrize("name", SIMULATORS)
def test_an_episode_is_truncated_at_the_horizon_and_not_before(name):
    env = make(name)
    env.reset(seed=0)
    qpos, qvel = env.unwrapped.data.qpos.copy(), env.unwrapped.data.qvel.copy()
    ends = []
    for _ in range(SIMULATORS[name].horizon):
        env.unwrapped.set_state(qpos, qvel)  # nobody falls, nothing is dropped
        _, _, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        assert not terminated
        ends.append(truncated)
    assert ends == [False] * (SIMULATORS[name].horizon - 1) + [True]


@pytest.mark.parametrize("name", SIMULATORS)
def test_a_seed_determines_the_episode_whatever_came_before(name):
    used, fresh = make(name), make(name)
    actions = np.random.default_rng(1).uniform(-1, 1, (15, SIMULATORS[name].action_dim)).astype(np.float32)
    used.reset(seed=8)
    for action in actions:
        used.step(action)
    np.testing.assert_array_equal(used.reset(seed=7)[0], fresh.reset(seed=7)[0])
    for action in actions:
        for one, other in zip(used.step(action)[:4], fresh.step(action)[:4], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(fresh.reset(seed=8)[0], fresh.reset(seed=9)[0])


@pytest.mark.parametrize(
    ("name", "noise"), [("hopper", 0.005), ("walker2d", 0.005), ("halfcheetah", 0.1), ("ant", 0.1)]
)
def test_locomotion_starts_around_the_standing_pose(name, noise):
    env = make(name)
    starts = []
    for seed in range(200):
        env.reset(seed=seed)
        data = env.unwrapped.data
        starts.append((data.qpos - env.unwrapped.init_qpos, data.qvel.copy()))
    qpos, qvel = (np.array(part) for part in zip(*starts, strict=True))
    if name == "ant":  # its quaternion, drawn ± noise too, is normalised
        qpos = np.delete(qpos, [3, 4, 5, 6], axis=1)
    assert 0.9 * noise < np.abs(qpos).max() <= noise
    if name in ("halfcheetah", "ant"):
        assert qvel.std() == pytest.approx(noise, rel=0.1)
        assert np.abs(qvel).max() > 2 * noise
    else:
        assert 0.9 * noise < np.abs(qvel).max() <= noise


def test_adroit_starts_with_its_objects_in_d4rls_ranges():
    ranges = {
        "door": ("body_pos", "frame", [(-0.3, -0.2), (0.25, 0.35), (0.252, 0.35)]),
        "hammer": ("body_pos", "nail_board", [(0.05, 0.05), (0.0, 0.0), (0.1, 0.25)]),
        "relocate": ("site_pos", "target", [(-0.2, 0.2), (-0.2, 0.2), (0.15, 0.35)]),
    }
    for name, (field, of, bounds) in ranges.items():
        env = make(name)
        placed = []
        for seed in range(60):
            env.reset(seed=seed)
            model = env.unwrapped.model
            index = model.body(of).id if field == "body_pos" else model.site(of).id
            placed.append(getattr(model, field)[index].copy())
            np.testing.assert_array_equal(env.unwrapped.data.qpos, env.unwrapped.init_qpos)
            assert not env.unwrapped.data.qvel.any()
        for axis, (low, high) in zip(np.array(placed).T, bounds, strict=True):
            assert low <= axis.min() <= low + 0.1 * (high - low)
            assert high - 0.1 * (high - low) <= axis.max() <= high


def test_pens_targets_are_tilted_by_up_to_a_radian_about_two_axes():
    env = make("pen")
    targets = np.array([env.reset(seed=seed)[0][36:39] for seed in range(60)])
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1.0, atol=1e-6)
    assert targets.std(axis=0).min() > 0.1


def test_a_dropped_pen_costs_five_and_ends_the_episode():
    env = make("pen")
    env.reset(seed=0)
    bare = env.unwrapped
    qpos = bare.data.qpos.copy()
    qpos[bare.model.joint("OBJTx").qposadr] += 0.3  # its slide that points down
    bare.set_state(qpos, np.zeros_like(bare.data.qvel))
    _, reward, terminated, truncated, _ = env.step(np.zeros(24, np.float32))
    assert terminated and not truncated
    assert -8 < reward < -4


@pytest.mark.parametrize(
    ("name", "palm", "thing"),
    [
        ("door", "S_grasp", lambda env: env.data.site("S_handle").xpos),
        ("hammer", "S_grasp", lambda env: env.data.body("Object").xpos),
        ("relocate", "S_grasp", lambda env: env.data.body("Object").xpos),
    ],
)
def test_adroits_reward_is_upstreams_with_the_palms_distance_counted_down(name, palm, thing):
    """Upstream adds .1 per metre that D4RL subtracts; all else, bonuses included, is the same."""
    env = make(name, "gymnasium").unwrapped  # upstream's contacts on whatever mujoco is installed
    upstream = type(env).__mro__[1]()
    draws = np.random.default_rng(0)
    values = []
    for seed in range(40):
        env.reset(seed=seed)
        upstream.reset(seed=seed)
        qpos = env.data.qpos.copy()
        if name == "door":
            qpos[-2] = draws.uniform(0, 1.57)  # the hinge
        elif name == "hammer":
            qpos[26] = draws.uniform(0.0, 0.09)  # the nail
            qpos[-4] += 0.1 * (seed % 2)  # the hammer's height
        else:  # the ball on the table, in the air, or near its target
            to_target = env.data.site("target").xpos - env.data.body("Object").xpos
            qpos[30:33] += [np.zeros(3), [0, 0, 0.1], to_target * 0.8, to_target][seed % 4]
        for each in (env, upstream):
            each.set_state(qpos, np.zeros_like(env.data.qvel))
        action = draws.uniform(-1, 1, env.action_space.shape)
        reward, other = env.step(action)[1], upstream.step(action)[1]
        distance = np.linalg.norm(env.data.site(palm).xpos - thing(env))
        assert reward == pytest.approx(other - 0.2 * distance, abs=1e-10)
        values.append(reward)
    assert max(values) > 8 and min(values) < 0


# Names, versions, imports


@pytest.mark.parametrize(("wrong", "right"), [("hoper", "hopper"), ("maze2d-umase", "maze2d-umaze")])
def test_an_unknown_simulator_is_answered_with_the_nearest(wrong, right):
    with pytest.raises(UserError, match=f"nearest: {right}"):
        make(wrong)


def test_an_unknown_profile_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="d4rl or gymnasium"):
        make("hopper", "mujoco")


def test_facts_name_version_profile_and_exactness_and_warn_once_for_each_family(monkeypatch, caplog):
    version = mujoco.__version__
    assert physics.facts("d4rl", "hopper") == {"mujoco": version, "physics": "d4rl", "exact_physics": True}
    assert not caplog.records
    monkeypatch.setattr(mujoco, "__version__", "3.10.0")
    inexact = {"mujoco": "3.10.0", "physics": "d4rl", "exact_physics": False}
    with caplog.at_level(logging.WARNING):
        assert physics.facts("gymnasium", "antmaze-umaze") == {**inexact, "physics": "gymnasium", "exact_physics": None}
        assert physics.facts("d4rl", "pen") == {**inexact, "exact_physics": True}
        assert not caplog.records
        assert physics.facts("d4rl", "antmaze-umaze") == physics.facts("d4rl", "antmaze-large") == inexact
    (record,) = caplog.records
    assert "mujoco 3.10.0 is installed, on which antmaze was not shown to move as D4RL's" in record.getMessage()
    assert "it was on 3.1.6, 3.2.6" in record.getMessage()


def test_a_version_that_nobody_measured_is_exact_for_nothing():
    assert not any(mujoco_versions.is_exact(simulator, "3.2.3") for simulator in SIMULATORS)
    assert {mujoco_versions.family(simulator) for simulator in SIMULATORS} == set(mujoco_versions.EXACT)


def test_simulators_are_made_without_a_word_and_import_only_their_own_family():
    program = """
import sys
from iql.envs.registry import make
make("hopper"), make("maze2d-umaze")
assert "gymnasium_robotics" not in sys.modules
make("pen")
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
