"""The tasks of conf/env by name, without the rest of a run's configuration; nothing here imports torch.

Scripts that are about data alone read their tasks here; a run's configuration is iql.config's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iql.complaints import composition_problem, target_problems
from iql.errors import UserError
from iql.schema import constructor_arguments
from iql.tasks import files
from iql.trust import TASKS, check_environment, made

CONF = Path(__file__).resolve().parents[1] / "conf"

OWN_DATA = ("hdf5", "minari")
"""Options of env that stand for whatever data the user names, and so are no tasks by themselves."""


def names() -> list[str]:
    """Every task that has data of its own, sorted."""
    return sorted(path.stem for path in (CONF / "env").glob("*.yaml") if path.stem not in OWN_DATA)


def matching(pattern: str) -> list[str]:
    """The tasks that a name or a shell pattern (antmaze-*-v2) means. Raises UserError if there is none."""
    known = names()
    if pattern in known or pattern in OWN_DATA:
        return [pattern]
    found = [name for name in known if fnmatchcase(name, pattern)]
    if found:
        return found
    what = "matches no task" if set(pattern) & set("*?[") else "is no task"
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else "python scripts/fetch.py --list shows them all"
    raise UserError(f"{pattern} {what}; {advice}")


def settings(requests: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """The resolved env section of every (name, overrides of env.*), in order, checked by the schema.

    All are composed at once: one at a time costs five times as much. Raises UserError.
    """
    overrides = []
    for index, (name, changes) in enumerate(requests):
        overrides.append(f"+env@task{index}={name}")
        overrides += [change.replace("env.", f"task{index}.", 1) for change in changes]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose(overrides=overrides)
        nodes = [_resolved(composed[f"task{index}"]) for index in range(len(requests))]
    except Exception as error:
        problem = composition_problem(error)
        if problem is None and isinstance(error, OmegaConfBaseException):
            problem = str(error).split("\n")[0]
        if problem is None:
            raise
        if match := re.search(r"\btask(\d+)\.([\w.]+)", problem):
            problem = f"env.{match[2]} cannot be set so for {requests[int(match[1])][0]}, which may not have it"
        raise UserError(problem) from error
    if problems := [problem for node in nodes for problem in target_problems("env", node)]:
        raise UserError("; ".join(dict.fromkeys(problems)))
    return nodes


def task(node: dict[str, Any]) -> Any:
    """The task of an env section (iql.tasks.Task). Raises UserError for one that cannot be."""
    try:
        return instantiate(constructor_arguments("env", node), _convert_="all")
    except Exception as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise


def recorded_task(manifest: dict[str, Any], source: str, trust: bool = False) -> Any:
    """The task of a run's manifest, which may be somebody else's; source: the run, for an error's line.

    trust: make it of whatever class and environment it names, which runs their code. Raises UserError for one of
    another class than this project's own, an environment whose module would be imported, or one that cannot be.
    """
    env = manifest["settings"].get("env")
    node = constructor_arguments("env", env) if isinstance(env, dict) else env
    if not trust and isinstance(node, dict):
        check_environment(str(node.get("gym_id")), source)
    if isinstance(node, dict) and "trust" in node:  # what its user said then is not said now
        node = {**node, "trust": trust}
    return made(node, TASKS, f"{source}: its task", trust)


def own_place(node: dict[str, Any]) -> Path | None:
    """Where in the cache the file of an env section lies or would lie; None for one that is kept elsewhere."""
    if node.get("made_rows"):
        return files.place_of_made(node["name"], node["made_rows"], node["made_seed"], node.get("walk_steps"))
    return files.place(node["url"]) if node.get("url") else None


def place(node: dict[str, Any]) -> Path | None:
    """Where the file of an env section lies now: the cache or D4RL's folders; None if nowhere there."""
    own = own_place(node)
    if own is None:
        return None
    folders = [own.parent, *(files.d4rl_dirs() if node.get("url") else [])]
    return next((folder / own.name for folder in folders if (folder / own.name).is_file()), None)


def _resolved(section: DictConfig) -> dict[str, Any]:
    """A section that was composed under another name, back under env, where its interpolations look."""
    container = OmegaConf.to_container(OmegaConf.create({"env": section}), resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container["env"].items()}
