"""The training loop, its options and its files."""

from fewjump.options.training import TrainConfig
from fewjump.train.divergence import DivergenceError
from fewjump.train.ema import ExponentialMovingAverage
from fewjump.train.interrupt import TrainingInterrupted
from fewjump.train.log import read_metrics
from fewjump.train.loop import train
from fewjump.train.monitor import TrainingWarning
from fewjump.train.result import TrainResult
from fewjump.train.state import ResumeError

__all__ = [
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
