"""What configurations are called, and which settings a sweep varied."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from iql.reporting.reading import RunRecord
from iql.runs import FOLLOWED, deciding

_PROTOCOL = re.compile(r"updates|evaluation\..*|env\.(physics|ref_min|ref_max|horizon)")
"""Settings that a run's protocol tells of already."""

_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
"""A class with its modules, which is told by its own name."""

_NAMES = {"updates", "every", "episodes", "physics", "headline"}


class Labels:
    """Short names that tell the configurations of all runs apart, the same for the same settings in every task.

    swept   by task, the settings by dotted key that took more than one value, each with its values in order
    values  by (task, configuration), what the configuration set each of its task's swept keys to (as `canonical`)
    names   of each swept key, the shortest that no other has
    """

    def __init__(self, runs: Iterable[RunRecord]):
        tasks: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for run in runs:
            if run.configuration not in tasks[run.env]:
                tasks[run.env][run.configuration] = _telling(run)
        self.swept: dict[str, dict[str, list[Any]]] = {}
        self.values: dict[tuple[str, str], dict[str, Any]] = {}
        for env, configurations in tasks.items():
            self.swept[env] = _varying(list(configurations.values()))
            for name, settings in configurations.items():
                self.values[env, name] = {key: canonical(settings.get(key)) for key in self.swept[env]}
        keys = sorted({key for swept in self.swept.values() for key in swept}, key=_usual_order)
        ends = [short(key) for key in keys]
        self.names = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
        every = [settings for own in tasks.values() for settings in own.values()]
        self._texts = {key: texts_of(settings.get(key) for settings in every) for key in keys}
        self._labels = {
            (env, name): self._label(name, settings) for env, own in tasks.items() for name, settings in own.items()
        }
        protocols: dict[tuple[str, str], set[Any]] = defaultdict(set)
        for run in runs:
            protocols[run.env, run.configuration].add(run.protocol)
        taken: dict[tuple[str, str, Any], str] = {}
        for (env, name), label in sorted(self._labels.items()):  # the same name for two: their hashes tell them apart
            places = [(env, label, protocol) for protocol in protocols[env, name]]
            if any(taken.setdefault(place, name) != name for place in places):
                self._labels[env, name] = f"{label} ({name.rpartition('-')[2]})"

    def of(self, run: RunRecord) -> str:
        """What the run's configuration is called."""
        return self._labels[run.env, run.configuration]

    def text(self, key: str, value: Any) -> str:
        """A value of a swept key in few characters, another one for every other value."""
        return self._texts[key][canonical(value)]

    def _label(self, configuration: str, settings: dict[str, Any]) -> str:
        """Swept settings with their values, then whatever else differs from the defaults."""
        parts = [f"{name}={self.text(key, settings[key])}" for key, name in self.names.items() if key in settings]
        own = {short(key) for key in self.names} | {key.removesuffix("._target_") for key in self.names} | _NAMES
        readable = configuration.rpartition("-")[0]
        for part in readable.split(","):
            name, equals, value = part.partition("=")
            if equals and name not in own:
                parts.append(f"{name}={_shorter(value)}")
        return " ".join(parts) or "default"


def short(key: str) -> str:
    """The last part of a dotted key; of a class to be made, the place that it takes."""
    return key.removesuffix("._target_").rpartition(".")[2]


def _telling(run: RunRecord) -> dict[str, Any]:
    """The settings that decide the run's numbers; what follows another setting is left to that one."""
    settings = deciding(run.settings)
    for source, followers in FOLLOWED.items():
        *sections, last = source.split(".")
        node: Any = run.settings
        for section in sections:
            node = node.get(section, {})
        following = [key for key in settings if re.fullmatch(followers, key)]
        if last in node and all(settings[key] == node[last] for key in following):
            settings = {key: value for key, value in settings.items() if key not in following} | {source: node[last]}
    return {key: value for key, value in settings.items() if not _PROTOCOL.fullmatch(key)}


def _varying(configurations: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys of which these settings have different values, with the values in order."""
    varying = {}
    for key in dict.fromkeys(key for settings in configurations for key in settings):
        values = {canonical(settings.get(key)): settings.get(key) for settings in configurations}
        if len(values) > 1:
            varying[key] = sorted(values.values(), key=_order)
    return {key: varying[key] for key in sorted(varying, key=_usual_order)}


def canonical(value: Any) -> str:
    """The same text for values that are equal, and for no others: 3 and 3.0, but not 1 and true, null and "null"."""
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _order(value: Any) -> tuple:
    """Null, false, true, numbers by size, lists by their values, then texts with the numbers in them by size."""
    if value is None:
        return (0,)
    if isinstance(value, bool):
        return (1, value)
    if isinstance(value, (int, float)):
        return (2, value)
    if isinstance(value, list):
        return (3, [_order(each) for each in value])
    parts = re.split(r"(\d+)", str(value))
    return (4, [(0, int(part)) if part.isdecimal() else (1, part) for part in parts])


def _usual_order(key: str) -> tuple[int, str]:
    """tau and beta first: they are what is swept most."""
    usual = ["algorithm.tau", "algorithm.beta"]
    return (usual.index(key) if key in usual else len(usual)), key


def texts_of(values: Iterable[Any]) -> dict[str, str]:
    """Of each value, by its canonical text, a short text that no other of them has."""
    texts = {canonical(value): text_of(value) for value in values}
    return texts if len(set(texts.values())) == len(texts) else {text: text for text in texts}


def text_of(value: Any) -> str:
    """A setting's value in few characters; of a number twelve digits, so that 0.1 + 0.2 is 0.3."""
    if isinstance(value, list):
        return "x".join(map(text_of, value)) or "[]"
    if isinstance(value, str):
        return value.rpartition(".")[2] if _CLASS.fullmatch(value) else value or '""'
    if isinstance(value, float):
        return f"{value + 0.0:.12g}"  # without the sign of a negative zero
    return "none" if value is None else str(value)


def _shorter(text: str) -> str:
    """A value of a run's name as labels have it: 10.0 as 10, 0.0x1.0 as 0x1."""
    return "x".join(part.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", part) else part for part in text.split("x"))
