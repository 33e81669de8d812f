"""The grid of a sweep: overrides in Hydra's multirun grammar as the settings of every run.

Composing a configuration is slow, setting a value in one is fast: each combination of group choices is composed once,
and plain values are set in copies of the result.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from iql.config.class_names import current
from iql.config.schema import GROUPS
from iql.config.settings import Settings, read, reference
from iql.errors import UserError
from iql.launching.grids.draws import drawn, is_drawn


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    members    the settings of its runs, one for each seed of a list
    defaults   the settings that they are named by (iql.config.settings.reference)
    overrides  those of an equal train.py command
    """

    members: list[Settings]
    defaults: Settings
    overrides: tuple[str, ...]


def expand(overrides: Sequence[str], conf: Path) -> list[Cell]:
    """The cells of `overrides`, in the order of Hydra's multirun: the last override varies fastest, then joint draws.

    conf: the folder of config.yaml. Raises UserError, or Hydra's own exceptions, for what cannot be composed, and
    UserError if two cells name the same run.
    """
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        axes = _axes(parser, parser.parse_overrides(list(overrides)))
        known: dict[tuple[str, ...], DictConfig] = {}
        composed: dict[tuple[str, ...], tuple[DictConfig, Settings]] = {}
        cells = []
        for parts in itertools.product(*axes):
            combination = [choice for part in parts for choice in part]
            structure = tuple(each.text for each in combination if not each.plain)
            if structure not in composed:
                composed[structure] = _composed(structure, [each.text for each in combination], known)
            config, defaults = composed[structure]
            own = copy.deepcopy(config)
            for each in combination:
                if each.plain:
                    OmegaConf.update(own, each.key, each.value, merge=True)
            cells.append(Cell(read(own), defaults, tuple(each.text for each in combination)))
    _check_distinct(cells)
    return cells


@dataclass(frozen=True)
class _Choice:
    """One value of one override; plain: it sets an existing key and changes nothing else."""

    text: str
    key: str
    value: Any
    plain: bool


def values_of(override: Override) -> list[str]:
    """The values of an override as text in Hydra's grammar: one, or those of its sweep.

    Raises UserError for a sweep that is not a list of values.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: only a,b, choice(), range() and glob() make a sweep")
    return [str(text) for text in override.sweep_string_iterator()]


def _axes(parser: OverridesParser, overrides: Sequence[Override]) -> list[list[tuple[_Choice, ...]]]:
    """What the grid is the product of: the values of each override, and the joint draws of those that are drawn."""
    random = [each for each in overrides if is_drawn(each)]
    count, seed = (_number(overrides, f"sweep.{name}") for name in ("draws", "seed"))
    if random and count is None:
        raise UserError(f"{random[0].input_line}: values are drawn from it, so how many? add sweep.draws=N")
    axes: list[list[tuple[_Choice, ...]]] = [
        [(choice,) for choice in _choices(parser, each)] for each in overrides if not is_drawn(each)
    ]
    if count is None:
        return axes
    if not random:
        raise UserError(f"sweep.draws={count}: nothing is drawn; mark values as KEY=tag(draw,choice(A,B))")
    keys = [each.get_key_element() for each in random]
    draws = [
        tuple(_parsed(parser, f"{key}={value}") for key, value in zip(keys, values, strict=True))
        for values in drawn(random, count, seed or 0)
    ]
    return [*axes, draws]


def _number(overrides: Sequence[Override], name: str) -> int | None:
    """The value of one of the sweep's own settings, which has one for all its runs; None where it is not given."""
    found, least = None, int(name == "sweep.draws")
    for each in overrides:
        if each.key_or_group == name:
            value = each.value()
            if type(value) is not int or value < least:
                raise UserError(f"{each.input_line}: must be one whole number, at least {least}")
            found = value
    return found


def _choices(parser: OverridesParser, override: Override) -> list[_Choice]:
    if not override.is_sweep_override():
        return [_choice(override, str(override.input_line))]
    key = override.get_key_element()
    return [_parsed(parser, f"{key}={value}") for value in values_of(override)]


def _parsed(parser: OverridesParser, text: str) -> _Choice:
    return _choice(parser.parse_override(text), text)


def _choice(override: Override, text: str) -> _Choice:
    name = override.key_or_group
    plain = override.type == OverrideType.CHANGE and override.package is None
    plain = plain and name not in GROUPS and "/" not in name and not name.startswith("hydra.")
    return _Choice(text, name, override.value() if plain else None, plain)


def _composed(
    structure: Sequence[str], whole: Sequence[str], known: dict[tuple[str, ...], DictConfig]
) -> tuple[DictConfig, Settings]:
    """A combination of group choices, composed, and the configuration that its runs are named by.

    The first command with that structure is composed whole, so that Hydra itself reports a wrong override.
    known: what has been composed, by its overrides.
    """

    def once(overrides: Sequence[str]) -> DictConfig:
        key = tuple(overrides)
        if key not in known:
            known[key] = compose("config", list(key))
        return known[key]

    once(whole)
    config = once(structure)
    choices = dict(text.split("=", 1) for text in structure if text.startswith(("env=", "algorithm=", "finetune=")))
    target = current(OmegaConf.to_container(config.algorithm, resolve=False))
    return config, read(once(reference({"algorithm": target, "finetune": config.finetune}, choices)))[0]


def _check_distinct(cells: Sequence[Cell]) -> None:
    seen: dict[str, tuple[str, ...]] = {}
    for cell, member in _members(cells):
        key = repr(sorted(member.items(), key=lambda item: item[0]))
        if key in seen:
            command = " ".join(cell.overrides)
            raise UserError(f"the sweep names the same run twice (seed={member['seed']}): {command}")
        seen[key] = cell.overrides


def _members(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Settings]]:
    return ((cell, member) for cell in cells for member in cell.members)
