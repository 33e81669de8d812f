"""Command lines as they are typed: in help texts and messages, and with paths in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from iql.config.folders import INSTALLED

_COMMANDS = "train|sweep|status|report|evaluate|export|verify|fetch|parity"


def usage(text: str) -> str:
    """`text` as it is for an installed package where there is no checkout.

    `python scripts/status.py` becomes `iql-status`, and `pip install -e '.[video]'` becomes `pip install 'iql[video]'`.
    """
    if not INSTALLED:
        return text
    text = re.sub(rf"\bpython (?:scripts/)?({_COMMANDS})\.py\b", r"iql-\1", text)
    return re.sub(r"pip install -e '\.(\[\w+\])'", r"pip install 'iql\1'", text)


def quoted_paths(arguments: Iterable[str]) -> list[str]:
    """The arguments with quotes around values that are paths: those of runs contain = and commas, which Hydra reads."""
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, given, value = argument.partition("=")
    unquoted = given and re.fullmatch(r"[\w.+@]+", key) and not re.search(r"['\"\[\]{}()]", value)
    path = unquoted and (("/" in value and "=" in value) or ("," in value and Path(value).exists()))
    return f"{key}='{value}'" if path else argument
