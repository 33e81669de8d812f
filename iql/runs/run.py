"""A run: its identity, directory, manifest, metrics file and summary."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iql.config.class_names import original
from iql.config.schema import SETTINGS_ONLY
from iql.config.settings import Settings, flatten
from iql.config.trust import IQL
from iql.errors import UserError
from iql.runs import checkpoints
from iql.runs.appended_file import AppendedFile
from iql.runs.manifest import read_manifest
from iql.runs.metrics_file import MetricsFile, read_tail
from iql.runs.provenance import git_state, package_versions
from iql.system.atomic_files import read_json, remove_temporaries, write_json

log = logging.getLogger(__name__)

FORMAT = 1
NAME_BYTES = 120
GROUP_LENGTH = 128  # W&B's limit

# Settings that cannot change a result, by dotted key or section.
_UNDECIDING = re.compile(
    r"(seed|device|threads|code_path|runs|sweep\..*|log_every|checkpoint\..*|tracker.*|finetune\.from"
    r"|env\.(name|path|dataset|trust|url|rows|cloning|recipe\..*|corl.*|xql.*|rebrac.*)"
    r"|evaluation\.(workers|headline|final_episodes)"
    r"|algorithm\.(initialization|policy_mean|recipe.*)|network\.(hidden_dims|activation))$"
)

# Settings that were added later, with the value that means the earlier behaviour. With that value they are ignored, so
# that the runs of earlier versions keep their names.
LATER = {
    "env.keys": None,
    "env.next_observations": "row",
    "algorithm.extraction": "awr",
    "algorithm.bc_coef": 1.0,
    "finetune": None,
    **{f"network.{name}.layer_norm": None for name in ("value", "q", "policy")},
    **{f"network.{name}.activation": "relu" for name in ("value", "q", "policy")},
    "network.policy.std": None,
}

# Settings that are the defaults of other settings (by regular expression).
FOLLOWED = {
    "network.hidden_dims": r"network\.\w+\.hidden_dims",
    "network.activation": r"network\.\w+\.activation",
    "algorithm.initialization": r"network\.\w+\.initialization",
    "algorithm.policy_mean": r"network\.policy\.mean",
}


def deciding(settings: Settings) -> dict[str, Any]:
    """The settings, by dotted key, that decide a run's results, apart from its seed and data."""
    return {
        key: original(value) if key.endswith("_target_") else value
        for key, value in flatten(settings).items()
        if not _UNDECIDING.match(key) and (key, value) not in LATER.items()
    }


def configuration_name(settings: Settings, defaults: Settings, digest: str) -> str:
    """`<differences from the defaults>-<hash>`; the same settings and data always have the same name."""
    own, usual = deciding(settings), deciding(defaults)
    differing = {
        key: value
        for key, value in own.items()
        if key not in usual or usual[key] != value or (key == "algorithm._target_" and value != original(IQL))
    }
    if settings.get("finetune"):
        differing = {"finetune": "online", **differing}
    for source, followers in FOLLOWED.items():  # a setting that several networks follow is shown once
        value = flatten(settings).get(source)
        following = [key for key in differing if re.fullmatch(followers, key) and differing[key] == value]
        if following:
            differing = {key: other for key, other in differing.items() if key not in following} | {source: value}
    # The user's own class is shown as the setting that it replaces and its name: policy=Residual.
    differing = {key.removesuffix("._target_"): value for key, value in differing.items()}
    ends = [key.rpartition(".")[2] for key in differing]
    parts = [
        f"{end if ends.count(end) == 1 else key}={_short(value)}"
        for end, (key, value) in zip(ends, differing.items(), strict=True)
    ]
    readable = re.sub(r"[^\w.,=+-]+", "_", ",".join(parts)) or "default"
    if len(readable) > NAME_BYTES:
        readable = readable[:NAME_BYTES].rpartition(",")[0]
    content = json.dumps([FORMAT, digest, own], sort_keys=True)
    return f"{readable}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return "x".join(map(str, value))
    return str(value).rpartition(".")[2] if isinstance(value, str) else str(value)


class Run:
    """One seed of one configuration, and the directory with everything that is recorded of it.

    Files: manifest.json, metrics.jsonl, summary.json (the run is done once it exists), failed.json, networks.ckpt (the
    final networks), checkpoints/, and while it is finetuned online_rows.bin (the rows that training.exploration gives).

    digest: of the data, and of what the run starts from where that is another run's networks.
    """

    def __init__(self, settings: Settings, defaults: Settings, digest: str, overrides: Sequence[str] = ()):
        self.settings = settings
        self.overrides = list(overrides)
        self.seed: int = settings["seed"]
        self.configuration = configuration_name(settings, defaults, digest)
        self.env = re.sub(r"[^\w.+-]+", "-", settings["env"]["name"]).strip("-.") or "env"  # one folder's name
        self.id = f"{self.env}/{self.configuration}/seed={self.seed}"
        self.directory = Path(settings["runs"]) / settings["sweep"]["name"] / self.id
        self.checkpoints = self.directory / "checkpoints"
        self.metrics = MetricsFile(self.directory / "metrics.jsonl")
        self.online_rows = AppendedFile(self.directory / "online_rows.bin")

    @property
    def label(self) -> str:
        """A short description for users: what differs from the defaults, and the seed."""
        readable = self.configuration.rpartition("-")[0].replace(",", " ")
        return f"seed={self.seed}" if readable == "default" else f"{readable} seed={self.seed}"

    @property
    def group(self) -> str:
        """The name of the group of this configuration's seeds, short enough for W&B."""
        whole = f"{self.env}/{self.configuration}"
        return whole if len(whole) <= GROUP_LENGTH else f"{whole[: GROUP_LENGTH - 9]}-{whole[-8:]}"

    @property
    def tracked_settings(self) -> dict[str, Any]:
        """The settings that a tracker shows and filters by, without those that only other settings read."""
        settings = {
            name: node for name, node in self.settings.items() if name not in ("tracker", "checkpoint", "sweep")
        }
        env = {name: value for name, value in settings["env"].items() if name not in SETTINGS_ONLY["env"]}
        return {**settings, "env": env, "sweep": self.settings["sweep"]["name"], "configuration": self.configuration}

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results of the finished run; None before."""
        return read_json(self.directory / "summary.json")

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why the run failed, or None."""
        return read_json(self.directory / "failed.json")

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The attempts: every process that has trained this run, as `this_attempt` describes it, oldest first."""
        manifest = read_manifest(self.directory)
        return manifest["lives"] if manifest else []

    @property
    def was_saved(self) -> bool:
        """Whether the run ever had a checkpoint, judged by where its last attempt began and how far it got."""
        manifest = read_manifest(self.directory)
        if manifest is None:
            return False
        every = manifest["settings"]["checkpoint"]["every"]
        records = read_tail(self.metrics.path) if self.metrics.path.exists() else []
        return manifest["lives"][-1]["from_update"] > 0 or any(record["update"] > every for record in records)

    def begin_attempt(self, attempt: dict[str, Any], facts: dict[str, Any]) -> str:
        """Write the manifest with this process added to its attempts; facts: what is recorded of the task and its data.

        Returns the run's id for trackers. It is drawn at random in the first attempt, so that a run that is trained
        again from the start has another one, even in the same directory.
        """
        earlier = read_manifest(self.directory)
        tracking_id = uuid.uuid4().hex[:16]
        if earlier is None:
            for other in self._on_other_data(facts.get("dataset")):
                line = "%s begins anew: %s is not the data on which %s was begun with the same settings"
                log.warning(line, self.directory, facts["dataset"], other)
        else:  # manifests of earlier versions have none: the id was a hash of the path
            path_hash = hashlib.sha256(str(self.directory.resolve()).encode()).hexdigest()[:16]
            tracking_id = earlier.get("tracking_id", path_hash)
        write_json(
            self.directory / "manifest.json",
            {
                "format": FORMAT,
                "run": self.id,
                "tracking_id": tracking_id,
                "settings": self.settings,
                "overrides": self.overrides,
                "facts": facts,
                "git": git_state(),
                "packages": package_versions(),
                "lives": [*(earlier["lives"] if earlier else ()), attempt],
            },
        )
        return tracking_id

    def _on_other_data(self, dataset: Any) -> list[Path]:
        """The directories of runs with the same settings and seed that began with other data in the file `dataset`."""
        own, found = deciding(self.settings), []
        name = f"{self.configuration.rpartition('-')[0]}-*"
        for path in sorted(self.directory.parents[1].glob(f"{name}/{self.directory.name}/manifest.json")):
            with contextlib.suppress(UserError):  # a damaged one is reported when its own run is used
                other = read_manifest(path.parent)
                if other and other["facts"].get("dataset") == dataset and deciding(other["settings"]) == own:
                    found.append(path.parent)
        return found

    def fail(self, update: int, reason: str) -> None:
        """Record that the run failed after so many updates, and why."""
        write_json(self.directory / "failed.json", {"update": update, "reason": reason})

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the run as done, and delete what only a resume needs."""
        write_json(self.directory / "summary.json", summary)
        self.delete_leftovers()

    def delete_leftovers(self) -> None:
        """Delete what a finished run does not need, including the lease and unfinished pictures of a killed process."""
        remove_temporaries(self.directory, "*.png")
        for name in ("failed.json", "lease.json", self.online_rows.path.name):
            (self.directory / name).unlink(missing_ok=True)
        checkpoints.remove(self.checkpoints)
