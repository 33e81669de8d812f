"""conf/env: every task composes, has D4RL's numbers, and the settings that the paper and CORL give it."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from iql.tasks.simulators import SIMULATORS

CONF = Path(__file__).parents[1] / "conf"
TASKS = sorted(path.stem for path in (CONF / "env").glob("*.yaml"))
D4RL = json.loads((Path(__file__).parent / "d4rl_tasks.json").read_text())

ROWS = {
    "hopper-medium-v2": 999_906,
    "halfcheetah-medium-v2": 1_000_000,
    "hopper-medium-replay-v2": 402_000,
    "walker2d-medium-replay-v2": 302_000,
    "halfcheetah-medium-replay-v2": 202_000,
    "door-human-v1": 6_729,
    "pen-human-v1": 5_000,
    "hammer-human-v1": 11_310,
    "relocate-human-v1": 9_942,
}
RECIPES = {  # tau, beta, dropout, rewards
    "locomotion": (0.7, 3.0, None, "return_range"),
    "adroit": (0.7, 0.5, 0.1, "none"),
    "maze2d": (0.7, 3.0, None, "none"),
}
CORL = {  # tau, beta, polyak, policy, dropout, rewards
    "locomotion": (0.7, 3.0, 0.005, "gaussian", None, "none"),
    "hopper-medium-v2": (0.7, 3.0, 0.001, "deterministic", None, "return_range"),
    "hopper-medium-replay-v2": (0.7, 3.0, 0.001, "deterministic", None, "return_range"),
    "hopper-medium-expert-v2": (0.5, 6.0, 0.005, "gaussian", None, "none"),
    "adroit": (0.8, 3.0, 0.005, "gaussian", 0.1, "none"),
    "maze2d": (0.7, 3.0, 0.005, "gaussian", None, "none"),
}


@cache
def env(name: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(f"env/{name}")
    assert list(composed) == ["env"]
    return cast(dict, OmegaConf.to_container(composed.env, resolve=True))


def family(name: str) -> str:
    robot = name.split("-")[0]
    return {"hopper": "locomotion", "halfcheetah": "locomotion", "walker2d": "locomotion"}.get(
        robot, "maze2d" if robot == "maze2d" else "adroit"
    )


def test_the_tasks_are_all_there():
    assert sorted([*D4RL, "maze2d-umaze-made"]) == TASKS
    assert len(TASKS) == 9 + 12 + 3 + 1


@pytest.mark.parametrize("name", TASKS)
def test_keys_are_the_constructors(name):
    node = dict(env(name))
    del node["recipe"], node["corl"]
    target = get_class(node.pop("_target_"))
    inspect.signature(target).bind(**node)
    task = target(**node)
    assert task.name == name


@pytest.mark.parametrize("name", sorted(D4RL))
def test_url_and_reference_returns_are_d4rls(name):
    node = env(name)
    assert node["url"] == D4RL[name]["url"]
    assert node["ref_min"] == D4RL[name]["ref_min_score"]
    assert node["ref_max"] == D4RL[name]["ref_max_score"]
    assert node["rows"] == ROWS.get(name)


@pytest.mark.parametrize("name", TASKS)
def test_sizes_are_the_simulators(name):
    node = env(name)
    simulator = SIMULATORS[node["simulator"]]
    assert node["simulator"] in name
    assert node["observation_dim"] == simulator.observation_dim
    assert node["action_dim"] == simulator.action_dim
    assert node["horizon"] == simulator.horizon


@pytest.mark.parametrize("name", sorted(D4RL))
def test_settings_are_the_papers(name):
    node = env(name)
    recipe = node["recipe"]
    found = (recipe["tau"], recipe["beta"], recipe["dropout"], node["reward"])
    assert found == RECIPES[family(name)]
    assert (recipe["updates"], recipe["score"]) == (1_000_000, "last10")
    assert (recipe["evaluation_every"], recipe["evaluation_episodes"]) == (5000, 10)
    assert node["normalize"] is False


@pytest.mark.parametrize("name", TASKS)
def test_corls_settings_are_its_own(name):
    corl = env(name)["corl"]
    assert corl["normalize"] is True
    found = tuple(corl[key] for key in ("tau", "beta", "polyak", "policy", "dropout", "reward"))
    assert found == CORL.get(name, CORL[family(name)])


def test_the_embedded_default_is_d4rls_small_maze_with_data_of_its_own():
    made, theirs = env("maze2d-umaze-made"), env("maze2d-umaze-v1")
    differing = {key for key in made.keys() | theirs.keys() if made.get(key) != theirs.get(key)}
    assert differing == {"_target_", "name", "url", "made_rows", "made_seed", "recipe"}
    assert (made["url"], made["made_rows"], made["made_seed"]) == (None, 200_000, 0)
    assert made["recipe"] == theirs["recipe"] | {
        "updates": 20_000, "evaluation_every": 2000, "evaluation_episodes": 50, "score": "final",
    }  # fmt: skip
