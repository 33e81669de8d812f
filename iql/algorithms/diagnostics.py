"""What a training record says of an update besides its losses."""

from __future__ import annotations

import torch
from torch import Tensor

from iql.algorithms import losses
from iql.networks.distributions import Categorical, Gaussian

_TINY = torch.finfo(torch.float32).tiny


def iql_diagnostics(
    v: Tensor, q: Tensor, advantage: Tensor, weights: Tensor, cap: Tensor, policy: Gaussian | Categorical
) -> dict[str, Tensor]:
    """Metrics that explain an update of IQL, each [M]; nothing is synchronised to the host.

    v, advantage, weights [M, B]; q [M, 2, B]; cap [M, 1]; policy: what the network gave.
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
        **policy_diagnostics(policy),
    }


def policy_diagnostics(policy: Gaussian | Categorical) -> dict[str, Tensor]:
    """The mean log standard deviation of a Gaussian, the mean entropy of a Categorical, [M]; else nothing."""
    if isinstance(policy, Categorical):
        return {"entropy": losses.entropy(policy.logits).mean(1)}
    return {} if policy.log_std is None else {"log_std": policy.log_std.flatten(1).mean(1)}
