"""What a training record says of an update besides its losses."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny


def iql_diagnostics(
    v: Tensor, q: Tensor, advantage: Tensor, weights: Tensor, cap: Tensor, log_std: Tensor | None
) -> dict[str, Tensor]:
    """Metrics that explain an update of IQL, each [M]; nothing is synchronised to the host.

    v, advantage, weights [M, B]; q [M, 2, B]; cap [M, 1]; log_std [M, ...] or None.
    """
    return {
        "v": v.mean(1),
        "q": q.mean((1, 2)),
        "advantage_p10": advantage.quantile(0.1, dim=1),
        "advantage_p50": advantage.quantile(0.5, dim=1),
        "advantage_p90": advantage.quantile(0.9, dim=1),
        "capped_share": (weights >= cap).float().mean(1),
        # 0 where every weight is 0, as SQL's may be
        "effective_sample_size": weights.sum(1).square() / weights.square().sum(1).clamp(min=_TINY),
        **policy_diagnostics(log_std),
    }


def policy_diagnostics(log_std: Tensor | None) -> dict[str, Tensor]:
    """The mean log standard deviation of a Gaussian policy, [M], from log_std [M, ...]; nothing for None."""
    return {} if log_std is None else {"log_std": log_std.flatten(1).mean(1)}
