"""Configuration errors as lines for the user: the key, the values that it accepts, the nearest valid name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from iql.config.schema import GROUPS, PLACES, SCHEMAS, SETTINGS_ONLY, Run, constructor_arguments, own_algorithms
from iql.config.schema_types import Node, Target
from iql.config.trust import ALGORITHMS


def composition_problem(error: BaseException) -> str | None:
    """One line for an error of Hydra, with the nearest valid name; None for an error of another kind."""
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file or "").rpartition("/")
        options = list(error.options or [])
        if not option:
            return str(error)
        return f"{group}={option}: no such option" + _nearest(option, options, f"{group}=", show_all=len(options) <= 12)
    if isinstance(error, ConfigCompositionException) and (match := re.search(r"override '([^']+)'", str(error))):
        section, _, key = match[1].partition(".")
        if section == "finetune" and match[1] in known_keys():
            return f"{match[1]}: is a setting of the online phase, which finetune=online adds"
        if section == "algorithm" and (owners := _algorithms_with(key)):
            return f"{match[1]}: not a key of the chosen algorithm, but of {' and '.join(owners)}"
        if match[1] in known_keys():
            return f"{match[1]}: not set by default; add it as +{match[1]}=..."
        return f"{match[1]}: no such key" + _nearest(match[1], [*known_keys(), *GROUPS])
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.+?)'", str(error)):
        return f"{match[1]}={match[2]}: a list is written '{match[1]}=[{match[2]}]', a sweep needs --multirun"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not in Hydra's grammar of overrides" + one_line(f" ({error.__cause__ or error})")
    if isinstance(error, ConfigCompositionException):
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return one_line(f"{error}{cause}")
    return None


def _algorithms_with(key: str) -> list[str]:
    """The names of the project's algorithms that have a setting."""
    return [schema.__name__ for _, schema in sorted(own_algorithms().items()) if key in schema.model_fields]


def one_line(text: str) -> str:
    """The text without line breaks."""
    return re.sub(r"\s*\n\s*", " ", text.rstrip())


def known_keys() -> list[str]:
    """Every dotted key that the schema knows."""

    def walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            dotted = f"{prefix}{field.alias or name}"
            nested = next(
                (part for part in _parts(field.annotation) if inspect.isclass(part) and issubclass(part, Node)),
                None,
            )
            yield dotted
            if nested is not None:
                yield from walk(nested, f"{dotted}.")

    keys = [*walk(Run, ""), "members"]
    for place, (model, _) in PLACES.items():
        keys += walk(model, f"{place}.")
    for name in sorted(ALGORITHMS):
        keys += walk(SCHEMAS[name], "algorithm.")
    return list(dict.fromkeys(keys))


def target_problems(place: str, node: Any) -> list[str]:
    """A line for each error in a section that becomes an object, by its schema or its class's signature."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return [f"{place}: must be a section with a _target_, the class to make, got {node!r}"]
    target = node["_target_"]
    if target in SCHEMAS:
        return schema_problems(SCHEMAS[target], node, f"{place}.")
    handed = PLACES.get(place, (Target, ""))[1].split()
    node = constructor_arguments(place, node)
    module, _, name = target.rpartition(".")
    try:
        signature = inspect.signature(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        return [f"{place}._target_={target}: cannot be imported ({error})" + _nearest(target, list(SCHEMAS))]
    parameters = signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    problems = [
        f"{place}.{key}: {target} takes no such argument" + _nearest(key, list(parameters))
        for key in node
        if key != "_target_" and key not in parameters
    ]
    required = (p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL)
    missing = [name for name in required if name not in node and name not in handed]
    return problems + [f"{place}.{name}: {target} needs it, add +{place}.{name}=..." for name in missing]


def schema_problems(model: type[BaseModel], node: Any, prefix: str) -> list[str]:
    """A line for each error in a section with a schema."""
    try:
        model.model_validate(node)
    except ValidationError as error:
        return _of_several_keys([_problem(model, detail, prefix) for detail in error.errors()])
    return []


def _of_several_keys(problems: list[str]) -> list[str]:
    """The lines, of which one stands for all keys that a class has not: those of a preset for another algorithm."""
    keys: dict[str, list[str]] = {}
    for problem in problems:
        key, _, text = problem.partition(": ")
        line = text if " has no such key; " in text else problem
        keys.setdefault(line, []).append(key)
    return [f"{', '.join(names)}: {line}" if line not in problems else line for line, names in keys.items()]


def _problem(model: type[BaseModel], detail: Any, prefix: str) -> str:
    names: list[str] = []
    field: FieldInfo | None = None
    for part in detail["loc"]:
        fields = {f.alias or name: f for name, f in model.model_fields.items()}
        if not isinstance(part, str) or (part not in fields and detail["type"] != "extra_forbidden"):
            break  # an index in a list or a branch of a union: the field describes what it accepts
        names.append(part)
        field = fields.get(part)
        if field is not None:
            nested = (p for p in _parts(field.annotation) if inspect.isclass(p) and issubclass(p, BaseModel))
            model = next(nested, model)
    key = prefix + ".".join(names) + "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        parent = key.rpartition(".")[0]
        siblings = [f"{parent}.{name}".lstrip(".") for name in fields]
        if key in known_keys():  # of another class in the same place
            elsewhere = SETTINGS_ONLY.get(prefix.rstrip("."), ())
            own = sorted((name for name in fields if name != "_target_"), key=elsewhere.__contains__)
            return f"{key}: {model.__name__} has no such key; it has {', '.join(own)}"
        return f"{key}: no such key" + (_nearest(key, siblings) or _nearest(key, known_keys()))
    if detail["type"] == "missing":
        return f"{key}: missing, add {key}=..."
    value = detail["input"]
    accepted = (field.description or _accepted(field.annotation, field.metadata)) if field else detail["msg"]
    whole = f"; write {int(value)}" if isinstance(value, float) and value.is_integer() else ""
    return f"{key}={'null' if value is None else repr(value)}: must be {accepted}{whole}"


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}


def _accepted(annotation: Any, metadata: list[Any]) -> str:
    """A description of the values that a field accepts, e.g. 'a number >= 0.5 and < 1'."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_accepted(part, metadata) for part in get_args(annotation))
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return _accepted(inner, [m for e in extra for m in (e.metadata if isinstance(e, FieldInfo) else [e])])
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if origin is list:
        return f"a list, each {_accepted(get_args(annotation)[0], [])}"
    bounds = {name: getattr(m, name) for m in metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    low = f" >= {bounds['ge']}" if "ge" in bounds else f" > {bounds['gt']}" if "gt" in bounds else ""
    high = f" <= {bounds['le']}" if "le" in bounds else f" < {bounds['lt']}" if "lt" in bounds else ""
    patterns = [m.pattern for m in metadata if getattr(m, "pattern", None)]
    return (
        _NAMES.get(annotation, "a section")
        + low
        + (" and" if low and high else "")
        + high
        + "".join(f" like {p}" for p in patterns)
    )


def _nearest(name: str, names: list[str], prefix: str = "", show_all: bool = False) -> str:
    close = difflib.get_close_matches(name, set(names), n=2, cutoff=0.8)
    if not close:
        lasts = {other.rpartition(".")[2] for other in names}
        last = difflib.get_close_matches(name.rpartition(".")[2], lasts, n=1, cutoff=0.6)
        close = [other for other in dict.fromkeys(names) if other.rpartition(".")[2] in last]
        # Keys of recipes are rarely the intended ones.
        close = sorted(close, key=lambda other: re.search(r"\.(recipe|corl|xql|rebrac)\.", other) is not None)[:3]
    if close:
        return "; did you mean " + " or ".join(f"{prefix}{other}" for other in close) + "?"
    return f"; there are {', '.join(names)}" if show_all and names else ""
