"""The overrides of a sweep.py command line: a named sweep, the launcher's settings, and the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from iql.config.folders import CONF
from iql.config.schema import SCHEMAS
from iql.config.validation import target_problems
from iql.errors import UserError

DEFAULT_NAME = "sweep"
"""The sweep.name of a command line without one."""


@dataclass(frozen=True)
class Command:
    """What a command line asks for.

    overrides  the grid in Hydra's grammar, sweep.name included
    launcher   the launcher's settings with their _target_
    """

    overrides: list[str]
    launcher: dict[str, Any]


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides, parsed. Raises Hydra's OverrideParseException."""
    return OverridesParser.create().parse_overrides(list(overrides))


def read(overrides: Sequence[str]) -> Command:
    """The command that these overrides specify. Raises UserError or Hydra's exceptions for invalid ones."""
    launcher: list[Override] = []
    grid: list[str] = []
    for text, override in zip(overrides, parse(overrides), strict=True):
        if override.key_or_group.partition(".")[0] == "launcher":
            launcher.append(override)
        else:
            grid.append(text)
    grid = expand_named_sweep(grid)
    if not any(override.key_or_group == "sweep.name" for override in parse(grid)):
        grid.insert(0, f"sweep.name={DEFAULT_NAME}")
    return Command(grid, _launcher_settings(launcher))


def expand_named_sweep(overrides: Sequence[str]) -> list[str]:
    """The overrides, with `sweep=NAME` replaced by those of conf/sweep/NAME.yaml; explicit ones take precedence."""
    explicit = {each.key_or_group: text for text, each in zip(overrides, parse(overrides), strict=True)}
    named = explicit.pop("sweep", None)
    if named is None:
        return list(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        sweep = compose(overrides=[f"+{named}"])["sweep"]
    own = [f"sweep.{key}={value}" for key, value in sweep.items() if key != "grid" and value is not None]
    grid = [*(f"{text}" for text in sweep["grid"]), *own]
    keys = [override.key_or_group for override in parse(grid)]
    kept = [text for key, text in zip(keys, grid, strict=True) if key not in explicit]
    return [*kept, *(text for text in overrides if text != named)]


def _launcher_settings(overrides: Sequence[Override]) -> dict[str, Any]:
    """conf/launcher/NAME.yaml with the launcher.* overrides applied, checked. Raises UserError."""
    chosen = [o.input_line for o in overrides if o.key_or_group == "launcher"] or ["launcher=local"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose(overrides=[f"+{text}" for text in chosen])["launcher"], resolve=True)
    assert isinstance(composed, dict)
    node: dict[str, Any] = {str(key): value for key, value in composed.items()}
    for override in overrides:
        if override.key_or_group == "launcher":
            continue
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: a launcher's setting has one value")
        _, *sections, last = override.key_or_group.split(".")
        target = node
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = override.value()
    if problems := target_problems("launcher", node):
        fields = getattr(SCHEMAS.get(node["_target_"]), "model_fields", {})
        accepted = ", ".join(f"launcher.{field}" for field in fields if field != "target")
        unknown = accepted and any("no such key" in problem and "it has" not in problem for problem in problems)
        raise UserError("; ".join(problems) + (f" ({chosen[0]} takes {accepted})" if unknown else ""))
    return node
