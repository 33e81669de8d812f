"""Updates per second of every algorithm with its own settings, in turn, and beside CORL's own code of it."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark.measurement import make_learner, now, settings
from iql.data.sampling import Batches
from iql.errors import UserError

ROUNDS = 20

_NETWORKS = {"bc": "deterministic"}
"""Where CORL's policy is another one than that of this project's default."""


def algorithm_rows(options: argparse.Namespace, data: Any) -> list[dict[str, Any]]:
    """A line for each of --algorithms on --threads' last number of threads: ours, IQL's share, CORL's.

    The rates are the fastest of twenty rounds, in each of which all are measured one after the other. Raises UserError.
    """
    threads = options.threads[-1]
    ours = {name: _Ours(options, data, name, threads) for name in options.algorithms}
    theirs = {name: _corls(options.corl, data, name) for name in options.algorithms if options.corl and name in _CORL}
    rates: dict[tuple[str, str], float] = {}
    for _ in range(ROUNDS):
        for kind, updates in (("ours", ours), ("corl", theirs)):
            for name, update in updates.items():
                torch.set_num_threads(update.torch_threads if isinstance(update, _Ours) else threads)
                rate = _rate(update, options.seconds / ROUNDS)
                rates[kind, name] = max(rates.get((kind, name), 0.0), rate)
    rows = []
    for name in options.algorithms:
        mine, corls = rates["ours", name], rates.get(("corl", name))
        row = {"algorithm": name, "path": ours[name].path, "threads": threads, "updates_per_second": round(mine, 1)}
        row["of the first"] = round(mine / rates["ours", options.algorithms[0]], 3)
        if options.corl:
            row |= {"CORL": round(corls, 1) if corls else "", "times CORL": round(mine / corls, 2) if corls else ""}
        rows.append(row)
    return rows


class _Ours:
    """Sixteen updates of one run."""

    def __init__(self, options: argparse.Namespace, data: Any, name: str, threads: int):
        overrides = [f"algorithm={name}", f"network={_NETWORKS.get(name, 'mlp')}"]
        self._learner, self._execution = make_learner(options, 1, threads, "float32", overrides)
        self.path, self._device = self._execution.name, self._learner.device
        self.torch_threads = torch.get_num_threads()  # as the path set them
        more = self._learner.algorithm.next_actions
        self._batches = Batches(data, [0], settings(*overrides)[0]["batch_size"], self._device, more)

    def __call__(self) -> int:
        self._execution.advance(self._batches, 16)
        now(self._device)
        return 16


def _rate(update: Callable[[], int], seconds: float) -> float:
    cpu, done = torch.device("cpu"), 0
    update()
    began = now(cpu)
    while (taken := now(cpu) - began) < seconds:
        done += update()
    return done / taken


def _corls(folder: Path, data: Any, name: str) -> Callable[[], int]:
    """CORL's update on batches of its own buffer; its module is imported unchanged, without what it evaluates with."""
    for absent in ("d4rl", "gym", "wandb", "pyrallis"):
        stub: Any = types.ModuleType(absent)
        stub.Env, stub.wrap = object, lambda *_, **__: lambda function: function
        sys.modules.setdefault(absent, stub)
    file, make = _CORL[name]
    spec = importlib.util.spec_from_file_location(f"corl_{file}", folder / "algorithms" / "offline" / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise UserError(f"--corl {folder}: is no checkout of tinkoff-ai/CORL ({error})") from error
    buffer = module.ReplayBuffer(data.observations.shape[1], data.actions.shape[1], len(data.rewards))
    names = {"observations": data.observations, "actions": data.actions, "rewards": data.rewards}
    terminals = 1 - data.masks
    buffer.load_d4rl_dataset({**names, "next_observations": data.observations, "terminals": terminals})
    update = make(module, data.observations.shape[1], data.actions.shape[1])

    def run() -> int:
        update(buffer.sample(256))
        return 1

    return run


def _adam(network: torch.nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=3e-4)


def _iql(module: Any, observation_dim: int, action_dim: int) -> Callable[[Any], Any]:
    actor, q = module.GaussianPolicy(observation_dim, action_dim, 1.0), module.TwinQ(observation_dim, action_dim)
    v = module.ValueFunction(observation_dim)
    networks = {"actor": actor, "q_network": q, "v_network": v}
    optimizers = {"actor_optimizer": _adam(actor), "q_optimizer": _adam(q), "v_optimizer": _adam(v)}
    return module.ImplicitQLearning(max_action=1.0, **networks, **optimizers, device="cpu").train


def _bc(module: Any, observation_dim: int, action_dim: int) -> Callable[[Any], Any]:
    actor = module.Actor(observation_dim, action_dim, 1.0)
    return module.BC(1.0, actor, _adam(actor), device="cpu").train


def _td3_bc(module: Any, observation_dim: int, action_dim: int) -> Callable[[Any], Any]:
    actor = module.Actor(observation_dim, action_dim, 1.0)
    one, two = module.Critic(observation_dim, action_dim), module.Critic(observation_dim, action_dim)
    return module.TD3_BC(1.0, actor, _adam(actor), one, _adam(one), two, _adam(two), device="cpu").train


def _awac(module: Any, observation_dim: int, action_dim: int) -> Callable[[Any], Any]:
    actor = module.Actor(observation_dim, action_dim, 256)
    one, two = module.Critic(observation_dim, action_dim, 256), module.Critic(observation_dim, action_dim, 256)
    return module.AdvantageWeightedActorCritic(actor, _adam(actor), one, _adam(one), two, _adam(two)).update


_CORL = {"iql": ("iql", _iql), "bc": ("any_percent_bc", _bc), "td3_bc": ("td3_bc", _td3_bc), "awac": ("awac", _awac)}
"""CORL's module of an algorithm and how its update is made; its ReBRAC is written in JAX."""
