"""The types that schemas of settings are built of: ranges of numbers, choices, and the two kinds of sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Nonnegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Expectile = Annotated[float, Field(ge=0.5, lt=1)]
Beta = Annotated[float, Field(ge=0)]
Discount = Annotated[float, Field(ge=0, le=1)]
Polyak = Annotated[float, Field(gt=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Initialization = Literal["orthogonal", "pytorch", "rebrac", "xavier"]
LayerNorm = Literal["before", "after"]
Activation = Literal["relu", "gelu"]
PolicyMean = Literal["tanh", "linear"]
Schedule = Literal["cosine", "constant"]
OnlineSchedule = Literal["constant", "restarted", "continued"]
Headline = Literal["last10", "last3", "final"]
Reward = Literal["none", "return_range", "minus_one", "hundredfold"]
Distribution = Literal["gaussian", "deterministic"]


class Node(BaseModel):
    """A section of the configuration: no key but these, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Target(Node):
    """A section that becomes an object."""

    target: str = Field(alias="_target_")
