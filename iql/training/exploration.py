"""Exploration: the episodes that a pack's policies play while they are finetuned, in environments of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from iql.data.replay_buffer import OnlineRow, ReplayBuffer
from iql.data.transitions import Transitions
from iql.envs.vector import EnvironmentFailure
from iql.errors import UserError
from iql.evaluation.pending import training_seed
from iql.learner.learner import Learner
from iql.learner.noise import Noise
from iql.networks.distributions import Categorical, Gaussian, distribution
from iql.networks.lifting import Single
from iql.runs.appended_file import AppendedFile
from iql.runs.metrics_file import Record
from iql.tasks.task import Task


class ExplorationError(UserError):
    """A member's environment cannot be reset or stepped; the message names it, the episode and the step."""


@dataclass
class _Episode:
    """A member's episode in progress, in an environment of its own.

    number       how many the member has begun before
    length       its steps so far; total: the sum of their rewards; success: None where the environment does not say
    observation  the last one, normalised [observation_dim] float32; None before it began
    taken_back   rows of the member's that were deleted as their episode could not be restored
    """

    envs: VectorEnv
    number: int = 0
    length: int = 0
    total: float = 0.0
    success: bool | None = None
    observation: np.ndarray | None = None
    taken_back: int = 0


class Exploration:
    """The members' episodes, stepped side by side in this process, and the rows that come of them.

    Actions are samples of the policies as they are: of a Gaussian its mean plus `temperature` times its standard
    deviation times noise, of a Categorical at this temperature; plus `action_noise` times noise, within ±1. An
    episode's seed, and the noise of a step, are functions of the member's seed and their number.

    files     the members' rows as they were inserted, each [row_size] float32
    steps     how many were made
    failures  why a member cannot go on, by its place
    finished  the episode records of the steps since they were taken last, each with its member's place
    """

    def __init__(
        self,
        task: Task,
        learner: Learner,
        buffer: ReplayBuffer,
        files: Sequence[AppendedFile],
        data: Transitions,
        temperature: float,
        action_noise: float,
    ):
        self.steps = 0
        self.failures: dict[int, str] = {}
        self.finished: list[tuple[int, Record]] = []
        self._task, self._learner, self._buffer, self._files, self._data = task, learner, buffer, files, data
        self._temperature, self._action_noise = temperature, action_noise
        self._run_seeded = getattr(task, "run_seeded", False)
        make = getattr(task, "make_learning_envs", None)
        self._scored_by_success = make is not None
        self._noise = Noise(learner.seeds, torch.device("cpu"))  # where actions are needed: no copy waits for a GPU
        self._episodes = [_Episode((make or task.make_envs)(1)) for _ in learner.seeds]
        self._policies: list[Single] = []
        if learner.device.type == "cpu":  # each by itself: the same bits alone and in a pack
            policy = learner.networks["policy"]
            for place in range(len(learner.seeds)):
                self._policies.append(
                    Single(policy, {name: p.detach()[place] for name, p in policy.named_parameters()})
                )

    def close(self) -> None:
        """Close the environments."""
        for episode in self._episodes:
            episode.envs.close()

    def step(self, places: Sequence[int]) -> None:
        """One step of these members. What keeps one from it is put into `failures`."""
        for place in places:
            if self._episodes[place].observation is None:
                self._guarded(place, self._begin)
        live = [place for place in places if place not in self.failures]
        for place, action in zip(live, self._actions(live), strict=True):
            self._guarded(place, self._take, action)
        self.steps += 1

    def state(self, place: int) -> dict[str, Any]:
        """What a member's checkpoint holds of its exploration; its rows are in its file, which is written first."""
        length, digest = self._files[place].flush(sync=True)
        episode = self._episodes[place]
        return {
            "steps": self.steps,
            "episode": episode.number,
            "length": episode.length,
            "taken_back": episode.taken_back,
            "bytes": length,
            "sha256": digest,
        }

    def resume(self, states: Mapping[int, Mapping[str, Any]]) -> None:
        """Continue the members, whose files were cut to their checkpoints, from the states in those, by place.

        An episode in progress is played again from its seed and its actions. In an environment that does not come back
        to the same observations it begins anew, and its rows are taken back. The environments of this project always
        come back, so that a resumed run is the undisturbed one.
        """
        for place, state in states.items():
            file, episode = self._files[place], self._episodes[place]
            rows = np.frombuffer(file.read(state["bytes"]), np.float32).reshape(-1, self._row_size).copy()
            episode.number, episode.taken_back, self.steps = state["episode"], state["taken_back"], state["steps"]
            if state["length"]:
                before = len(rows) - state["length"]
                if not self._replayed(place, rows[before:]):
                    episode.taken_back += state["length"]
                    episode.length, episode.observation, rows = 0, None, rows[:before]
                    file.cut(rows.nbytes)
            self._buffer.restore(place, rows)

    def facts(self, place: int) -> dict[str, Any]:
        """What a member's summary says of its exploration."""
        return {"steps": self.steps, "taken_back_rows": self._episodes[place].taken_back}

    @property
    def _row_size(self) -> int:
        return 2 * self._task.observation_dim + self._task.action_dim + 2

    def _guarded(self, place: int, call: Any, *arguments: Any) -> None:
        try:
            call(place, *arguments)
        except ExplorationError as error:
            self.failures[place] = str(error)

    def _begin(self, place: int) -> None:
        """Reset a member's environment for its next episode. Raises ExplorationError."""
        episode = self._episodes[place]
        episode.length, episode.total, episode.success = 0, 0.0, None
        with _Errors(self, place, "at its reset"):
            reset: Any = episode.envs.reset  # takes a seed for each, whatever the base class declares
            observations, _ = reset(seed=[self._seed(place)], options={"reset_mask": np.ones(1, bool)})
        episode.observation = self._normalized(place, observations[0], "at its reset")

    def _take(self, place: int, action: np.ndarray) -> None:
        """One step of a member's episode with an action [action_dim]; its row is inserted. Raises ExplorationError."""
        episode = self._episodes[place]
        assert episode.observation is not None
        row, over = self._stepped(place, action)
        content = row.packed()
        self._buffer.insert(place, content)
        self._files[place].append(content.tobytes())
        episode.observation = row.next_observation
        if over:
            self.finished.append((place, self._record(episode)))
            episode.number += 1
            episode.length, episode.observation = 0, None

    def _stepped(self, place: int, action: np.ndarray) -> tuple[OnlineRow, bool]:
        """A step of the environment: its row, and whether the episode is over."""
        episode, data = self._episodes[place], self._data
        when = f"step {episode.length + 1}"
        self._check(place, when, "action of the policy", action)
        with _Errors(self, place, when):
            observations, rewards, terminated, truncated, infos = episode.envs.step(action[None])
        reward = float(rewards[0])
        self._check(place, when, "reward", reward)
        after = self._normalized(place, observations[0], when)
        episode.length += 1
        episode.total += reward
        if "success" in infos:
            episode.success = bool(episode.success) or bool(infos["success"][0])
        assert episode.observation is not None
        transformed = np.float32(reward) * np.float32(data.reward_scale) + np.float32(data.reward_shift)
        row = OnlineRow(episode.observation, action, float(transformed), float(not terminated[0]), after)
        return row, bool(terminated[0] or truncated[0])

    def _replayed(self, place: int, rows: np.ndarray) -> bool:
        """Whether the episode that these rows [L, row_size] are of could be played again up to where it was."""
        episode, start = self._episodes[place], self._task.observation_dim
        try:
            self._begin(place)
            for saved in rows:
                row, over = self._stepped(place, saved[start : start + self._task.action_dim])
                if over or not np.array_equal(row.packed(), saved):
                    return False
                episode.observation = row.next_observation
        except ExplorationError:
            return False
        return True

    def _record(self, episode: _Episode) -> Record:
        known = {} if episode.success is None else {"success": float(episode.success)}
        outcome = float(bool(episode.success)) if self._scored_by_success else episode.total
        return {
            "kind": "episode",
            "update": self._learner.update_count,
            "phase": "online",
            "step": self.steps + 1,
            "return": episode.total,
            "score": float(self._task.score(np.array([outcome]))[0]),
            "length": episode.length,
            **known,
        }

    @torch.no_grad()
    def _actions(self, places: Sequence[int]) -> list[np.ndarray]:
        """The members' next actions, each [action_dim] float32 within ±1, or one-hot."""
        observations = [self._episodes[place].observation for place in places]
        if self._policies:
            given = [
                self._policies[place](torch.from_numpy(observation)[None])
                for place, observation in zip(places, observations, strict=True)
            ]
        else:
            every = torch.zeros(len(self._episodes), 1, self._task.observation_dim)
            for place, observation in zip(places, observations, strict=True):
                every[place, 0] = torch.from_numpy(observation)
            whole = distribution(self._learner.frozen["policy"](every.to(self._learner.device)))
            parts: list[Any] = [None if part is None else part.cpu() for part in whole]
            kind: Any = type(whole)
            given = [kind(*(None if part is None else part[place] for part in parts)) for place in places]
        return [self._sampled(place, policy) for place, policy in zip(places, given, strict=True)]

    def _sampled(self, place: int, policy: Gaussian | Categorical) -> np.ndarray:
        noise, shape = self._noise.at(self.steps), (self._task.action_dim,)
        draw = noise.uniform if isinstance(policy, Categorical) else noise.normal
        action = policy.sample(draw("exploration", *shape)[place], self._temperature)[0]
        if isinstance(policy, Gaussian):
            if self._action_noise:
                action = action + self._action_noise * noise.normal("action_noise", *shape)[place]
            action = action.clamp(-1, 1)
        return action.numpy()

    def _normalized(self, place: int, observation: np.ndarray, when: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # it becomes infinite, which is reported
            row = np.asarray(observation, np.float32)
        self._check(place, when, "observation", row)
        return (row - self._data.observation_mean) / self._data.observation_std

    def _check(self, place: int, when: str, what: str, values: Any) -> None:
        """Raise ExplorationError unless the values are finite."""
        finite = np.isfinite(values)
        if np.all(finite):
            return
        flat = np.ravel(values)
        entry = int(np.flatnonzero(~np.isfinite(flat))[0])
        raise self.failure(place, when, f"{f'entry {entry} of ' if np.ndim(values) else ''}the {what} is {flat[entry]}")

    def failure(self, place: int, when: str, what: str) -> ExplorationError:
        """The error of a member's episode."""
        episode = self._episodes[place]
        name = getattr(episode.envs, "name", type(episode.envs).__name__)
        return ExplorationError(
            f"the environment {name}, which the policy explores, episode {episode.number + 1} "
            f"(seed {self._seed(place)}), {when}: {what}"
        )

    def _seed(self, place: int) -> int:
        return training_seed(self._learner.seeds[place], self._episodes[place].number, self._run_seeded)


class _Errors:
    """Turns what a member's environment raises within into an ExplorationError."""

    def __init__(self, exploration: Exploration, place: int, when: str):
        self._exploration, self._place, self._when = exploration, place, when

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if isinstance(error, EnvironmentFailure):
            raise self._exploration.failure(self._place, self._when, str(error)) from error
        if isinstance(error, Exception):
            what = f"raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise self._exploration.failure(self._place, self._when, what) from error
