"""Turns a composed configuration into validated, plain settings; nothing here imports torch.

Other modules get dictionaries, never a DictConfig.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iql.config.class_names import current
from iql.config.coercion import coerced
from iql.config.schema import MEMBER_KEYS, Run, algorithm_schema, own_algorithms
from iql.config.trust import ALGORITHMS, IQL
from iql.config.validation import schema_problems, target_problems
from iql.errors import UserError

Settings = dict[str, Any]

_DISCRETE = {
    "iql.networks.critics.TwinQ": False,
    "iql.networks.critics.DiscreteTwinQ": True,
    "iql.networks.actors.Policy": False,
    "iql.networks.actors.CategoricalPolicy": True,
}
"""Whether our own networks are for discrete actions; nothing is known of a user's."""


def read(config: DictConfig) -> list[Settings]:
    """The settings of every member of the pack that a composed configuration describes.

    Raises UserError with a line for every key that is unknown, mistyped or out of range.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(_interpolation_problem(error)) from error
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    plain = current(plain)
    if isinstance(sweep := plain.get("sweep"), dict) and sweep.get("grid"):
        raise UserError(f"sweep={sweep['name']} is a grid of many runs: python sweep.py sweep={sweep['name']}")
    return [validated(member) for member in _members({str(key): value for key, value in plain.items()})]


def reference(settings: Settings, choices: Mapping[str, str]) -> list[str]:
    """The overrides of the configuration from which a run's name shows the differences.

    choices: option by group. It is the default of the run's env and finetune; for an algorithm of the project's other
    than IQL with that algorithm, so that its own defaults are no differences. What another option (bc_10) sets of it is
    a difference.
    """
    overrides = [f"env={choices['env']}"] if "env" in choices else []
    if settings.get("finetune") is not None:
        overrides.append(f"finetune={choices['finetune']}")
    target = settings["algorithm"]["_target_"]
    if target in ALGORITHMS - {IQL}:
        module, name = target.split(".")[-2:]
        chosen = choices.get("algorithm", module)  # none where the env's option chose it
        overrides.append(f"algorithm={chosen if chosen in (module, name.lower()) else module}")
    return overrides


def validated(settings: Settings) -> Settings:
    """Checked settings with the types of the schema and of the targets' signatures. Raises UserError."""
    problems = schema_problems(Run, settings, "")
    for place, node in _objects(settings):
        problems += target_problems(place, node)
    if problems := problems or _combination_problems(settings):
        raise UserError("\n".join(problems))
    if (settings.get("finetune") or {}).get("from") is not None:
        settings = {**settings, "updates": 0}  # its offline phase is that of another run
    return coerced(settings)


def check_data(settings: Settings, discrete: bool) -> None:
    """Raise UserError if the data's actions are of another kind than the networks and the algorithm learn."""
    name = settings["env"]["name"]
    if discrete and (problem := _discrete_problem(settings)):
        raise UserError(f"env={name}: its actions are discrete, {problem}")
    for network, kind in _kinds(settings).items():
        if kind != discrete:
            found, need = ("discrete", "continuous") if discrete else ("continuous", "discrete")
            advice = "add network=discrete" if discrete else "leave network=discrete out"
            raise UserError(f"env={name}: its actions are {found}, and network.{network} is for {need} ones; {advice}")


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists and empty sections are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix: node} if prefix else {}
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def _members(plain: Settings) -> list[Settings]:
    """The settings of each member: `members` times the seeds of `seed`."""
    given = plain.pop("members", None)
    if given is not None and (not isinstance(given, list) or not given or not all(isinstance(m, dict) for m in given)):
        raise UserError("members: must be a list of sections, e.g. 'members=[{seed:0},{seed:1,algorithm:{tau:0.9}}]'")
    members = []
    for overrides in given or [{}]:
        settings = copy.deepcopy(plain)
        for key, value in flatten(overrides).items():
            if key not in MEMBER_KEYS:
                allowed = ", ".join(MEMBER_KEYS)
                raise UserError(f"members: {key} cannot differ within a pack; these can: {allowed}")
            *sections, last = key.split(".")
            node = settings
            for section in sections:
                node = node[section]
            node[last] = value
        seeds = settings.get("seed")
        if seeds == []:
            raise UserError("seed=[]: must be a whole number >= 0 or a list of at least one")
        if isinstance(seeds, list):
            members += [{**copy.deepcopy(settings), "seed": seed} for seed in seeds]
        else:
            members.append(settings)
    for one, other in itertools.combinations(members, 2):
        if one == other:
            raise UserError(f"the pack names the same run twice (seed={one['seed']}); members must differ")
    return members


def _objects(settings: Settings) -> Iterator[tuple[str, Any]]:
    """The sections that become objects; a missing one is reported by the schema."""

    def parts(section: str) -> dict[str, Any]:
        node = settings.get(section)
        return node if isinstance(node, dict) else {}

    for section in ("env", "algorithm", "optimizer"):
        if section in settings:
            yield section, settings[section]
    for section in ("network", "tracker"):
        for name, node in parts(section).items():
            if section == "tracker" or name in ("value", "q", "policy"):
                yield f"{section}.{name}", node


def _interpolation_problem(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", "") or ""
    if "corl" in str(error):
        return "preset=corl: CORL has no settings for this env; leave the preset out or choose one of CORL's tasks"
    if "env.xql" in str(error):
        return "preset=xql: XQL's authors have no settings of this env alone; leave the preset out"
    if "env.rebrac" in str(error):
        return "preset=rebrac: there are no settings of ReBRAC for this env alone; leave the preset out"
    return f"{key}: " + str(error).split("\n")[0]


def _combination_problems(settings: Settings) -> list[str]:
    """A line for each contradiction between the networks of checked settings, and between them and the algorithm.

    Nothing is known of a user's own classes.
    """
    kinds = _kinds(settings)
    discrete = [name for name, kind in kinds.items() if kind]
    problems = []
    if discrete and len(discrete) < len(kinds):
        problems.append(
            f"network.{discrete[0]} is for discrete actions and network."
            f"{next(name for name, kind in kinds.items() if not kind)} for continuous ones; "
            "network=discrete has both for discrete ones"
        )
    if discrete and (problem := _discrete_problem(settings)):
        problems.append(f"network.{discrete[0]} is for discrete actions, {problem}")
    if settings["evaluation"]["every"] is None and settings["evaluation"].get("final_episodes"):
        problems.append("evaluation.final_episodes needs evaluations: leave evaluation=none out, or the episodes")
    policy = settings["network"]["policy"]
    distribution, std = policy.get("distribution"), policy.get("std")
    if distribution == "deterministic" and std is not None:
        problems.append(
            f"network.policy.std={std}: a policy that is deterministic has none; add network.policy.std=null "
            "or network.policy.distribution=gaussian"
        )
    schema = algorithm_schema(settings["algorithm"])
    if distribution is not None and distribution not in schema.distributions:
        accepted = " or ".join(schema.distributions)
        problems.append(
            f"network.policy.distribution={distribution}: {schema.__name__} needs a policy that is {accepted}"
        )
    return problems + list(_finetuning_problems(settings))


def _finetuning_problems(settings: Settings) -> Iterator[str]:
    """A line for each reason why the runs of checked settings cannot have the phases that they ask for."""
    finetune, schema = settings.get("finetune"), algorithm_schema(settings["algorithm"])
    if finetune is None:
        if not settings["updates"]:
            yield "updates=0: there is nothing to train without finetune=online; give a whole number >= 1"
        return
    if finetune["start_after"] >= finetune["steps"]:
        yield (
            f"finetune.start_after={finetune['start_after']}: leaves no update of finetune.steps={finetune['steps']}; "
            "give fewer"
        )
    if finetune["schedule"] == "continued" and not (settings["updates"] and finetune["from"] is None):
        yield "finetune.schedule=continued goes on from an offline phase, which this run has not; use constant"
    if settings["evaluation"]["every"] is None or finetune["evaluate_every"] is None:
        yield "evaluation=none: finetune=online needs the environment, in which it is evaluated too; leave it out"
    if "q" not in schema.networks:
        yield f"finetune=online: {schema.__name__} learns no values, so it learns nothing from steps in an environment"


def _kinds(settings: Settings) -> dict[str, bool]:
    """Whether each network that is trained and sees actions is for discrete ones, where that is known."""
    trained = algorithm_schema(settings["algorithm"]).networks
    targets = {name: settings["network"][name]["_target_"] for name in trained}
    return {name: _DISCRETE[target] for name, target in targets.items() if target in _DISCRETE}


def _discrete_problem(settings: Settings) -> str | None:
    """Why the algorithm cannot learn discrete actions, the rest of a line, or None."""
    algorithm = settings["algorithm"]
    if algorithm.get("extraction") == "ddpg_bc":
        return "which have no gradient of Q for extraction=ddpg_bc; use algorithm.extraction=awr"
    if "categorical" in algorithm_schema(algorithm).distributions:
        return None
    able = " or ".join(
        sorted(name for name, schema in own_algorithms().items() if "categorical" in schema.distributions)
    )
    return f"which {algorithm_schema(algorithm).__name__} does not learn; use algorithm={able}"
