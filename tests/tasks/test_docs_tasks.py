"""docs/tasks.md: every cell of its tables is what conf/env says."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tasks.md").read_text()
SETTINGS = ["reward", "tau", "beta", "dropout", "evaluation"]
COLUMNS = ["env", "file", "rows", "sizes", "horizon", *SETTINGS, "random", "expert"]
PREFIXES = {  # first words of the names under a heading
    "Locomotion": ("hopper", "halfcheetah", "walker2d", "ant"),
    "AntMaze": ("antmaze",),
    "Kitchen": ("kitchen",),
    "Adroit": ("pen", "hammer", "door", "relocate"),
    "Maze2d": ("maze2d",),
}


@cache
def tables() -> dict[str, list[dict[str, str]]]:
    """Per heading the rows of its table of tasks, cells as they stand, by column."""
    found = {}
    for heading, text in re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL):
        lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
        if lines and lines[0][0].strip() == "env":
            header, _, *rows = ([cell.strip() for cell in line] for line in lines)
            found[heading] = [dict(zip(header, row, strict=True)) for row in rows]
    return found


ROWS = [row for rows in tables().values() for row in rows]


def number(value: float) -> str:
    return f"{value:g}"


def cells(name: str) -> dict[str, str]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        env: Any = OmegaConf.to_container(_env(name), resolve=True)
    recipe = env["recipe"]
    rows = env["rows"] or env.get("made_rows")
    return {
        "env": f"`{name}`",
        "file": f"`{Path(env['url']).name}`" if env["url"] else "made on the spot",
        "rows": f"{rows:,}" if rows else "–",
        "sizes": f"{env['observation_dim']} / {env['action_dim']}",
        "horizon": str(env["horizon"]),
        "reward": env["reward"],
        "tau": number(recipe["tau"]),
        "beta": number(recipe["beta"]),
        "dropout": number(recipe["dropout"]) if recipe["dropout"] else "–",
        "evaluation": f"{recipe['evaluation_episodes']} / {recipe['evaluation_every']:,}, {recipe['score']}",
        "random": f"{env['ref_min']:.2f}",
        "expert": f"{env['ref_max']:.2f}",
    }


def _env(name: str) -> Any:
    """A task's section; what it may override stands beside it."""
    return compose(overrides=["+algorithm=iql", "+network=mlp", f"+env={name}"]).env


def test_there_is_a_table_for_every_family_and_a_row_for_every_task():
    assert list(tables()) == list(PREFIXES)
    names = sorted(path.stem for path in (ROOT / "conf/env").glob("*.yaml"))
    tasks = [name for name in names if name.split("-")[0] in sum(PREFIXES.values(), ()) and "singletask" not in name]
    assert sorted(row["env"].strip("`") for row in ROWS) == tasks
    assert f"## The {len(tasks)} tasks" in PAGE


def test_a_task_stands_under_its_familys_heading():
    for heading, rows in tables().items():
        assert {row["env"].strip("`").split("-")[0] for row in rows} == set(PREFIXES[heading])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["env"].strip("`"))
def test_the_row_is_the_configuration(row):
    assert list(row) == COLUMNS
    assert row == cells(row["env"].strip("`"))


def test_the_table_of_ogbench_is_the_configuration():
    section = PAGE.partition("\n## OGBench\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")
    ]
    default = {path.stem for path in (ROOT / "conf/env").glob("*-singletask-v0.yaml")}
    assert sorted(f"{row[0].strip('`')}-singletask-v0" for row in rows) == sorted(default)
    for row in rows:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            env: Any = OmegaConf.to_container(_env(f"{row[0].strip('`')}-singletask-v0"), resolve=True)
        recipe = env["recipe"]
        assert row[1:] == [
            env["dataset"].removesuffix("-v0")[-1],
            f"{env['observation_dim']} / {env['action_dim']}",
            str(env["horizon"]),
            number(recipe["tau"]),
            number(recipe["beta"]),
            number(recipe["discount"]),
            f"{recipe['evaluation_episodes']} / {recipe['evaluation_every']:,}, {recipe['score']}",
        ]
