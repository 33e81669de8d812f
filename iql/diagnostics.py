"""What a training record tells of an update besides its losses."""

from __future__ import annotations

from torch import Tensor


def diagnostics(
    *,
    losses: dict[str, Tensor],
    v: Tensor,
    q: Tensor,
    advantage: Tensor,
    weights: Tensor,
    cap: Tensor,
    log_std: Tensor | None,
    gradient_norms: dict[str, Tensor],
    policy_lr: Tensor,
) -> dict[str, Tensor]:
    """One update's metrics, each [M]; nothing is synchronised to the host.

    losses and gradient_norms: [M] by network (value, q, policy). v, advantage, weights [M, B]; q [M, 2, B];
    cap [M, 1]; log_std [M, ...] or None; policy_lr [M].
    """
    metrics = {
        **{f"{name}_loss": loss for name, loss in losses.items()},
        "v": v.mean(1),
        "q": q.mean((1, 2)),
        "advantage_p10": advantage.quantile(0.1, dim=1),
        "advantage_p50": advantage.quantile(0.5, dim=1),
        "advantage_p90": advantage.quantile(0.9, dim=1),
        "capped_share": (weights >= cap).float().mean(1),
        "effective_sample_size": weights.sum(1).square() / weights.square().sum(1),
        **{f"grad_norm_{name}": norm for name, norm in gradient_norms.items()},
        "policy_lr": policy_lr,
    }
    if log_std is not None:
        metrics["log_std"] = log_std.flatten(1).mean(1)
    return {name: metric.detach() for name, metric in metrics.items()}
