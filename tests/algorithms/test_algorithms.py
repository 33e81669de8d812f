"""What every algorithm of the project is held to: its class, its schema and its configuration agree."""

from __future__ import annotations

import importlib
import typing

import pytest

from iql.algorithms.algorithm import Algorithm, PerMember
from iql.config.schema import MEMBER_KEYS, SCHEMAS, SETTINGS_ONLY
from iql.config.task_configs import CONF
from iql.config.trust import ALGORITHMS


def class_of(name: str) -> type[Algorithm]:
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_an_algorithms_class_and_schema_agree(name):
    cls, schema = class_of(name), SCHEMAS[name]
    types = typing.get_type_hints(cls.__init__)
    settings = {field.alias or key for key, field in schema.model_fields.items()} - {"_target_"}
    assert types.keys() - {"return"} == settings - set(SETTINGS_ONLY["algorithm"])
    assert (schema.networks, schema.targets) == (cls.networks, cls.targets)
    varying = {key.removeprefix("algorithm.") for key in MEMBER_KEYS if key.startswith("algorithm.")}
    assert {key for key, kind in types.items() if PerMember in (kind, *typing.get_args(kind))} == varying & types.keys()


def test_every_algorithm_can_be_chosen():
    chosen = {path.stem for path in (CONF / "algorithm").glob("*.yaml")}
    assert {name.split(".")[2] for name in ALGORITHMS} <= chosen
