"""What the objectives that match a teacher share: known positions, and times that adapt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fewjump.denoiser.base import Denoiser
from fewjump.objective.base import Objective
from fewjump.objective.time_sampling import TimeSampling
from fewjump.options.objectives import MatchingOptions


@dataclass(kw_only=True, eq=False)
class MatchingObjective(Objective, MatchingOptions):
    """A teacher's objective that may show a part of every sequence, and choose its times.

    Attributes:
        times: draws, weights and gaps that adapt while training; uniform ones by default.
        default_rollout_steps: ``rollout_steps`` where it is left open.
    """

    times: TimeSampling | None = None
    default_rollout_steps: ClassVar[int] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.grid, self.steps = self.few_step_times(), None
        self.rollout_steps = self.teacher_steps
        if self.known is None:
            # What is not used does not identify a run.
            del self.known_share

    @property
    def teacher_steps(self) -> int:
        """``rollout_steps``, or what it is where it was left open."""
        return self.rollout_steps or self.default_rollout_steps

    def settle(self, student: Denoiser, steps: int, earlier: Mapping[str, Any]) -> None:
        if self.times is not None:
            self.times.settle(steps, earlier.get("times"))

    def begin_step(self, step: int) -> None:
        if self.times is not None:
            self.times.begin_step(step)

    def state(self) -> dict[str, list[float]]:
        return {} if self.times is None else self.times.state()

    def take_up(self, state: Mapping[str, list[float]]) -> None:
        if self.times is not None:
            self.times.take_up(state)
