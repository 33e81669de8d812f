"""The small policies that scripts/legacy.py compare plays: fitted to recorded actions, or found by search."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from legacy_states import begin, put

from iql.envs.registry import SIMULATORS, make
from iql.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

POLICIES = ROOT / "docs/legacy"

SEARCHED = ("halfcheetah", "antmaze-umaze")
"""Whose policy came from a search: a clone of 1,900 rows falls over, and no data begins where a maze does."""

Policy = dict[str, np.ndarray]
"""mean and std [obs] of the observations, then w0, b0, w1, b1, ... of tanh layers, the last to the action."""


def act(policy: Policy, observations: np.ndarray) -> np.ndarray:
    """Actions [N, act] float64 for observations [N, obs]; d4rl's wrapper rounds those in float32 by up to 6e-8."""
    x = (observations - policy["mean"]) / policy["std"]
    for layer in range((len(policy) - 2) // 2):
        x = np.tanh(x @ policy[f"w{layer}"] + policy[f"b{layer}"])
    return x


def load_policy(name: str, path: Path | None) -> Policy:
    path = path or POLICIES / f"{name}.npz"
    if not path.is_file():
        raise UserError(f"{path} is not a file: make it with `python scripts/legacy.py clone {name} --data FILE`")
    with np.load(path) as file:
        return {key: file[key].astype(float) for key in file}


def clone(options: argparse.Namespace) -> None:
    """Fit a policy to recorded actions, and store it where compare looks for it."""
    import h5py
    import torch

    if options.data.suffix == ".npz":
        with np.load(options.data) as recorded:
            env: Any = make(options.name).unwrapped
            observations = np.array(
                [_observed(env, *state) for state in zip(recorded["qpos"], recorded["qvel"], strict=True)]
            )
            actions = recorded["action"]
    else:
        with h5py.File(options.data) as file:
            observations, actions = file["observations"][:], file["actions"][:]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    mean, std = observations.mean(0), observations.std(0) + 1e-3
    x = torch.tensor((observations - mean) / std, dtype=torch.float32)
    y = torch.tensor(actions, dtype=torch.float32).clamp(-0.999, 0.999)
    layers = [torch.nn.Linear(x.shape[1], 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, y.shape[1])]
    net = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.Tanh())))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-5)
    for _ in range(options.updates):
        rows = torch.randint(len(x), (256,))
        loss = ((net(x[rows] + 0.02 * torch.randn_like(x[rows])) - y[rows]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy = {"mean": mean, "std": std}
    for index, layer in enumerate(layers):
        policy |= {f"w{index}": layer.weight.detach().numpy().T, f"b{index}": layer.bias.detach().numpy()}
    _store(options.name, policy)
    print(f"{len(x):,} rows, last loss {loss.item():.4f}")


def _observed(env: Any, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    env.set_state(qpos, qvel)
    return env._get_obs()


def search(options: argparse.Namespace) -> None:
    """Improve a linear policy by random changes; what counts is the return, in a maze how near it comes to the goal."""
    rng = np.random.default_rng(0)
    entry = SIMULATORS[options.name]
    env: Any = make(options.name).unwrapped
    size = entry.observation_dim, entry.action_dim
    policy = {"mean": np.zeros(size[0]), "std": np.ones(size[0]), "w0": np.zeros(size), "b0": np.zeros(size[1])}
    policy["std"][-env.model.nv :] = 5.0  # velocities
    worth, tries = (_gained, 6) if "antmaze" in options.name else (_earned, 3)
    best = -np.inf
    for trial in range(options.trials):
        changed = dict(policy)
        scale = 1.0 if trial < options.trials // 3 else 0.2
        changed["w0"] = (policy["w0"] if scale < 1 else 0) + rng.normal(0, scale, size)
        changed["b0"] = (policy["b0"] if scale < 1 else 0) + rng.normal(0, scale / 2, size[1])
        found = float(np.mean([worth(env, changed, episode) for episode in range(tries)]))
        if found > best:
            best, policy = found, changed
            print(f"trial {trial}: {best:.3f}", flush=True)
    _store(options.name, policy)


def _earned(env: Any, policy: Policy, episode: int, steps: int = 400) -> float:
    """Return of an episode's first steps."""
    observation, _ = env.reset(seed=episode)
    total = 0.0
    for _ in range(steps):
        observation, reward, ended, _, _ = env.step(act(policy, observation[None])[0])
        total += float(reward)
        if ended:
            break
    return total


def _gained(env: Any, policy: Policy, episode: int, steps: int = 150) -> float:
    """Metres nearer to the goal at best, and 1 more for reaching it."""
    observation, _ = env.reset(seed=episode)
    state = begin({"qpos": env.data.qpos.copy(), "qvel": env.data.qvel.copy(), "goal": env.goal}, episode)
    put(env, state)
    observation = np.concatenate([state["qpos"], state["qvel"]])
    first = nearest = float(np.linalg.norm(state["qpos"][:2] - state["goal"]))
    for _ in range(steps):
        observation, _, reached, _, _ = env.step(act(policy, observation[None])[0])
        nearest = min(nearest, float(np.linalg.norm(observation[:2] - state["goal"])))
        if reached:
            return first + 1.0
    return first - nearest


def _store(name: str, policy: Policy) -> None:
    POLICIES.mkdir(exist_ok=True)
    np.savez_compressed(POLICIES / f"{name}.npz", **{k: v.astype(np.float32) for k, v in policy.items()})  # type: ignore[arg-type]
