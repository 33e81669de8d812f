"""The cost of an evaluation for each family of tasks."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from iql.config import settings as configuration
from iql.config.folders import CONF
from iql.config.schema import constructor_arguments
from iql.evaluation.numpy_policies import NumpyPerceptron, NumpyPolicy
from iql.evaluation.workers import step_seconds

FAMILIES = (
    *("halfcheetah-medium-v2", "hopper-medium-v2", "walker2d-medium-v2", "ant-medium-v2"),
    *("antmaze-umaze-v2", "antmaze-medium-play-v2", "antmaze-large-play-v2", "kitchen-partial-v0"),
    *("door-human-v1", "hammer-human-v1", "pen-human-v1", "relocate-human-v1"),
    *("maze2d-umaze-v1", "maze2d-medium-v1", "maze2d-large-v1"),
)


def family_rows(rate: float) -> list[dict[str, Any]]:
    """What an evaluation of each family costs on one core, as a share of the training time at `rate` updates/s."""
    random = np.random.default_rng(0)
    rows = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name in FAMILIES:
            settings = configuration.read(compose("config", [f"env={name}"]))[0]
            env, evaluation = settings["env"], settings["evaluation"]
            widths = [env["observation_dim"], 256, 256, env["action_dim"]]
            kernels = [
                random.normal(0, n**-0.5, (n, m)).astype(np.float32) for n, m in zip(widths, widths[1:], strict=False)
            ]
            biases = [np.zeros(m, np.float32) for m in widths[1:]]
            zeros, ones = np.zeros(widths[0], np.float32), np.ones(widths[0], np.float32)
            act = NumpyPolicy(NumpyPerceptron(kernels, biases, "relu", None, 1e-6, [], []), True, zeros, ones)
            task = instantiate(constructor_arguments("env", env), _convert_="all")
            step = float(np.median([step_seconds(task, act, range(5 * i, 5 * i + 5)) for i in range(3)]))
            seconds = step * env["horizon"] * evaluation["episodes"]
            rows.append(
                {
                    "env": name,
                    "step_us": round(step * 1e6),
                    "episodes": evaluation["episodes"],
                    "seconds": round(seconds, 2),
                    "every": evaluation["every"],
                    "share": round(seconds * rate / evaluation["every"], 3),
                }
            )
            print(rows[-1], file=sys.stderr)
    return rows
