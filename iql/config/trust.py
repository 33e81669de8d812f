"""What a file may name: the project's own classes with plain values, checked before anything is imported or called.

A run directory, a policy or a sweep's folder may come from somebody else. A class of the user's own is made from such
a file only where the user says at that call that the file is trusted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from iql.config.class_names import MOVED
from iql.errors import UserError

NETWORKS = frozenset(
    {
        "iql.networks.critics.Value",
        "iql.networks.critics.TwinQ",
        "iql.networks.critics.DiscreteTwinQ",
        "iql.networks.actors.Policy",
        "iql.networks.actors.CategoricalPolicy",
    }
)
TASKS = frozenset(
    {
        "iql.tasks.d4rl.D4RLTask",
        "iql.tasks.d4rl.AntMazeTask",
        "iql.tasks.generated.MadeMaze2d",
        "iql.tasks.cartpole.MadeCartPole",
        "iql.tasks.file.FileTask",
        "iql.tasks.minari.MinariTask",
        "iql.tasks.ogbench.OGBenchTask",
    }
)
_TRACKERS = ("iql.tracking.WandbTracker", "iql.tracking.TensorBoardTracker")
LAUNCHERS = frozenset({"iql.launching.local.LocalLauncher", "iql.launching.slurm.SlurmLauncher"})
IQL = "iql.algorithms.iql.IQL"
ALGORITHMS = frozenset(
    {
        IQL,
        "iql.algorithms.iql_fql.FQLIQL",
        "iql.algorithms.bc.BC",
        "iql.algorithms.sql.SQL",
        "iql.algorithms.eql.EQL",
        "iql.algorithms.xql.XQL",
        "iql.algorithms.td3_bc.TD3BC",
        "iql.algorithms.rebrac.ReBRAC",
        "iql.algorithms.awac.AWAC",
    }
)
CONFIGURED = ALGORITHMS | NETWORKS | TASKS | LAUNCHERS | {"torch.optim.Adam", *_TRACKERS, *MOVED}
"""Every class that the project's own configuration makes, also by the names of earlier versions."""

ENTRIES = {"iql.commands.train:job": "iql.commands.train:job", "train:job": "iql.commands.train:job"}
"""Functions that a job's line may name, also by the names of earlier versions, as pkgutil.resolve_name reads them."""

HOW = "if you trust whoever made it, say so: trust=True in Python, --trust on the command line"

_PLAIN = (str, int, float, bool, type(None))


def factory(node: Any, own: Collection[str], source: str, trust: bool = False) -> Callable[..., Any]:
    """The class that a section of a file names, with its arguments bound.

    own     the dotted names that are allowed
    source  the file and what it is read for: the beginning of an error's line
    trust   whether any class may be imported, and sections within arguments become objects too

    Raises UserError, before anything is imported, for any other class and for arguments that are not plain values
    (numbers, texts, true, false, null, flat lists and sections of them); and for a class that cannot be imported.
    """
    target = node.get("_target_") if isinstance(node, dict) else None
    if not isinstance(target, str):
        raise UserError(f"{source}: is no section with a _target_, the class to make; the file is damaged")
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    if trust:
        return partial(_imported(target), **{key: _made(value) for key, value in arguments.items()})
    foreign = [target] if target not in own else list(_named(arguments))
    if foreign:
        raise UserError(f"{source}: would run {foreign[0]}, which is not a class of this project's own; {HOW}")
    for key, value in arguments.items():
        if not _is_plain({key: value}, depth=3):
            raise UserError(f"{source}: {key} is not a plain value of {target}; the file is damaged")
    return partial(_imported(target), **arguments)


def made(node: Any, own: Collection[str], source: str, trust: bool = False) -> Any:
    """The object that a section of a file names, as in `factory`. Raises UserError, for wrong arguments too."""
    make = factory(node, own, source, trust)
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise UserError(f"{source} cannot be made of what the file says ({error})") from error


def check_settings(settings: Any, source: str) -> None:
    """Raise UserError if the settings of runs, as a file holds them, name a class or module of somebody else's."""
    for target in _named(settings):
        if target not in CONFIGURED:
            raise UserError(f"{source}: would run {target}, which is not a class of this project's own; {HOW}")
    for gym_id in _named(settings, "gym_id"):
        check_environment(gym_id, source)


def check_environment(gym_id: str, source: str) -> None:
    """Raise UserError for an environment's id that names a module to be imported."""
    if ":" in gym_id:
        raise UserError(f"{source}: would import the module of the environment {gym_id}; {HOW}")


def entry_point(name: Any, source: str) -> str:
    """The entry point of this project's own that `name` stands for. Raises UserError for any other."""
    if not isinstance(name, str) or name not in ENTRIES:
        raise UserError(f"{source}: names {name!r} to be called, which is no entry point of this project's own")
    return ENTRIES[name]


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is plain, or a list or section of such, at most `depth` of them in each other."""
    if isinstance(value, dict):
        named = all(isinstance(name, str) and not name.startswith("_") for name in value)
        return depth > 0 and named and all(_is_plain(part, depth - 1) for part in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(part, 0) for part in value)
    return isinstance(value, _PLAIN)


def _named(value: Any, key: str = "_target_") -> Iterator[str]:
    """What stands under a key within a value, at any depth; what several places share is looked at once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict | list | tuple) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict) and key in part:
            yield str(part[key])
        waiting.extend(part.values() if isinstance(part, dict) else part)


def _made(value: Any) -> Any:
    """What Hydra would make of a setting: an object where it has a _target_."""
    if isinstance(value, dict):
        made = {key: _made(part) for key, part in value.items() if key != "_target_"}
        return _imported(value["_target_"])(**made) if "_target_" in value else made
    return [_made(part) for part in value] if isinstance(value, list) else value


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{target} cannot be imported ({error}): put its module on PYTHONPATH") from error
