"""The tasks of conf/env by name, without the rest of a run's configuration; nothing here imports torch.

For commands that need only a task; iql.config.settings reads a run's whole configuration.
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

from iql.config.folders import CONF, searched
from iql.config.schema import constructor_arguments
from iql.config.trust import TASKS, check_environment, made
from iql.config.validation import composition_problem, target_problems
from iql.errors import UserError
from iql.system import data_cache

OWN_DATA = ("hdf5", "minari", "ogbench")
"""Options of env for data that the user names, which are no tasks by themselves."""

AT_ONCE = 20
"""Tasks that are composed at once."""


def names() -> list[str]:
    """Every task that has data of its own, sorted."""
    found = {path.stem for folder in searched() for path in (folder / "env").glob("*.yaml")}
    return sorted(found - set(OWN_DATA))


def matching(pattern: str) -> list[str]:
    """The tasks that match a name or a shell pattern (antmaze-*-v2). Raises UserError if there is none."""
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

    Several are composed at once: one at a time costs more, as do many, with the square of their number. Raises
    UserError.
    """
    nodes = [
        node for first in range(0, len(requests), AT_ONCE) for node in _composed(requests[first : first + AT_ONCE])
    ]
    if problems := [problem for node in nodes for problem in target_problems("env", node)]:
        raise UserError("; ".join(dict.fromkeys(problems)))
    return nodes


def _composed(requests: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """As `settings`, without the schema's checks."""
    overrides = ["+algorithm=iql", "+network=mlp"]  # which an option of env may override; they are not looked at
    for index, (name, changes) in enumerate(requests):
        overrides.append(f"+env@task{index}={name}")
        overrides += [change.replace("env.", f"task{index}.", 1) for change in changes]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose(overrides=overrides)
        return [_resolved(composed[f"task{index}"]) for index in range(len(requests))]
    except Exception as error:
        problem = composition_problem(error)
        if problem is None and isinstance(error, OmegaConfBaseException):
            problem = str(error).split("\n")[0]
        if problem is None:
            raise
        if match := re.search(r"\btask(\d+)\.([\w.]+)", problem):
            problem = f"env.{match[2]} cannot be set so for {requests[int(match[1])][0]}, which may not have it"
        raise UserError(problem) from error


def task(node: dict[str, Any]) -> Any:
    """The task of an env section (iql.tasks.task.Task). Raises UserError for one that cannot be made."""
    try:
        return instantiate(constructor_arguments("env", node), _convert_="all")
    except Exception as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise


def recorded_task(manifest: dict[str, Any], source: str, trust: bool = False) -> Any:
    """The task of a run's manifest, which may be of unknown origin; source: the run, for error messages.

    trust: allow any class and environment that the manifest names, which runs their code. Otherwise raises UserError
    for a class that is not this project's own and for an environment whose module would be imported; in either case
    for a task that cannot be made.
    """
    env = manifest["settings"].get("env")
    node = constructor_arguments("env", env) if isinstance(env, dict) else env
    if not trust and isinstance(node, dict):
        check_environment(str(node.get("gym_id")), source)
    if isinstance(node, dict) and "trust" in node:  # trust is given for each call anew
        node = {**node, "trust": trust}
    return made(node, TASKS, f"{source}: its task", trust)


def cached_path(node: dict[str, Any]) -> Path | None:
    """The path in the cache of an env section's file, whether it exists or not; None for data kept elsewhere."""
    if node.get("made_rows"):
        variant = node.get("walk_steps"), node.get("made_random")
        return data_cache.generated_path(node["name"], node["made_rows"], node["made_seed"], *variant)
    url = url_of(node)
    return data_cache.cached_path(url) if url else None


def url_of(node: dict[str, Any]) -> str | None:
    """Where an env section's file is downloaded from; None if it is not."""
    if node["_target_"] == "iql.tasks.ogbench.OGBenchTask" and not node["url"] and node["dataset"]:
        return data_cache.ogbench_url(node["dataset"])
    return node.get("url")


def local_path(node: dict[str, Any]) -> Path | None:
    """The file of an env section, in the cache or its benchmark's folders; None if it is in none of them."""
    own = cached_path(node)
    if own is None:
        return None
    folders = [own.parent, *(data_cache.their_dirs(own.name) if url_of(node) else [])]
    return next((folder / own.name for folder in folders if (folder / own.name).is_file()), None)


def _resolved(section: DictConfig) -> dict[str, Any]:
    """A section that was composed under another name, resolved under env, to which its interpolations refer."""
    container = OmegaConf.to_container(OmegaConf.create({"env": section}), resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container["env"].items()}
