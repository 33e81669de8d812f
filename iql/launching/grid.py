"""A sweep's command line, in Hydra's multirun grammar, as the settings of every run that it spells out.

Composing a configuration takes long, setting a value in one does not: each combination of group choices is composed
once, and plain values are set on copies.
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

from iql.config import Settings, read
from iql.errors import UserError
from iql.schema import GROUPS


@dataclass(frozen=True)
class Cell:
    """One cell of a grid: the members' settings, those of their env's defaults, and what a command would spell out."""

    members: list[Settings]
    defaults: Settings
    overrides: tuple[str, ...]


def expand(overrides: Sequence[str], conf: Path) -> list[Cell]:
    """The cells of `overrides`, in the order of Hydra's own multirun: the last word varies fastest.

    conf: the folder of config.yaml. Raises UserError, or Hydra's own exceptions, for what cannot be composed, and
    UserError if two cells name the same run.
    """
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        words = [_words(parser, word) for word in parser.parse_overrides(list(overrides))]
        composed: dict[tuple[str, ...], tuple[DictConfig, Settings]] = {}
        cells = []
        for combination in itertools.product(*words):
            structure = tuple(word.text for word in combination if not word.plain)
            if structure not in composed:
                composed[structure] = _composed(structure, [word.text for word in combination])
            config, defaults = composed[structure]
            own = copy.deepcopy(config)
            for word in combination:
                if word.plain:
                    OmegaConf.update(own, word.key, word.value, merge=True)
            cells.append(Cell(read(own), defaults, tuple(word.text for word in combination)))
    _check_distinct(cells)
    return cells


@dataclass(frozen=True)
class _Word:
    """One value of one override; plain: it sets a key that is there, and changes nothing else."""

    text: str
    key: str
    value: Any
    plain: bool


def values_of(override: Override) -> list[str]:
    """The values that an override stands for, as text in Hydra's grammar: one, or those of its sweep.

    Raises UserError for a sweep that is no list of values.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: only a,b, choice(), range() and glob() make a sweep")
    return [str(text) for text in override.sweep_string_iterator()]


def _words(parser: OverridesParser, override: Override) -> list[_Word]:
    if not override.is_sweep_override():
        return [_word(override, str(override.input_line))]
    key = override.get_key_element()
    return [_word(parser.parse_override(text), text) for text in (f"{key}={value}" for value in values_of(override))]


def _word(override: Override, text: str) -> _Word:
    name = override.key_or_group
    plain = override.type == OverrideType.CHANGE and override.package is None
    plain = plain and name not in GROUPS and "/" not in name and not name.startswith("hydra.")
    return _Word(text, name, override.value() if plain else None, plain)


def _composed(structure: Sequence[str], whole: Sequence[str]) -> tuple[DictConfig, Settings]:
    """A combination of group choices, and the defaults of its env.

    The first command with that structure is composed whole, so that Hydra itself complains of a wrong word.
    """
    compose("config", list(whole))
    envs = [word for word in structure if word.startswith("env=")]
    return compose("config", list(structure)), read(compose("config", envs))[0]


def _check_distinct(cells: Sequence[Cell]) -> None:
    seen: dict[str, tuple[str, ...]] = {}
    for cell, member in _members(cells):
        key = repr(sorted(member.items(), key=lambda item: item[0]))
        if key in seen:
            words = " ".join(cell.overrides)
            raise UserError(f"the sweep names the same run twice (seed={member['seed']}): {words}")
        seen[key] = cell.overrides


def _members(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Settings]]:
    return ((cell, member) for cell in cells for member in cell.members)
