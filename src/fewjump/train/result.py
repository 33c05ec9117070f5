"""What a training returns."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from fewjump.denoiser.base import Denoiser
from fewjump.train.ema import ExponentialMovingAverage


@dataclass
class TrainResult:
    """What :func:`fewjump.train.train` returns.

    Attributes:
        student: the trained denoiser (the one given), last weights, in eval mode.
        ema: the moving average of its weights, or None.
        step: optimiser steps done, in all sessions together.
        metrics: the last logged line.
        stopped_by_time: whether ``max_seconds`` ended it before the last step.
    """

    student: Denoiser
    ema: ExponentialMovingAverage | None
    step: int
    metrics: dict[str, Any] = field(default_factory=dict)
    stopped_by_time: bool = False

    def averaged(self) -> Denoiser:
        """A copy of the student with the averaged weights (the last ones without an average)."""
        model = copy.deepcopy(self.student)
        if self.ema is not None:
            self.ema.copy_to(model)
        return model.eval()
