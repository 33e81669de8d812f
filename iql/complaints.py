"""What is wrong with a configuration, in words: the key, what it accepts, the nearest valid name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from iql.errors import UserError
from iql.schema import GROUPS, PLACES, SCHEMAS, Node, Run, Target, constructor_arguments
from iql.storage import refusal


def exit_code_of(command: Callable[[], object], interrupted: str = "") -> int:
    """Run a command of a script; its exit code: 0, or 1 after one line for what a user can mend, or 130 for Ctrl-C.

    interrupted: what to say of Ctrl-C. What nobody foresaw is raised.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    script = Path(sys.argv[0]).name
    try:
        command()
    except KeyboardInterrupt:
        if interrupted:
            print(f"\n{script}: {interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        if (line := problem(error)) is None:
            raise
        print(f"{script}: {line}", file=sys.stderr)
        return 1
    return 0


def problem(error: BaseException) -> str | None:
    """One line for an error that a user can mend; None for what nobody foresaw."""
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if not isinstance(cause, UserError):
            return f"{_one_line(str(error))} (HYDRA_FULL_ERROR=1 shows where)"
        error = cause
    if isinstance(error, UserError):
        return str(error)
    return composition_problem(error) or (refusal(error) if isinstance(error, OSError) else None)


def composition_problem(error: BaseException) -> str | None:
    """One line for what Hydra refused, with the nearest valid name; None for what it is not about."""
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file or "").rpartition("/")
        options = list(error.options or [])
        if not option:
            return str(error)
        return f"{group}={option}: no such option" + _nearest(option, options, f"{group}=", show_all=len(options) <= 12)
    if isinstance(error, ConfigCompositionException) and (match := re.search(r"override '([^']+)'", str(error))):
        if match[1] in known_keys():
            return f"{match[1]}: not set by default; add it as +{match[1]}=..."
        return f"{match[1]}: no such key" + _nearest(match[1], [*known_keys(), *GROUPS])
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.+?)'", str(error)):
        return f"{match[1]}={match[2]}: a list is written '{match[1]}=[{match[2]}]', a sweep needs --multirun"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not in Hydra's grammar of overrides" + _one_line(f" ({error.__cause__ or error})")
    if isinstance(error, ConfigCompositionException):
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return _one_line(f"{error}{cause}")
    return None


def _one_line(text: str) -> str:
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
    return keys


def target_problems(place: str, node: Any) -> list[str]:
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
    try:
        model.model_validate(node)
    except ValidationError as error:
        return list(dict.fromkeys(_problem(model, detail, prefix) for detail in error.errors()))
    return []


def _problem(model: type[BaseModel], detail: Any, prefix: str) -> str:
    names: list[str] = []
    field: FieldInfo | None = None
    for part in detail["loc"]:
        fields = {f.alias or name: f for name, f in model.model_fields.items()}
        if not isinstance(part, str) or (part not in fields and detail["type"] != "extra_forbidden"):
            break  # a place in a list or a branch of a union: the field says what it accepts
        names.append(part)
        field = fields.get(part)
        if field is not None:
            nested = (p for p in _parts(field.annotation) if inspect.isclass(p) and issubclass(p, BaseModel))
            model = next(nested, model)
    key = prefix + ".".join(names) + "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        parent = key.rpartition(".")[0]
        siblings = [f"{parent}.{name}".lstrip(".") for name in fields]
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
    """What a field takes, in words: 'a number, 0.5 <= it < 1'."""
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
        close = sorted(close, key=lambda other: ".recipe." in other or ".corl." in other)[:3]  # seldom what is meant
    if close:
        return "; did you mean " + " or ".join(f"{prefix}{other}" for other in close) + "?"
    return f"; there are {', '.join(names)}" if show_all and names else ""
