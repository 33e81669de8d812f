"""Short names of configurations, and which settings a sweep varied."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from iql.config.class_names import original
from iql.config.trust import IQL
from iql.reporting.algorithm_names import NAMING, algorithm_name, is_own
from iql.reporting.run_records import RunRecord
from iql.runs.run import FOLLOWED, deciding

_PROTOCOL = re.compile(r"updates|evaluation\..*|env\.(physics|ref_min|ref_max|horizon|success_timing)")
"""Settings that are part of a run's protocol, not of its configuration's name."""

_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
"""A class with its modules; labels show the class name alone."""

_PROTOCOL_NAMES = {"updates", "every", "episodes", "physics", "headline", "success_timing"}

ALGORITHM = "algorithm._target_"
"""The key of the algorithm."""

_NAMING_KEYS = {f"algorithm.{name}" for name in NAMING}


class Labels:
    """Short, distinct names for the configurations of all runs; the same settings have the same name in every task.

    A name begins with the algorithm's, unless every run is one of IQL.

    swept   by task, the settings (dotted keys) that took more than one value, each with its values in order
    values  by (task, configuration), the `canonical` value of each of the task's swept keys that it has
    names   for each swept key, the shortest name that is unique
    common  where there are several algorithms, what all names would have; it is left out of them
    """

    def __init__(self, runs: Iterable[RunRecord]):
        tasks: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        first: dict[tuple[str, str], RunRecord] = {}
        for run in runs:
            if run.configuration not in tasks[run.env]:
                tasks[run.env][run.configuration] = _naming_settings(run)
                first[run.env, run.configuration] = run
        self.swept: dict[str, dict[str, list[Any]]] = {}
        self.values: dict[tuple[str, str], dict[str, Any]] = {}
        self._swept_within: dict[str, set[str]] = defaultdict(set)  # by algorithm
        for env, configurations in tasks.items():
            self.swept[env] = _varying(list(configurations.values()))
            for algorithm, group in _by_algorithm(configurations.values()).items():
                self._swept_within[algorithm] |= _varying(group).keys()
            for name, settings in configurations.items():
                self.values[env, name] = {key: canonical(settings[key]) for key in self.swept[env] if key in settings}
        keys = sorted({key for swept in self.swept.values() for key in swept}, key=_usual_order)
        ends = [short(key) for key in keys]
        self.names = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
        every = [settings for own in tasks.values() for settings in own.values()]
        self._texts = {key: texts_of(settings.get(key) for settings in every) for key in keys}
        self._texts[ALGORITHM] = _algorithm_texts(run.settings["algorithm"]["_target_"] for run in first.values())
        algorithms = {run.algorithm for run in first.values()}
        parts = {place: self._parts(run, tasks[place[0]][place[1]]) for place, run in first.items()}
        shared = set.intersection(*map(set, parts.values())) if len(algorithms) > 1 else set()
        self.common = [part for part in next(iter(parts.values()), []) if part in shared]
        named = algorithms != {algorithm_name({"_target_": IQL})}
        self._labels = {
            place: " ".join([run.algorithm] * named + [part for part in parts[place] if part not in self.common])
            or "default"
            for place, run in first.items()
        }
        protocols: dict[tuple[str, str], set[Any]] = defaultdict(set)
        for run in runs:
            protocols[run.env, run.configuration].add(run.protocol)
        taken: dict[tuple[str, str, Any], str] = {}
        for (env, name), label in sorted(self._labels.items()):  # two with the same name get their hashes
            keys_taken = [(env, label, protocol) for protocol in protocols[env, name]]
            if any(taken.setdefault(key, name) != name for key in keys_taken):
                self._labels[env, name] = f"{label} ({name.rpartition('-')[2]})"

    def of(self, run: RunRecord) -> str:
        """The label of the run's configuration."""
        return self._labels[run.env, run.configuration]

    def text(self, key: str, value: Any) -> str:
        """A short text for a value of a swept key, different from those of its other values."""
        return self._texts[key][canonical(value)]

    def _parts(self, run: RunRecord, settings: dict[str, Any]) -> list[str]:
        """The swept settings of the run's algorithm with their values, then whatever else differs from the defaults."""
        section = run.settings["algorithm"]
        swept = {key: self.names[key] for key in self.names if key in self._swept_within[settings[ALGORITHM]]}
        shown = {short(key) for key in swept} | {key.removesuffix("._target_") for key in swept} | {"algorithm"}
        # What is not swept of a class that is shown follows from it.
        shown |= {short(key) for key in settings if _target_of(key) in swept}
        if is_own(section):
            shown |= set(NAMING)
        else:  # its name has IQL's settings as defaults, so that all its own would be differences
            shown |= {short(key) for key in settings if _target_of(key) == ALGORITHM}
        parts = []
        for key, name in swept.items():
            if key in settings and not (is_own(section) and key in _NAMING_KEYS):
                parts.append(f"{name}={self.text(key, settings[key])}")
        readable = run.configuration.rpartition("-")[0]
        for part in readable.split(","):
            name, equals, value = part.partition("=")
            if equals and name not in shown | _PROTOCOL_NAMES:
                parts.append(f"{name}={_shorter(value)}")
        return parts


def short(key: str) -> str:
    """The last part of a dotted key; for the _target_ of a section, the section's name."""
    return key.removesuffix("._target_").rpartition(".")[2]


def _naming_settings(run: RunRecord) -> dict[str, Any]:
    """The settings that decide the run's numbers; those that follow another setting are represented by that one."""
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
    """The keys whose values differ between these settings, with the values in order.

    Settings that only some classes have (another algorithm, a network of a user's own) are compared among those. What
    differs between algorithms alone follows from the algorithm.
    """
    varying = {}
    for key in dict.fromkeys(key for settings in configurations for key in settings):
        target = _target_of(key)
        classes = {settings.get(target) for settings in configurations if key in settings}
        compared = [settings for settings in configurations if settings.get(target) in classes]
        groups = [compared] if key == ALGORITHM else _by_algorithm(compared).values()
        if any(len({canonical(settings.get(key)) for settings in group}) > 1 for group in groups):
            values = {canonical(settings.get(key)): settings.get(key) for settings in compared}
            varying[key] = sorted(values.values(), key=_order)
    return {key: varying[key] for key in sorted(varying, key=_usual_order)}


def _by_algorithm(configurations: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The settings of each algorithm's configurations."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for settings in configurations:
        groups[settings[ALGORITHM]].append(settings)
    return groups


def _target_of(key: str) -> str:
    """The key of the class that a setting belongs to: for algorithm.tau it is algorithm._target_."""
    return f"{key.rpartition('.')[0]}._target_"


def canonical(value: Any) -> str:
    """A text that is the same for equal values alone: for 3 and 3.0, but not for 1 and true or null and "null"."""
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _order(value: Any) -> tuple:
    """Sort key: null, false, true, numbers, lists by their values, then texts, numbers within them by size."""
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
    """Sort key: tau and beta first, as they are swept most often."""
    usual = ["algorithm.tau", "algorithm.beta"]
    return (usual.index(key) if key in usual else len(usual)), key


def texts_of(values: Iterable[Any]) -> dict[str, str]:
    """A short, unique text for each value, by its canonical text."""
    texts = {canonical(value): text_of(value) for value in values}
    return texts if len(set(texts.values())) == len(texts) else {text: text for text in texts}


def _algorithm_texts(targets: Iterable[str]) -> dict[str, str]:
    """As `texts_of` for classes of algorithms, by their names."""
    names = {target: algorithm_name({"_target_": target}) for target in targets}
    unique = len(set(names.values())) == len(names)
    return {canonical(original(target)): name if unique else target for target, name in names.items()}


def text_of(value: Any) -> str:
    """A short text for a setting's value; numbers have twelve digits, so that 0.1 + 0.2 is 0.3."""
    if isinstance(value, list):
        return "x".join(map(text_of, value)) or "[]"
    if isinstance(value, str):
        return value.rpartition(".")[2] if _CLASS.fullmatch(value) else value or '""'
    if isinstance(value, float):
        return f"{value + 0.0:.12g}"  # without the sign of a negative zero
    return "none" if value is None else str(value)


def _shorter(text: str) -> str:
    """A value of a run's name as labels write it: 10.0 as 10, 0.0x1.0 as 0x1."""
    return "x".join(part.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", part) else part for part in text.split("x"))
