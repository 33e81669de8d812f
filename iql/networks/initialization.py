"""Initial weights of perceptrons, as the original implementations draw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from iql.data.random_streams import key


def draw_layers(widths: Sequence[int], seed: int, name: str, initialization: str) -> list[tuple[Tensor, Tensor]]:
    """Kernel [in, out] and bias [out] of each layer of the perceptron `name`: q1, policy, ...

    Raises ValueError for an initialization that INITIALIZATIONS does not name.
    """
    if initialization not in INITIALIZATIONS:
        raise ValueError(f"must be one of {', '.join(INITIALIZATIONS)}, got {initialization!r}")
    generator = torch.Generator().manual_seed(key(seed, f"initialization/{name}"))
    layers = [(torch.empty(m, n), torch.zeros(n)) for m, n in zip(widths[:-1], widths[1:], strict=True)]
    for number, (kernel, bias) in enumerate(layers):
        last = number == len(layers) - 1
        INITIALIZATIONS[initialization](kernel, bias, name if last else None, generator)
    return layers


def _orthogonal(kernel: Tensor, bias: Tensor, last_of: str | None, generator: torch.Generator) -> None:
    nn.init.orthogonal_(kernel, gain=2**0.5, generator=generator)


def _pytorch(kernel: Tensor, bias: Tensor, last_of: str | None, generator: torch.Generator) -> None:
    for parameter in (kernel, bias):
        nn.init.uniform_(parameter, -(len(kernel) ** -0.5), len(kernel) ** -0.5, generator=generator)


def _rebrac(kernel: Tensor, bias: Tensor, last_of: str | None, generator: torch.Generator) -> None:
    if last_of is None:
        nn.init.uniform_(kernel, -(len(kernel) ** -0.5), len(kernel) ** -0.5, generator=generator)
        bias.fill_(0.1)
    else:
        limit = 1e-3 if last_of == "policy" else 3e-3
        for parameter in (kernel, bias):
            nn.init.uniform_(parameter, -limit, limit, generator=generator)


def _xavier(kernel: Tensor, bias: Tensor, last_of: str | None, generator: torch.Generator) -> None:
    limit = (6 / sum(kernel.shape)) ** 0.5 * (0.01**0.5 if last_of == "policy" else 1)
    nn.init.uniform_(kernel, -limit, limit, generator=generator)


INITIALIZATIONS: dict[str, Callable[[Tensor, Tensor, str | None, torch.Generator], None]] = {
    "orthogonal": _orthogonal,
    "pytorch": _pytorch,
    "rebrac": _rebrac,
    "xavier": _xavier,
}
"""orthogonal: gain √2 on every layer, zero biases (IQL's authors, SQL, XQL). pytorch: uniform within ±1/√in, biases too
(gwthomas, CORL). rebrac: hidden layers uniform within ±1/√in with biases 0.1, the last layer within ±0.003, the
policy's within ±0.001 (CORL's ReBRAC). xavier: uniform within ±√(6/(in + out)), zero biases, the policy's last
kernel with a variance 0.01 times that (FQL)."""
