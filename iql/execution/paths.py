"""The choice of how a learner's updates are carried out.

plain   eager.Eager, the algorithm's own update with autograd; on CUDA in graphs where it can be captured
native  in C on a CPU, each member on one thread, a member alone on two: native_iql.NativeIQL for IQL, FQL's IQL, SQL,
        EQL and XQL; native_autograd.NativeAutograd, which leaves what is not a perceptron to autograd, for all others
fused   iql_gradients.IQLGradients, IQL's with torch's operations; on CUDA of the whole pack in graphs, as "graphs"
"""

from __future__ import annotations

import logging
from typing import Protocol

import torch

from iql.algorithms.eql import EQL
from iql.algorithms.iql import IQL
from iql.algorithms.iql_fql import FQLIQL
from iql.algorithms.sql import SQL
from iql.algorithms.xql import XQL
from iql.data.sampling import Batches
from iql.errors import UserError
from iql.execution.eager import Eager
from iql.execution.graphs import AutogradUpdate, Graphs, NotCapturable
from iql.execution.iql_gradients import IQLGradients
from iql.execution.native_library import Library, Unavailable, load
from iql.execution.threads import MemberThreads
from iql.learner.learner import Learner, Metrics
from iql.learner.optimizers import PackAdam
from iql.networks.actors import CategoricalPolicy, Policy
from iql.networks.critics import DiscreteTwinQ, TwinQ, Value
from iql.networks.mlp import PRODUCT_TYPES

log = logging.getLogger(__name__)

_NETWORKS: dict[str, type] = {"value": Value, "q": TwinQ, "policy": Policy}
WRITTEN_OUT: dict[type, dict[str, type]] = dict.fromkeys((IQL, FQLIQL, SQL, EQL, XQL), _NETWORKS)
"""Algorithms whose gradients are written out, and the networks for which they are."""

_PERCEPTRONS = (Value, TwinQ, DiscreteTwinQ, Policy, CategoricalPolicy)
"""Networks that are a perceptron and what comes after it."""


class Execution(Protocol):
    """What carries out a learner's updates.

    name     the code path: plain, native, fused or graphs
    threads  CPU threads that it was given
    """

    name: str
    threads: int

    def advance(self, batches: Batches, count: int, measure: bool = False) -> Metrics | None:
        """`count` updates, which learner.update_count counts; returns the last one's metrics, if `measure`."""

    def refresh(self) -> None:
        """To be called after weights were loaded into the learner."""


def obstacle(learner: Learner) -> str | None:
    """Why a learner's gradients are not those written out here, or None."""
    networks = WRITTEN_OUT.get(type(learner.algorithm))  # no subclass, whose update may be another one
    if networks is None:
        return f"algorithm is a {type(learner.algorithm).__name__}"
    if isinstance(learner.algorithm, IQL) and learner.algorithm.extraction != "awr":
        return f"algorithm.extraction is {learner.algorithm.extraction}"
    for name, kind in networks.items():
        if type(learner.networks[name]) is not kind:
            return f"network.{name} is a {type(learner.networks[name]).__name__}"
    return _foreign(learner)


def _foreign(learner: Learner) -> str | None:
    """Why a learner's perceptrons are not computed in C, or None."""
    for name in learner.algorithm.networks:
        if type(learner.networks[name]) not in _PERCEPTRONS:
            return f"network.{name} is a {type(learner.networks[name]).__name__}"
    if not all(isinstance(optimizer, PackAdam) for optimizer in learner.optimizers.values()):
        return "optimizer is not torch.optim.Adam in its plain form"
    return None


def choose(learner: Learner, batch_size: int, path: str, threads: int) -> Execution:
    """What carries out the learner's updates on `path`, on a CPU with so many threads.

    path: "auto" (the fastest that can be), "plain", "native", "fused" (which is "graphs" on CUDA) or "graphs"
    (elsewhere than on CUDA the same without graphs, for tests). Raises UserError where it cannot be.
    """
    torch.set_num_threads(threads)
    reason, on_cuda = obstacle(learner), learner.device.type == "cuda"
    if path == "plain":
        return _plain(learner, threads)
    foreign = _foreign(learner)
    if reason and (path == "native" or (path == "auto" and not on_cuda and not foreign)):
        if foreign:
            raise UserError(f"code_path=native: {foreign}; use code_path=auto or plain")
        if library := _native(learner, path, threads, "plain"):
            return MemberThreads(learner, batch_size, threads, library, written_out=False)
    if reason:
        if path == "auto":
            return _plain(learner, threads)
        raise UserError(f"code_path={path}: {reason}; use code_path=auto or plain")
    native = _native(learner, path, threads, "fused")
    if on_cuda or path == "graphs":
        update = IQLGradients(learner, range(len(learner.seeds)), batch_size, together=True)
        return Graphs(learner, update, threads, "graphs")
    return MemberThreads(learner, batch_size, threads, native, written_out=True)


def _plain(learner: Learner, threads: int) -> Execution:
    if learner.device.type != "cuda":
        return Eager(learner, threads)
    try:
        return Graphs(learner, AutogradUpdate(learner), threads, "plain")
    except NotCapturable as error:
        log.warning("updates are not captured in CUDA graphs, and slower for it: %s", error)
        return Eager(learner, threads)


def _native(learner: Learner, path: str, threads: int, otherwise: str) -> Library | None:
    """The library in C, where `path` allows it and it can be had; for auto a log line says why it is `otherwise`."""
    if path not in ("auto", "native"):
        return None
    if learner.device.type == "cuda":
        if path == "native":
            raise UserError(f"code_path=native: it is for CPUs, not {learner.device}; use code_path=auto")
        return None
    members = len(learner.seeds)
    usable = 2 * (2 if members == 1 else members)  # from here on torch takes each product on two threads or more
    if path == "auto" and threads >= usable:
        return None
    try:
        library = load()
        if PRODUCT_TYPES[learner.precision] and not library.has_bf16():
            raise Unavailable("this CPU or its C compiler lacks AVX512_BF16, which it needs for precision=bf16")
    except Unavailable as error:
        if path == "native":
            raise UserError(f"code_path=native: {error}; use code_path=auto, or set CC") from None
        log.warning("code_path=%s, which is slower than native: %s", otherwise, error)
        return None
    return library
