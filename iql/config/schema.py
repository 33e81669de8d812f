"""Types and ranges of every setting; those of tasks are in task_schemas.py.

The YAML files in conf/ hold the values; nothing here imports torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from iql.config.algorithm_schemas import AWAC, BC, EQL, FQLIQL, IQL, SQL, TD3BC, XQL, Algorithm, ReBRAC
from iql.config.schema_types import (
    Activation,
    Count,
    Distribution,
    Headline,
    Initialization,
    LayerNorm,
    LearningRate,
    Node,
    Nonnegative,
    OnlineSchedule,
    PolicyMean,
    Positive,
    Share,
    Target,
)
from iql.config.task_schemas import AntMazeTask, D4RLTask, FileTask, MadeCartPole, MadeMaze2d, MinariTask, OGBenchTask


class Perceptron(Target):
    hidden_dims: Annotated[list[Count], Field(min_length=1)]
    initialization: Initialization
    layer_norm: LayerNorm | None = None
    activation: Activation = "relu"


def _ascending(pair: list[float]) -> list[float]:
    if pair[0] >= pair[1]:
        raise ValueError("the lower one first")
    return pair


class Policy(Perceptron):
    distribution: Distribution
    mean: PolicyMean
    dropout: Share | None
    log_std_range: Annotated[list[float], AfterValidator(_ascending)] = Field(
        min_length=2, max_length=2, description="two numbers, the lower one first"
    )
    std: Positive | None = None


class CategoricalPolicy(Perceptron):
    dropout: Share | None


class Adam(Target):
    lr: LearningRate
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = Field(default=[0.9, 0.999])
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    amsgrad: bool = False
    foreach: bool | None = None
    fused: bool | None = None


class WandbTracker(Target):
    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline", "disabled"]
    init_timeout: Positive
    artifact: bool


class Network(Node):
    hidden_dims: Annotated[list[Count], Field(min_length=1)]
    activation: Activation = "relu"
    value: Any
    q: Any
    policy: Any


class Checkpoint(Node):
    every: Count
    keep: Annotated[int, Field(ge=2)]


class Evaluation(Node):
    every: Count | None
    episodes: Count
    final_episodes: Annotated[int, Field(ge=0)] = 0
    headline: Headline
    workers: Count | None


class Exploration(Node):
    temperature: Nonnegative
    action_noise: Nonnegative


class Finetune(Node):
    source: str | None = Field(alias="from")
    steps: Count
    updates_per_step: Count
    start_after: Annotated[int, Field(ge=0)]
    capacity: Count
    offline_share: Annotated[float, Field(ge=0, le=1)] | None
    schedule: OnlineSchedule
    evaluate_every: Count | None
    exploration: Exploration


class Sweep(Node):
    name: str = Field(pattern=r"^[\w-][\w.-]*$", description="a folder's name: letters, digits, dots, _ and -")
    grid: list[str]
    draws: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class LocalLauncher(Target):
    workers: Count | None
    pack: Count | None
    gpu_memory_gb: Positive | None


class SlurmLauncher(Target):
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    time_minutes: Count
    cpus: Count
    memory_gb: Positive
    gpus: Annotated[int, Field(ge=0, le=1)]
    gpu_memory_gb: Positive
    pack: Count | None
    parallel: Count
    warning_seconds: Count
    setup: list[str]
    sbatch: dict[str, str | int | float | bool]


class Run(Node):
    """A run's settings as one command line gives them; `Any` stands where a user's own class may."""

    seed: Annotated[int, Field(ge=0)]
    updates: Annotated[int, Field(ge=0)]
    batch_size: Count
    precision: Literal["float32", "ieee", "bf16"]
    code_path: Literal["auto", "plain", "fused", "native"]
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    threads: Count | None
    runs: str
    sweep: Sweep
    log_every: Count
    checkpoint: Checkpoint
    env: Any
    algorithm: Any
    network: Network
    optimizer: Any
    evaluation: Evaluation
    finetune: Finetune | None = None
    tracker: dict[str, Any]


# What we know of our own classes; a user's are held to their signature.
SCHEMAS: dict[str, type[Target]] = {
    "iql.tasks.d4rl.D4RLTask": D4RLTask,
    "iql.tasks.d4rl.AntMazeTask": AntMazeTask,
    "iql.tasks.generated.MadeMaze2d": MadeMaze2d,
    "iql.tasks.cartpole.MadeCartPole": MadeCartPole,
    "iql.tasks.file.FileTask": FileTask,
    "iql.tasks.minari.MinariTask": MinariTask,
    "iql.tasks.ogbench.OGBenchTask": OGBenchTask,
    "iql.algorithms.iql.IQL": IQL,
    "iql.algorithms.iql_fql.FQLIQL": FQLIQL,
    "iql.algorithms.bc.BC": BC,
    "iql.algorithms.sql.SQL": SQL,
    "iql.algorithms.eql.EQL": EQL,
    "iql.algorithms.xql.XQL": XQL,
    "iql.algorithms.td3_bc.TD3BC": TD3BC,
    "iql.algorithms.rebrac.ReBRAC": ReBRAC,
    "iql.algorithms.awac.AWAC": AWAC,
    "iql.networks.critics.Value": Perceptron,
    "iql.networks.critics.TwinQ": Perceptron,
    "iql.networks.critics.DiscreteTwinQ": Perceptron,
    "iql.networks.actors.Policy": Policy,
    "iql.networks.actors.CategoricalPolicy": CategoricalPolicy,
    "torch.optim.Adam": Adam,
    "iql.tracking.WandbTracker": WandbTracker,
    "iql.tracking.TensorBoardTracker": Target,
    "iql.launching.local.LocalLauncher": LocalLauncher,
    "iql.launching.slurm.SlurmLauncher": SlurmLauncher,
}

# Where an object stands, the schema that its defaults have, and what the code hands it besides its settings.
PLACES: dict[str, tuple[type[Target], str]] = {
    "env": (MadeMaze2d, ""),
    "algorithm": (IQL, ""),
    "network.value": (Perceptron, "observation_dim seeds"),
    "network.q": (Perceptron, "observation_dim action_dim seeds"),
    "network.policy": (Policy, "observation_dim action_dim seeds"),
    "optimizer": (Adam, "params"),
    "tracker.wandb": (WandbTracker, ""),
    "tracker.tensorboard": (Target, ""),
    "launcher": (SlurmLauncher, ""),
}

GROUPS = ("env", "algorithm", "network", "optimizer", "evaluation", "finetune", "tracker", "preset", "sweep")

# Settings that other sections read, and that no constructor takes.
SETTINGS_ONLY = {"env": ("recipe", "corl", "xql", "rebrac"), "algorithm": ("initialization", "policy_mean", "recipe")}

# What the members of one pack may differ in.
MEMBER_KEYS = (
    "seed",
    "algorithm.tau",
    "algorithm.beta",
    "algorithm.discount",
    "algorithm.polyak",
    "algorithm.advantage_cap",
    "algorithm.alpha",
    "algorithm.loss_temperature",
    "algorithm.max_clip",
    "algorithm.huber_delta",
    "algorithm.bc_coef",
    "algorithm.actor_bc_coef",
    "algorithm.critic_bc_coef",
    "algorithm.policy_noise",
    "algorithm.noise_clip",
    "algorithm.awac_lambda",
    "optimizer.lr",
)


def algorithm_schema(algorithm: dict[str, Any]) -> type[Algorithm]:
    """What is known of an algorithm, by its section; of one of the user's own what Algorithm assumes."""
    schema = SCHEMAS.get(algorithm["_target_"], Algorithm)
    return schema if issubclass(schema, Algorithm) else Algorithm


def own_algorithms() -> dict[str, type[Algorithm]]:
    """Our own algorithms, each by its option of the group `algorithm`."""
    return {target.split(".")[2]: schema for target, schema in SCHEMAS.items() if issubclass(schema, Algorithm)}


def constructor_arguments(section: str, node: dict[str, Any]) -> dict[str, Any]:
    """The node without the settings that only other sections read."""
    return {key: value for key, value in node.items() if key not in SETTINGS_ONLY.get(section, ())}
