"""Command lines in help texts and messages, as they are typed where this package is installed."""

from __future__ import annotations

import re

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
