"""The training loop, its options and its files."""

from fewjump.options.training import TrainConfig
from fewjump.train.conditions import Conditions
from fewjump.train.distributed import TrainingInterrupted
from fewjump.train.ema import ExponentialMovingAverage
from fewjump.train.log import read_metrics
from fewjump.train.loop import train
from fewjump.train.monitor import DivergenceError, TrainingWarning
from fewjump.train.state import ResumeError
from fewjump.train.trainer import TrainResult

__all__ = [
    "Conditions",
    "DivergenceError",
    "ExponentialMovingAverage",
    "ResumeError",
    "TrainConfig",
    "TrainResult",
    "TrainingInterrupted",
    "TrainingWarning",
    "read_metrics",
    "train",
]
