"""conf/env: every task composes, has D4RL's numbers, and the settings that the paper and CORL give it."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from iql.config.schema import SETTINGS_ONLY
from iql.envs.registry import SIMULATORS
from iql.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
D4RL = json.loads((Path(__file__).parents[1] / "d4rl_tasks.json").read_text())
TASKS = sorted([*D4RL, "maze2d-umaze-made", "maze2d-medium-stitch"])
TEMPLATES = {"hdf5", "minari", "ogbench"}  # for data that is not D4RL's
OTHERS = {"cartpole-made"}  # of discrete actions, tests/tasks/test_cartpole.py

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
SIZES = {"locomotion": 24, "antmaze": 12, "kitchen": 3, "adroit": 24, "maze2d": 6}  # tasks of a family
RECIPES = {  # tau, beta, dropout, rewards
    "locomotion": (0.7, 3.0, None, "return_range"),
    "antmaze": (0.9, 10.0, None, "minus_one"),
    "kitchen": (0.7, 0.5, 0.1, "none"),
    "adroit": (0.7, 0.5, 0.1, "none"),
    "maze2d": (0.7, 3.0, None, "none"),
}
PROTOCOLS = {  # updates between evaluations, episodes, headline
    "locomotion": (5000, 10, "last10"),
    "antmaze": (100_000, 100, "final"),
    "kitchen": (5000, 10, "last10"),
    "adroit": (5000, 10, "last10"),
    "maze2d": (5000, 10, "last10"),
}
CORL = {  # tau, beta, polyak, policy, dropout, rewards
    "locomotion": (0.7, 3.0, 0.005, "gaussian", None, "none"),
    "hopper-medium-v2": (0.7, 3.0, 0.001, "deterministic", None, "return_range"),
    "hopper-medium-replay-v2": (0.7, 3.0, 0.001, "deterministic", None, "return_range"),
    "hopper-medium-expert-v2": (0.5, 6.0, 0.005, "gaussian", None, "none"),
    "antmaze": (0.9, 10.0, 0.005, "gaussian", None, "minus_one"),
    "adroit": (0.8, 3.0, 0.005, "gaussian", 0.1, "none"),
    "maze2d": (0.7, 3.0, 0.005, "gaussian", None, "none"),
}
RECIPES_OF_OGBENCH = {  # beta, discount, default task
    "antmaze-large-navigate": (10.0, 0.99, 1),
    "antmaze-giant-navigate": (10.0, 0.995, 1),
    "humanoidmaze-medium-navigate": (10.0, 0.995, 1),
    "humanoidmaze-large-navigate": (10.0, 0.995, 1),
    "antsoccer-arena-navigate": (1.0, 0.995, 4),
    "cube-single-play": (1.0, 0.99, 2),
    "cube-double-play": (0.3, 0.99, 2),
    "scene-play": (10.0, 0.99, 2),
    "puzzle-3x3-play": (10.0, 0.99, 4),
    "puzzle-4x4-play": (3.0, 0.99, 4),
    "pointmaze-medium-navigate": (10.0, 0.99, 1),
    "pointmaze-large-navigate": (10.0, 0.99, 1),
    "pointmaze-giant-navigate": (10.0, 0.995, 1),
    "pointmaze-teleport-navigate": (10.0, 0.99, 1),
}
OGBENCH = [f"{data}-singletask-task{number}-v0" for data in RECIPES_OF_OGBENCH for number in range(1, 6)]
DEFAULTS = {f"{data}-singletask-v0": default for data, (_, _, default) in RECIPES_OF_OGBENCH.items()}
LOCOMOTION = ("hopper", "halfcheetah", "walker2d", "ant")


@cache
def env(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(overrides=["+algorithm=iql", "+network=mlp", f"+env={name}"])  # which it may override
    assert set(composed) == {"algorithm", "network", "env"}
    return cast(dict[str, Any], OmegaConf.to_container(composed.env, resolve=True))


def family(name: str) -> str:
    robot = name.split("-")[0]
    if robot in LOCOMOTION:
        return "locomotion"
    return robot if robot in ("antmaze", "kitchen", "maze2d") else "adroit"


def corl_has(name: str) -> bool:
    """CORL's configs/offline/iql: no ant, no kitchen, antmaze in version 2 and adroit in version 1 only."""
    if family(name) in ("antmaze", "adroit"):
        return name.endswith({"antmaze": "-v2", "adroit": "-v1"}[family(name)])
    return family(name) != "kitchen" and not name.startswith("ant-") and name != "maze2d-medium-stitch"


def simulator(name: str) -> str:
    """The simulator that a task's name spells: ant-random-v2 → ant, maze2d-umaze-dense-v1 → maze2d-umaze-dense."""
    parts = name.split("-")
    if parts[0] in ("antmaze", "maze2d", "kitchen"):
        return "-".join(parts[:3] if {"dense", "stitch"} & set(parts) else parts[:2])
    return parts[0]


def test_the_tasks_are_all_there():
    assert {path.stem for path in (CONF / "env").glob("*.yaml")} == {*TASKS, *TEMPLATES, *OTHERS, *OGBENCH, *DEFAULTS}
    assert {kind: [family(name) for name in D4RL].count(kind) for kind in SIZES} == SIZES
    assert len(TASKS) == 71
    assert len(OGBENCH) == 50 + 20 and len(DEFAULTS) == 14


@pytest.mark.parametrize("name", TASKS)
def test_keys_are_the_constructors(name):
    node = {key: value for key, value in env(name).items() if key not in SETTINGS_ONLY["env"]}
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


def test_no_two_tasks_share_a_file():
    assert len({Path(env(name)["url"]).name for name in D4RL}) == len(D4RL)


@pytest.mark.parametrize("name", TASKS)
def test_sizes_are_the_simulators(name):
    node = env(name)
    assert node["simulator"] == simulator(name)
    entry = SIMULATORS[node["simulator"]]
    assert node["observation_dim"] == entry.observation_dim
    assert node["action_dim"] == entry.action_dim
    assert node["horizon"] == entry.horizon


@pytest.mark.parametrize("name", sorted(D4RL))
def test_settings_are_the_papers(name):
    node = env(name)
    recipe = node["recipe"]
    found = (recipe["tau"], recipe["beta"], recipe["dropout"], node["reward"])
    assert found == RECIPES[family(name)]
    protocol = (recipe["evaluation_every"], recipe["evaluation_episodes"], recipe["score"])
    assert protocol == PROTOCOLS[family(name)]
    assert recipe["updates"] == 1_000_000
    assert (node["physics"], node["normalize"], node["path"]) == ("d4rl", False, None)


@pytest.mark.parametrize("name", [name for name in TASKS if family(name) == "antmaze"])
def test_antmazes_goal_is_drawn_as_its_version_does(name):
    node = env(name)
    assert node["goal"] == {"v0": "run", "v2": "episode"}[name.rsplit("-", 1)[1]]
    assert node["horizon"] == (700 if "umaze" in name else 1000)


def test_antmazes_versions_differ_in_file_and_goal_alone():
    for name in (name for name in TASKS if name.startswith("antmaze") and name.endswith("-v0")):
        old, new = env(name), env(name.replace("-v0", "-v2"))
        differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        assert differing == {"name", "url", "goal", "corl", "xql", "rebrac"}


def test_adroits_versions_differ_in_file_and_rows_alone():
    for name in (name for name in TASKS if family(name) == "adroit" and name.endswith("-v0")):
        old, new = env(name), env(name.replace("-v0", "-v1"))
        differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        assert differing - {"rows"} == {"name", "url", "corl", "rebrac"}


@pytest.mark.parametrize("name", [name for name in TASKS if corl_has(name)])
def test_corls_settings_are_its_own(name):
    corl = env(name)["corl"]
    assert corl["normalize"] is True
    found = tuple(corl[key] for key in ("tau", "beta", "polyak", "policy", "dropout", "reward"))
    assert found == CORL.get(name, CORL[family(name)])


@pytest.mark.parametrize("name", [name for name in TASKS if not corl_has(name)])
def test_no_settings_are_put_into_corls_mouth(name):
    assert "corl" not in env(name)


@pytest.mark.parametrize("name", ["ant-medium-v2", "antmaze-umaze-v0", "kitchen-mixed-v0", "door-human-v0"])
def test_corls_preset_is_refused_where_corl_has_no_settings(name):
    from iql.config.settings import read

    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [f"env={name}", "preset=corl"])
    with pytest.raises(UserError, match="CORL has no settings for this env"):
        read(composed)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_makes_a_run(name):
    """The whole configuration resolves, is valid, and takes the task's settings over."""
    from iql.config.settings import read

    with initialize_config_dir(str(CONF), version_base="1.3"):
        (settings,) = read(compose("config", [f"env={name}"]))
    recipe = env(name)["recipe"]
    assert settings["algorithm"]["tau"] == recipe["tau"]
    assert settings["algorithm"]["beta"] == recipe["beta"]
    assert settings["network"]["policy"]["dropout"] == recipe["dropout"]
    assert settings["evaluation"]["headline"] == recipe["score"]


def test_d4rls_small_maze_has_data_of_its_own():
    made, theirs = env("maze2d-umaze-made"), env("maze2d-umaze-v1")
    differing = {key for key in made.keys() | theirs.keys() if made.get(key) != theirs.get(key)}
    assert differing == {"_target_", "name", "url", "made_rows", "made_seed", "recipe"}
    assert (made["url"], made["made_rows"], made["made_seed"]) == (None, 200_000, 0)
    assert made["recipe"] == theirs["recipe"] | {
        "updates": 20_000, "evaluation_every": 2000, "evaluation_episodes": 50, "score": "final",
    }  # fmt: skip


@pytest.mark.parametrize("name", OGBENCH)
def test_ogbenchs_tasks_have_the_settings_of_its_comparison(name):
    from iql.config.settings import read

    with initialize_config_dir(str(CONF), version_base="1.3"):
        (settings,) = read(compose("config", [f"env={name}"]))
    beta, discount, _ = RECIPES_OF_OGBENCH[name.partition("-singletask")[0]]
    found = tuple(settings["algorithm"][key] for key in ("tau", "beta", "discount", "polyak"))
    assert found == (0.9, beta, discount, 0.005)
    assert settings["updates"] == 1_000_000 and settings["batch_size"] == 256 and settings["optimizer"]["lr"] == 3e-4
    protocol = tuple(settings["evaluation"][key] for key in ("every", "episodes", "headline"))
    assert protocol == (100_000, 50, "last3")
    node = settings["env"]
    assert (node["name"], node["dataset"], node["success_timing"], node["reward"]) == (name, name, "post", "none")


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_short_name_is_that_of_the_default_task(name):
    assert env(name) == env(name.replace("-v0", f"-task{DEFAULTS[name]}-v0"))


@pytest.mark.parametrize("algorithm", ["iql", "xql", "sql", "eql", "td3_bc", "awac", "rebrac"])
def test_every_algorithm_takes_a_tasks_discount(algorithm):
    from iql.config.settings import read

    for name, discount in (("antmaze-giant-navigate-singletask-v0", 0.995), ("hopper-medium-v2", 0.99)):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            (settings,) = read(compose("config", [f"env={name}", f"algorithm={algorithm}"]))
        assert settings["algorithm"]["discount"] == discount
