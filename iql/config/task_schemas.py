"""Types and ranges of the settings of tasks, the section env."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from iql.config.schema_types import (
    Beta,
    Count,
    Discount,
    Distribution,
    Expectile,
    Headline,
    LearningRate,
    Node,
    Nonnegative,
    OnlineSchedule,
    Polyak,
    Positive,
    Reward,
    Share,
    Target,
)

Settings = dict[str, Any]
"""An algorithm's settings as its authors have them for a task; they are checked where the algorithm reads them."""


class Finetune(Node):
    """Settings of the online phase that a task, or CORL for it, has of its own."""

    steps: Count | None = None
    schedule: OnlineSchedule | None = None
    evaluate_every: Count | None = None


class Recipe(Node):
    tau: Expectile
    beta: Beta
    dropout: Share | None
    hidden_dims: Annotated[list[Count], Field(min_length=1)] | None = None
    updates: Count
    evaluation_every: Count
    evaluation_episodes: Count
    score: Headline
    polyak: Polyak | None = None
    discount: Discount | None = None
    lr: LearningRate | None = None
    xql: Settings | None = None
    sql: Settings | None = None
    eql: Settings | None = None
    td3_bc: Settings | None = None
    rebrac: Settings | None = None
    awac: Settings | None = None
    finetune: Finetune | None = None


class Corl(Node):
    tau: Expectile
    beta: Beta
    polyak: Polyak
    policy: Distribution
    dropout: Share | None
    normalize: bool
    reward: Reward
    finetune: Finetune | None = None


class Rebrac(Node):
    actor_bc_coef: Nonnegative
    critic_bc_coef: Nonnegative


class Xql(Node):
    loss_temperature: Positive
    max_clip: Positive
    batch_size: Count
    value_updates: Count
    random_actions: Annotated[int, Field(ge=0)]
    action_noise: Positive | None


Name = Annotated[str, Field(min_length=1)]


class Keys(Node):
    """What a file calls its columns; only those that are given are looked at."""

    observations: Name | list[Name] = "observations"
    actions: Name | list[Name] = "actions"
    rewards: Name = "rewards"
    terminals: Name | None = None
    timeouts: Name | None = None
    next_observations: Name | list[Name] | None = None


class D4RLTask(Target):
    name: str
    simulator: str
    url: str | None
    rows: Count | None
    observation_dim: Count
    action_dim: Count
    horizon: Count
    ref_min: float
    ref_max: float
    reward: Reward
    path: Name | None = None
    keys: Keys | None = None
    next_observations: Literal["row", "file"] = "row"
    physics: Literal["d4rl", "gymnasium", "legacy"]
    normalize: bool
    recipe: Recipe
    corl: Corl | None = None
    xql: Xql | None = None
    rebrac: Rebrac | None = None


class MadeMaze2d(D4RLTask):
    made_rows: Annotated[int, Field(ge=1000, le=100_000_000)]
    made_seed: Annotated[int, Field(ge=0)]
    walk_steps: Count | None = None
    cloning: Share | None = None


class AntMazeTask(D4RLTask):
    goal: Literal["run", "episode"]


class OwnData(Target):
    name: Name | None
    horizon: Count | None
    reward: Reward
    ref_min: float | None
    ref_max: float | None
    normalize: bool
    recipe: Recipe


class FileTask(OwnData):
    path: Name | None
    keys: Keys | None = None
    next_observations: Literal["row", "file"] = "row"
    gym_id: Name | None


class MadeCartPole(OwnData):
    path: Name | None
    keys: Keys | None = None
    next_observations: Literal["row", "file"] = "row"
    made_rows: Annotated[int, Field(ge=1000, le=10_000_000)]
    made_seed: Annotated[int, Field(ge=0)]
    made_random: Annotated[float, Field(ge=0, le=1)]


class MinariTask(OwnData):
    dataset: Name | None
    trust: bool = False


class OGBenchTask(Target):
    name: Name | None
    dataset: Name | None
    path: Name | None
    url: Name | None
    success_timing: Literal["post", "pre"]
    observation_dim: Count | None
    action_dim: Count | None
    horizon: Count | None
    reward: Reward
    normalize: bool
    recipe: Recipe
