"""What scripts/legacy.py compares: our simulators with D4RL's, one step at a time and over whole episodes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from legacy_policies import Policy, act, load_policy
from legacy_states import begin, put

from iql.envs.legacy import client
from iql.envs.registry import SIMULATORS, make
from iql.errors import UserError

IDS = {
    "hopper": "hopper-medium-v2",
    "walker2d": "walker2d-medium-v2",
    "halfcheetah": "halfcheetah-medium-v2",
    "door": "door-human-v1",
    "antmaze-umaze": "antmaze-umaze-v2",
}
"""What is compared: the simulator here, and an environment of d4rl that has it."""

SLOTS = 10
"""Environments side by side."""

APART = 1e-6
"""An episode has parted when an entry of qpos or qvel differs by more, or the ends do."""


COLUMNS = (
    *("task", "one step: state", "observation", "reward", "ends", "mean, legacy", "mean, here", "IQM, legacy"),
    *("IQM, here", "agree", "parted", "at step (quartiles)", "equal returns"),
)


def compare(options: argparse.Namespace) -> None:
    """Print, for every name, how far one step and 100 episodes differ."""
    for name in options.names:
        if name not in IDS:
            raise UserError(f"{name} is not compared here; choose from {', '.join(IDS)}")
    policies = {name: load_policy(name, options.policy) for name in options.names}
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for name in options.names:
        entry = SIMULATORS[name]
        envs = client.LegacyEnvs(IDS[name], SLOTS, entry.horizon, entry.observation_dim, entry.action_dim)
        here: list[Any] = [make(name).unwrapped for _ in range(SLOTS)]
        errors, ends = one_step(envs, here[0], policies[name], options.steps)
        theirs, ours, parted = episodes(envs, here, policies[name], options.episodes)
        envs.close()
        print(_row(name, errors, ends, theirs, ours, parted), flush=True)


def one_step(envs: client.LegacyEnvs, env: Any, policy: Policy, steps: int) -> tuple[list[float], bool]:
    """Largest error of state, observation and reward over steps from equal states, and whether all ends agree.

    The states are those that the policy, with noise, visits in the legacy stack.
    """
    rng = np.random.default_rng(0)
    errors, ends = [0.0, 0.0, 0.0], True
    env.reset(seed=0)
    observations = fresh(envs, range(SLOTS))
    for _ in range(steps // SLOTS):
        states = [envs.get_state(slot) for slot in range(SLOTS)]
        for slot, state in enumerate(states):
            envs.set_state(slot, state)
        noise = rng.uniform(-0.5, 0.5, (SLOTS, envs.single_action_space.shape[0]))  # type: ignore[index]
        actions = np.clip(act(policy, observations) + noise, -1, 1)
        observations, rewards, done, _, _ = envs.step(actions)
        for slot, state in enumerate(states):
            put(env, state)
            observation, reward, terminated, _, _ = env.step(actions[slot])
            after = envs.get_state(slot)
            found = (
                max(np.abs(env.data.qpos - after["qpos"]).max(), np.abs(env.data.qvel - after["qvel"]).max()),
                np.abs(observation - observations[slot]).max(),
                abs(reward - rewards[slot]),
            )
            errors = [max(pair) for pair in zip(errors, map(float, found), strict=True)]
            ends = ends and terminated == done[slot]
        ended = np.flatnonzero(envs.ended).tolist()
        if ended:
            observations[ended] = fresh(envs, ended)[ended]
    return errors, ends


def fresh(envs: client.LegacyEnvs, slots: Iterable[int], first: int = 0) -> np.ndarray:
    """Put `slots` at the start of episodes first + slot; the observations of all."""
    mask = np.isin(np.arange(SLOTS), list(slots))
    seeds: list[int | None] = list(range(first, first + SLOTS))
    observations, _ = envs.reset(seed=seeds, options={"reset_mask": mask})
    for slot in slots:
        state = begin(envs.get_state(slot), first + slot)
        envs.set_state(slot, state)
        if "goal" in state:
            observations[slot] = np.concatenate([state["qpos"], state["qvel"]])
    return observations


def episodes(
    envs: client.LegacyEnvs, here: list[Any], policy: Policy, total: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns [total] in the legacy stack and here from the same starts, and the steps [total] at which they part.

    Each stack acts on its own observations. An episode that never parts has −1.
    """
    theirs, ours, parted = np.zeros(total), np.zeros(total), np.full(total, -1)
    for first in range(0, total, SLOTS):
        now = slice(first, first + SLOTS)
        observations = fresh(envs, range(SLOTS), first)
        for slot, env in enumerate(here):
            env.reset(seed=first + slot)
            put(env, envs.get_state(slot))
        seen = observations.copy()
        on_there, on_here = np.ones(SLOTS, bool), np.ones(SLOTS, bool)
        for step in range(envs.horizon):
            observations, rewards, done, _, _ = envs.step(act(policy, observations))
            theirs[now] += rewards * on_there
            actions = act(policy, seen)
            for slot in np.flatnonzero(on_here).tolist():
                seen[slot], reward, terminated, _, _ = here[slot].step(actions[slot])
                ours[first + slot] += reward
                if on_there[slot] and parted[first + slot] < 0:
                    state = envs.get_state(slot)
                    apart = max(
                        np.abs(here[slot].data.qpos - state["qpos"]).max(),
                        np.abs(here[slot].data.qvel - state["qvel"]).max(),
                    )
                    parted[first + slot] = step if apart > APART or terminated != done[slot] else -1
                on_here[slot] = not terminated
            on_there &= ~done
            if not (on_there.any() or on_here.any()):
                break
            if envs.ended.any() and step + 1 < envs.horizon:  # an episode that is over goes on unseen
                observations, _ = envs.reset(seed=[0] * SLOTS, options={"reset_mask": envs.ended.copy()})
    return theirs, ours, parted


def iqm(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis."""
    cut = values.shape[-1] // 4
    return np.sort(values, -1)[..., cut : values.shape[-1] - cut].mean(-1)


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float, float]:
    """The statistic and the ends of its 95 % bootstrap interval (percentiles of 10,000 resamples)."""
    drawn = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(statistic(values[drawn]), [2.5, 97.5])
    return float(statistic(values)), float(low), float(high)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(-1)


def _row(name: str, errors: list[float], ends: bool, theirs: np.ndarray, ours: np.ndarray, parted: np.ndarray) -> str:
    cells = [name, *(f"{error:.0e}" for error in errors), "equal" if ends else "DIFFER"]
    agree = True
    for statistic in (_mean, iqm):
        pair = [interval(returns, statistic) for returns in (theirs, ours)]
        cells += [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in pair]
        agree = agree and all(one[1] <= other[0] <= one[2] for one, other in (pair, pair[::-1]))
    steps = parted[parted >= 0]
    quartiles = "/".join(f"{step:.0f}" for step in np.percentile(steps, [25, 50, 75])) if len(steps) else "–"
    equal = int((np.abs(theirs - ours) <= 1e-6).sum())
    cells += ["yes" if agree else "NO", f"{len(steps)} of {len(parted)}", quartiles, str(equal)]
    return "| " + " | ".join(cells) + " |"
