"""Train Implicit Q-Learning: compose a configuration, check it, train. The same command resumes.

python train.py
python train.py env=hopper-medium-v2 algorithm.tau=0.7 'seed=[0,1,2]'
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from iql.commands.exit_codes import ONE_LINE_ERRORS, exit_code_of, report
from iql.commands.usage import quoted_paths
from iql.config import settings as configuration
from iql.config.class_names import current
from iql.config.folders import CONF
from iql.config.settings import Settings

# In the job of a sweep or of Hydra's launcher sys.argv names another program, and its log is still train.py's.
SCRIPT = "iql-train" if Path(sys.argv[0]).name == "iql-train" else "train.py"


def main() -> int:
    """Run the command line; every error that a user can correct is one line and exit code 1."""
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        # Hydra then raises errors instead of printing its own many lines.
        os.environ |= {"HYDRA_FULL_ERROR": "1", ONE_LINE_ERRORS: "1"}
    sys.argv[1:] = quoted_paths(sys.argv[1:])
    return exit_code_of(compose_and_train, "interrupted before training began; nothing is lost")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_train(config: DictConfig) -> float | None:
    """Train as one command line says. Raises SystemExit with the exit code of an error."""
    try:
        members = configuration.read(config)
        choices = HydraConfig.get().runtime.choices
        defaults = configuration.read(hydra.compose("config", configuration.reference(members[0], choices)))[0]
        overrides = list(HydraConfig.get().overrides.task)
        return _train(members, defaults, [overrides] * len(members))
    except Exception as error:
        raise SystemExit(report(error, SCRIPT)) from error


def job(members: list[Settings], defaults: Settings, overrides: list[list[str]]) -> None:
    """Train as a job of a sweep (iql.launching.job). Raises SystemExit with the exit code of an error.

    The log shows what a terminal would. Classes may have the names that earlier versions submitted.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _train(current(members), current(defaults), overrides)
    except Exception as error:
        raise SystemExit(report(error, SCRIPT)) from error


def _train(members: list[Settings], defaults: Settings, overrides: list[list[str]]) -> Any:
    from iql.training.session import train  # it imports torch, which takes longer than refusing a configuration

    return train(members, defaults, overrides)
