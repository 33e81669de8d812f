"""Mirrors of metrics.jsonl: Weights & Biases and TensorBoard."""

from iql.tracking.run import Leavings, RunInfo, Tracker
from iql.tracking.tensorboard import TensorBoardTracker
from iql.tracking.wandb import WandbTracker

__all__ = ["Leavings", "RunInfo", "TensorBoardTracker", "Tracker", "WandbTracker"]
