"""Mirrors of a run's metrics.jsonl: Weights & Biases and TensorBoard, by the names that configurations give them.

May import runs, system and errors.
"""

from iql.tracking.tensorboard import TensorBoardTracker
from iql.tracking.tracker import Artifacts, RunInfo, Tracker
from iql.tracking.wandb import WandbTracker

__all__ = ["Artifacts", "RunInfo", "TensorBoardTracker", "Tracker", "WandbTracker"]
