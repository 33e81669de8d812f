"""What configurations are called, and which settings a sweep varied."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from iql.reporting.reading import RunRecord
from iql.runs import FOLLOWED, deciding

_PROTOCOL = re.compile(r"updates|evaluation\..*|env\.(physics|ref_min|ref_max|horizon)")
"""Settings that a run's protocol tells of already."""

_NAMES = {"updates", "every", "episodes", "physics", "headline"}


class Labels:
    """Short names that tell the configurations of all runs apart, the same for the same settings in every task.

    swept   by task, the settings by dotted key that took more than one value, each with its values in order
    values  by (task, configuration), what the configuration set each of its task's swept keys to
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
                self.values[env, name] = {key: settings.get(key) for key in self.swept[env]}
        keys = sorted({key for swept in self.swept.values() for key in swept}, key=_usual_order)
        ends = [short(key) for key in keys]
        self.names = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
        self._labels = {
            (env, name): self._label(name, settings) for env, own in tasks.items() for name, settings in own.items()
        }
        taken: dict[tuple[str, str, Any], str] = {}
        protocols = {(run.env, run.configuration): run.protocol for run in runs}
        for (env, name), label in sorted(self._labels.items()):  # the same name for two: their hashes tell them apart
            if taken.setdefault((env, label, protocols[env, name]), name) != name:
                self._labels[env, name] = f"{label} ({name.rpartition('-')[2]})"

    def of(self, run: RunRecord) -> str:
        """What the run's configuration is called."""
        return self._labels[run.env, run.configuration]

    def _label(self, configuration: str, settings: dict[str, Any]) -> str:
        """Swept settings with their values, then whatever else differs from the defaults."""
        parts = [f"{name}={text_of(settings[key])}" for key, name in self.names.items() if key in settings]
        own = {short(key) for key in self.names} | _NAMES
        readable = configuration.rpartition("-")[0]
        parts += [part for part in readable.split(",") if "=" in part and part.partition("=")[0] not in own]
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
    """The keys of which these settings have different values, with the values, numbers in order."""
    varying = {}
    for key in dict.fromkeys(key for settings in configurations for key in settings):
        values = {str(settings.get(key)): settings.get(key) for settings in configurations}
        if len(values) > 1:
            numbers = all(isinstance(value, (int, float)) for value in values.values())
            varying[key] = [values[text] for text in sorted(values, key=float if numbers else str)]
    return {key: varying[key] for key in sorted(varying, key=_usual_order)}


def _usual_order(key: str) -> tuple[int, str]:
    """tau and beta first: they are what is swept most."""
    usual = ["algorithm.tau", "algorithm.beta"]
    return (usual.index(key) if key in usual else len(usual)), key


def text_of(value: Any) -> str:
    """A setting's value in few characters."""
    if isinstance(value, list):
        return "x".join(map(str, value))
    if isinstance(value, str):
        return value.rpartition(".")[2]
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
