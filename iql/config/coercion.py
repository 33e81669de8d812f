"""Converts settings to the types of the schema or of a class's signature, so that equal numbers are equal values.

`algorithm.beta=3` and `algorithm.beta=3.0` are then one run, with one name, one hash and one row in every table.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from iql.config.schema import SCHEMAS, Run

OBJECTS = ("env", "algorithm", "optimizer", "network.value", "network.q", "network.policy")
"""The sections whose values can change a run's numbers and whose class may be a user's own."""


def coerced(settings: dict[str, Any]) -> dict[str, Any]:
    """Validated settings with every number in its declared type: 3 as 3.0 where a float is declared, -0.0 as 0.0.

    Keys and their order stay, so that settings with the right types keep their hash.
    """
    whole = _by_schema(Run, settings)
    for place in OBJECTS:
        *sections, last = place.split(".")
        node = whole
        for section in sections:
            node = node[section]
        target = node[last]["_target_"]
        node[last] = _by_schema(SCHEMAS[target], node[last]) if target in SCHEMAS else _by_signature(node[last])
    return whole


def _by_schema(model: type[BaseModel], node: dict[str, Any]) -> dict[str, Any]:
    return _in_order(node, model.model_validate(node).model_dump(by_alias=True, exclude_unset=True))


def _in_order(given: Any, typed: Any) -> Any:
    """`typed` with the keys in the order of `given`, and without negative zeros."""
    if isinstance(given, dict):
        return {key: _in_order(value, typed[key]) for key, value in given.items()}
    if isinstance(given, list):
        return [_in_order(value, own) for value, own in zip(given, typed, strict=True)]
    return 0.0 if isinstance(typed, float) and typed == 0 else typed


def _by_signature(node: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a user's own class, by its annotations, or else by the types of its defaults."""
    module, _, name = node["_target_"].rpartition(".")
    made = getattr(importlib.import_module(module), name)
    function = made.__init__ if inspect.isclass(made) else made
    try:
        annotations = typing.get_type_hints(function)
    except Exception:  # annotations may name types that only a type checker imports
        annotations = {}
    parameters = inspect.signature(made).parameters

    def annotation(key: str) -> Any:
        default = parameters[key].default if key in parameters else None
        return annotations.get(key, type(default))

    return {key: _as(annotation(key), value) for key, value in node.items()}


def _as(annotation: Any, value: Any) -> Any:
    """The value, its whole numbers as floats where the annotation names float and not int."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if isinstance(value, list):
        sequences = [part for part in parts if get_origin(part) in (list, tuple, Sequence) and get_args(part)]
        return [_as(get_args(sequences[0])[0], each) for each in value] if sequences else value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and float in parts and int not in parts:
        return float(value) or 0.0
    return value
