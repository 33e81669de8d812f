"""The task of a Minari dataset, evaluated in the environment that the dataset names."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from iql.data.trajectories import qlearning_rows
from iql.dataset_files import minari_storage, rows
from iql.dataset_files.minari_safety import check_environment, check_folder, metadata_of
from iql.dataset_files.minari_storage import user_errors
from iql.dataset_files.rows import Episode, Rows
from iql.envs import spaces
from iql.envs.d4rl.physics import version_of
from iql.envs.interface import checked
from iql.errors import UserError
from iql.system.data_cache import sha256
from iql.tasks.offline import RecordedTask

log = logging.getLogger(__name__)

ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+")

DIGESTED = ("observation_space", "action_space", "env_spec", "eval_env_spec", "ref_min_score", "ref_max_score")
"""The keys of a dataset's metadata that enter its digest: they decide flattening, scaling, environment and score."""


class MinariTask(RecordedTask):
    """A Minari dataset with continuous actions, or with one discrete choice a step.

    dataset   Minari's id, D4RL/door/human-v2; downloaded by Minari into its own folder
              (MINARI_DATASETS_PATH, default ~/.minari/datasets) if it is not there
    horizon   steps after which an evaluation's episode is cut; None: the environment's own
    ref_min, ref_max  returns that score 0 and 100; None: those of the dataset's metadata, and without them
              a score is the return
    trust     make the recorded environment of any class that the metadata names, which runs its code

    The other arguments are RecordedTask's.
    """

    custom = False

    def __init__(self, dataset: str | None, trust: bool = False, **task: Any) -> None:
        super().__init__(**task)
        if dataset is None:
            raise UserError("env=minari needs a dataset: give env.dataset=ID, e.g. env.dataset=D4RL/door/human-v2")
        if not ID.fullmatch(dataset):
            raise UserError(
                f"env.dataset={dataset} is not an id of Minari, NAMESPACE/NAME-vVERSION, e.g. D4RL/door/human-v2"
            )
        self.dataset = dataset
        self.trust = trust
        self._scale: spaces.ActionScale | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the data files' digests and of the metadata that decides a run's numbers."""
        folder = self._minari.storage.data_path
        metadata = metadata_of(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "metadata.json")
        parts = [json.dumps({key: metadata.get(key) for key in DIGESTED}), *map(sha256, files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def locate(self) -> Path:
        """The dataset's folder, downloaded if it is not there. Raises UserError."""
        return minari_storage.find(self.dataset, self.trust)

    def read(self) -> tuple[Rows, str]:
        """The dataset's rows, flat, with actions scaled to ±1 by their space's bounds or one-hot, and its id.

        Raises UserError.
        """
        dataset, source = self._minari, f"Minari's {self.dataset}"
        spaces.check(dataset.observation_space, dataset.action_space, source)
        steps = int(dataset.total_steps)
        with user_errors(f"{source} cannot be read", self._replace_advice()):
            data = rows.join(_episodes(dataset), steps + int(dataset.total_episodes))
        if (found := len(qlearning_rows(data.timeouts))) != steps:
            raise UserError(f"{source} holds {found:,} steps, its metadata says {steps:,}; {self._replace_advice()}")
        for key in ("observations", "actions", "rewards"):
            rows.check_finite(getattr(data, key), key, source)
        self.observation_dim, self.action_dim = data.observations.shape[1], data.actions.shape[1]
        self.discrete = isinstance(dataset.action_space, gymnasium.spaces.Discrete)
        if not self.discrete:
            self._scale = spaces.ActionScale.of(dataset.action_space, data.actions)
            self._scale.to_unit(data.actions)
        return data, source

    def score(self, returns: np.ndarray) -> np.ndarray:
        """As RecordedTask.score, with the dataset's own references unless others were given. Raises UserError."""
        _ = self._minari  # opening the dataset sets the references
        return super().score(returns)

    def env_makers(self, num: int) -> list[Callable[[], gymnasium.Env]]:
        """A constructor for each of `num` environments, flat and with actions within ±1 or one-hot.

        Raises UserError if none.
        """
        dataset, env = self._minari, self._env
        if env.spec is None or env.spec.max_episode_steps is None:
            raise UserError(f"the environment of {self.dataset} has no limit of steps: give env.horizon=STEPS")
        for what in ("observation", "action"):
            recorded, own = (getattr(each, f"{what}_space") for each in (dataset, env))
            if not spaces.fits(recorded, own):
                raise UserError(
                    f"{self.dataset} has {what}s {recorded}, but its environment {env.spec.id} has {own}: "
                    "train it with evaluation=none"
                )
        if not hasattr(self, "action_dim"):
            self.read()
        return [partial(_flat, dataset, self.horizon, self._scale)] * num

    def simulator_facts(self) -> dict[str, object]:
        """The environment's id in place of a physics profile, and mujoco's version if it runs on mujoco."""
        try:
            return {"mujoco": version_of(self._env), "physics": _env_id(self._minari)}
        except UserError:  # it cannot be made; an evaluation in it raises the same error
            return {"mujoco": None, "physics": _env_id(self._minari)}

    @cached_property
    def _minari(self) -> Any:
        """The dataset; sets the references for scores to its own unless others were given. Raises UserError."""
        folder = self.locate()
        check_folder(folder / "data", self.trust)
        import minari

        with user_errors(f"Minari's {self.dataset} cannot be opened", self._replace_advice()):
            dataset = minari.load_dataset(self.dataset)
            metadata = dataset.storage.metadata
        low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
        if self.ref_min is None and low is not None and high is not None:
            if low == high or not all(map(math.isfinite, (low, high))):
                raise UserError(
                    f"{folder} has ref_min_score {low} and ref_max_score {high}, which make no score: "
                    "give env.ref_min and env.ref_max"
                )
            self.ref_min, self.ref_max = float(low), float(high)
        return dataset

    @cached_property
    def _env(self) -> gymnasium.Env:
        """One environment, to read its spaces and limit from. Raises UserError."""
        if _env_id(self._minari) is None:
            raise UserError(f"{self.dataset} names no environment to evaluate in: train it with evaluation=none")
        if not self.trust:
            check_environment(self._minari.storage.metadata, self.locate() / "data")
        return _recovered(self._minari, self.horizon)

    def _replace_advice(self) -> str:
        return f"get it again: delete {self.locate()} and run the same command, or bring it from elsewhere"


def _episodes(dataset: Any) -> Iterator[Episode]:
    bar = tqdm(dataset.iterate_episodes(), total=int(dataset.total_episodes), unit=" episodes", disable=None)
    for episode in bar:
        observations = spaces.flatten(dataset.observation_space, episode.observations)
        actions = spaces.flatten(dataset.action_space, episode.actions)
        steps = len(episode.rewards)
        if (len(observations), len(actions), len(episode.terminations)) != (steps + 1, steps, steps):
            raise ValueError(
                f"episode {episode.id} has {len(observations)} observations, {len(actions)} actions, {steps} rewards "
                f"and {len(episode.terminations)} terminations; observations must be one more than the others"
            )
        yield Episode(observations, actions, episode.rewards, episode.terminations)


def _env_id(dataset: Any) -> str | None:
    """The id of the environment to evaluate in, None if the dataset names none."""
    metadata = dataset.storage.metadata
    spec = metadata.get("eval_env_spec") or metadata.get("env_spec")
    return json.loads(spec)["id"] if spec else None


def _recovered(dataset: Any, horizon: int | None) -> gymnasium.Env:
    """The environment to evaluate in: the dataset's evaluation environment, else the one it was recorded in."""
    options: dict[str, Any] = {} if horizon is None else {"max_episode_steps": horizon}
    evaluated = "eval_env_spec" in dataset.storage.metadata
    what = f"the environment {_env_id(dataset)} of {dataset.id} cannot be made"
    with user_errors(what, "install its package, or train with evaluation=none", _warn_once):
        return checked(dataset.recover_environment(eval_env=evaluated, disable_env_checker=True, **options))


def _flat(dataset: Any, horizon: int | None, scale: spaces.ActionScale | None) -> gymnasium.Env:
    env = _recovered(dataset, horizon)
    return spaces.flat_env(env, scale, dataset.observation_space, dataset.action_space)


@cache
def _warn_once(warning: str) -> None:
    """Log a warning of an environment once, however many environments are made."""
    log.warning("%s", warning)
