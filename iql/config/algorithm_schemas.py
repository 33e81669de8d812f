"""Types and ranges of the settings of algorithms, and what an algorithm needs of other sections."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from iql.config.schema_types import (
    Activation,
    Beta,
    Count,
    Discount,
    Distribution,
    Expectile,
    Initialization,
    LayerNorm,
    LearningRate,
    Node,
    Nonnegative,
    PolicyMean,
    Polyak,
    Positive,
    Reward,
    Schedule,
    Share,
    Target,
)


class Recipe(Node):
    """Settings of other sections as an algorithm's authors have them: the defaults there."""

    hidden_dims: Annotated[list[Count], Field(min_length=1)] | None = None
    distribution: Distribution | None = None
    dropout: Share | None = None
    log_std_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    activation: Activation | None = None
    std: Positive | None = None
    value_layer_norm: LayerNorm | None = None
    q_layer_norm: LayerNorm | None = None
    lr: LearningRate | None = None
    batch_size: Count | None = None
    reward: Reward | None = None
    normalize: bool | None = None


class Algorithm(Target):
    """networks: those that are trained. targets: those of them that have a target network.
    distributions: of our own policy network, those that the update can train."""

    networks: ClassVar[tuple[str, ...]] = ("value", "q", "policy")
    targets: ClassVar[tuple[str, ...]] = ("q",)
    distributions: ClassVar[tuple[str, ...]] = ("gaussian", "deterministic", "categorical")
    initialization: Initialization
    policy_mean: PolicyMean
    recipe: Recipe | None = None


class IQL(Algorithm):
    tau: Expectile
    beta: Beta
    discount: Discount
    polyak: Polyak
    advantage_cap: Positive
    fresh_value: bool
    q_loss_scale: Positive
    policy_schedule: Schedule
    extraction: Literal["awr", "ddpg_bc"] = "awr"
    bc_coef: Nonnegative = 1.0


class FQLIQL(Algorithm):
    distributions: ClassVar[tuple[str, ...]] = ("gaussian", "deterministic")
    tau: Expectile
    beta: Beta
    discount: Discount
    polyak: Polyak
    advantage_cap: Positive
    policy_schedule: Schedule
    extraction: Literal["awr", "ddpg_bc"]
    bc_coef: Nonnegative


class DelayedPolicy(Algorithm):
    """What TD3+BC and ReBRAC share."""

    networks: ClassVar[tuple[str, ...]] = ("q", "policy")
    targets: ClassVar[tuple[str, ...]] = ("q", "policy")
    distributions: ClassVar[tuple[str, ...]] = ("deterministic",)
    discount: Discount
    polyak: Polyak
    policy_noise: Nonnegative
    noise_clip: Nonnegative
    policy_freq: Count


class TD3BC(DelayedPolicy):
    alpha: Positive


class ReBRAC(DelayedPolicy):
    actor_bc_coef: Nonnegative
    critic_bc_coef: Nonnegative
    normalize_q: bool
    policy_lr_factor: Positive


class AWAC(Algorithm):
    networks: ClassVar[tuple[str, ...]] = ("q", "policy")
    distributions: ClassVar[tuple[str, ...]] = ("gaussian",)
    awac_lambda: Positive
    discount: Discount
    polyak: Polyak
    advantage_cap: Positive


class BC(Algorithm):
    networks: ClassVar[tuple[str, ...]] = ("policy",)
    targets: ClassVar[tuple[str, ...]] = ()
    top_fraction: Annotated[float, Field(gt=0, le=1)] | None
    return_discount: Discount
    policy_schedule: Schedule


class SQL(Algorithm):
    alpha: Positive
    discount: Discount
    polyak: Polyak
    advantage_cap: Positive
    policy_schedule: Schedule


class EQL(SQL):
    max_clip: Positive
    beta: Beta


class XQL(Algorithm):
    distributions: ClassVar[tuple[str, ...]] = ("gaussian", "deterministic")
    loss_temperature: Positive
    max_clip: Positive
    beta: Beta
    huber_delta: Positive
    discount: Discount
    polyak: Polyak
    advantage_cap: Positive
    value_updates: Count
    random_actions: Annotated[int, Field(ge=0)]
    action_noise: Positive | None = Field(description="null or a number > 0, and null where random_actions is above 0")
    action_noise_clip: Positive
    policy_schedule: Schedule

    @field_validator("action_noise")
    @classmethod
    def _alone(cls, action_noise: float | None, info: ValidationInfo) -> float | None:
        if action_noise is not None and info.data.get("random_actions"):
            raise ValueError("random_actions and action_noise exclude each other")
        return action_noise
