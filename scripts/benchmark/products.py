"""The limit of training's speed: the matrix products of an update, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmark.measurement import now
from iql.networks.mlp import PRODUCT_TYPES


def update_products(
    sizes: tuple[int, int], hidden: list[int], batch: int, pack: int, precision: str, device: Any, fresh_value: bool
) -> list[Callable[[], Any]]:
    """The products of one update of `pack` runs, each with weights of its own; on a CPU they share the other operands,
    as the update does, so that these stay in the cache. fresh_value: whether V is computed again after its step."""
    low_precision = PRODUCT_TYPES[precision] or torch.float32
    observation_dim, action_dim = sizes
    scratch: dict[tuple, Any] = {}

    def random(groups: int, rows: int, columns: int, kind: Any, own: bool = False) -> Any:
        place = (groups, rows, columns, kind)
        if own or device.type == "cuda" or place not in scratch:
            scratch[place] = torch.randn(*place[:3], device=device).to(kind)
        return scratch[place]

    products: list[Callable[[], Any]] = []

    def network(fan_in: int, fan_out: int, copies: int, passes: tuple[tuple[int, int], ...]) -> None:
        groups, parts = (pack * copies, 1) if device.type == "cuda" else (1, pack * copies)
        widths = [fan_in, *hidden, fan_out]
        for _ in range(parts):
            kinds = [low_precision if 0 < i < len(widths) - 2 else torch.float32 for i in range(len(widths) - 1)]
            pairs = list(zip(widths[:-1], widths[1:], kinds, strict=True))
            kernels = [random(groups, n, m, kind, own=True) for n, m, kind in pairs]
            kernels[-1] = kernels[-1].mT.contiguous().mT  # the form in which few columns are fast
            for ahead, rows in passes:  # of the forward and of the backward pass
                for kernel, (n, m, kind) in zip(kernels, pairs, strict=True):
                    x, y = random(groups, ahead, n, kind), random(groups, ahead, m, kind)
                    products.append(partial(torch.bmm, x, kernel, out=y))
                for number, (kernel, (n, m, kind)) in enumerate(zip(kernels, pairs, strict=True)):
                    if not rows:
                        break
                    x, y = random(groups, rows, n, kind), random(groups, rows, m, kind)
                    transposed = number == len(pairs) - 1
                    gradient = random(groups, m, n, kind) if transposed else random(groups, n, m, kind)
                    products.append(partial(torch.bmm, *((y.mT, x) if transposed else (x.mT, y)), out=gradient))
                    if number:
                        outer = torch.mul if m == 1 else torch.bmm
                        products.append(partial(outer, y, kernel.mT, out=random(groups, rows, n, kind)))

    both = observation_dim + action_dim
    network(both, 1, 2, ((batch, 0),))  # the target
    network(observation_dim, 1, 1, ((batch, batch), (2 * batch, 0)) if fresh_value else ((2 * batch, batch),))
    network(observation_dim, action_dim, 1, ((batch, batch),))
    network(both, 1, 2, ((batch, batch),))
    return products


def limit(
    sizes: tuple[int, int],
    hidden: list[int],
    batch: int,
    pack: int,
    threads: int,
    precision: str,
    device: Any,
    fresh_value: bool = True,
) -> float:
    """Updates/s, summed, if an update were nothing but its products: the best of five times. IQL has fresh_value.

    On a CPU each thread takes whole updates of its own, as members of a pack are trained; on CUDA the pack's are
    taken together, in one graph.
    """
    repeats = 30
    if device.type == "cuda":
        products = update_products(sizes, hidden, batch, pack, precision, device, fresh_value)
        return pack / min(_seconds_in_graph(products, repeats, device) for _ in range(5))
    of_threads = [update_products(sizes, hidden, batch, 1, precision, device, fresh_value) for _ in range(threads)]
    barrier = threading.Barrier(threads)
    times: list[tuple[float, float]] = []  # taken by the threads themselves: another may get no core while they run

    def work(products: list[Callable[[], Any]]) -> None:
        torch.set_num_threads(1)
        for _ in range(5):
            barrier.wait()
            began = time.perf_counter()
            for product in products * repeats:
                product()
            times.append((began, time.perf_counter()))
            barrier.wait()

    workers = [threading.Thread(target=work, args=(products,)) for products in of_threads]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rounds = [times[i : i + threads] for i in range(0, len(times), threads)]
    seconds = [max(end for _, end in each) - min(began for began, _ in each) for each in rounds]
    return threads * repeats / min(seconds)


def _seconds_in_graph(products: list[Callable[[], Any]], repeats: int, device: Any) -> float:

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for product in products:
            product()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for product in products:
            product()
    began = now(device)
    for _ in range(repeats):
        graph.replay()
    return (now(device) - began) / repeats
