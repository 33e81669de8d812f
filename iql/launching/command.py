"""The words of a sweep.py command line: a named sweep, the launcher's settings, and the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from iql.catalogue import CONF
from iql.complaints import target_problems
from iql.errors import UserError
from iql.schema import SCHEMAS

NAME = "sweep"
"""Folder of a sweep that nobody named."""


@dataclass(frozen=True)
class Command:
    """words: the grid in Hydra's grammar, sweep.name among them; launcher: its settings, with their _target_."""

    words: list[str]
    launcher: dict[str, Any]


def parse(words: Sequence[str]) -> list[Override]:
    """The words in Hydra's grammar; raises its OverrideParseException."""
    return OverridesParser.create().parse_overrides(list(words))


def read(words: Sequence[str]) -> Command:
    """Raises UserError, or Hydra's own exceptions, for what cannot be understood."""
    launching: list[Override] = []
    grid: list[str] = []
    for word, override in zip(words, parse(words), strict=True):
        if override.key_or_group.partition(".")[0] == "launcher":
            launching.append(override)
        else:
            grid.append(word)
    grid = spelled_out(grid)
    if not any(override.key_or_group == "sweep.name" for override in parse(grid)):
        grid.insert(0, f"sweep.name={NAME}")
    return Command(grid, _launcher(launching))


def spelled_out(words: Sequence[str]) -> list[str]:
    """The words, `sweep=NAME` replaced by those of conf/sweep/NAME.yaml; a word comes instead of theirs for its key."""
    own = {override.key_or_group: word for word, override in zip(words, parse(words), strict=True)}
    named = own.pop("sweep", None)
    if named is None:
        return list(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        sweep = compose(overrides=[f"+{named}"])["sweep"]
    grid = [*(f"{word}" for word in sweep["grid"]), f"sweep.name={sweep['name']}"]
    keys = [override.key_or_group for override in parse(grid)]
    kept = [word for key, word in zip(keys, grid, strict=True) if key not in own]
    return [*kept, *(word for word in words if word != named)]


def _launcher(overrides: Sequence[Override]) -> dict[str, Any]:
    """conf/launcher/NAME.yaml with launcher.* set in it, checked."""
    chosen = [o.input_line for o in overrides if o.key_or_group == "launcher"] or ["launcher=local"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose(overrides=[f"+{word}" for word in chosen])["launcher"], resolve=True)
    assert isinstance(composed, dict)
    node: dict[str, Any] = {str(key): value for key, value in composed.items()}
    for override in overrides:
        if override.key_or_group == "launcher":
            continue
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: a launcher's setting has one value")
        _, *sections, last = override.key_or_group.split(".")
        place = node
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = override.value()
    if problems := target_problems("launcher", node):
        fields = getattr(SCHEMAS.get(node["_target_"]), "model_fields", {})
        accepted = ", ".join(f"launcher.{field}" for field in fields if field != "target")
        unknown = accepted and any("no such key" in problem for problem in problems)
        raise UserError("; ".join(problems) + (f" ({chosen[0]} takes {accepted})" if unknown else ""))
    return node
