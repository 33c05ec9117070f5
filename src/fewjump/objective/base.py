"""What an objective is: something that compares two laws and says how far apart they are.

And what the objectives that match a teacher share: known positions, and times that adapt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.objective.time_sampling import TimeSampling
from fewjump.options.objectives import MatchingOptions
from fewjump.random import Generator

Metrics = dict[str, Tensor]


class Objective(ABC):
    """A training loss for a student denoiser.

    Losses are means over the batch, in nats per position (a sum over positions divided by L), so
    that a batch split in equal parts has the mean of the parts' losses.

    Attributes:
        needs_teacher: whether ``teacher`` must be given.
        needs_data: whether the *contents* of ``batch`` are read; its shape always is.
    """

    needs_teacher: ClassVar[bool] = True
    needs_data: bool = True

    # With what it remembers, it is equal to itself only, whatever its options.
    __eq__, __hash__ = object.__eq__, object.__hash__

    @abstractmethod
    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        """Loss and metrics of one batch.

        Args:
            student: the denoiser that is trained.
            teacher: the denoiser it learns from, frozen (see :func:`freeze`); None for objectives
                that learn from data.
            batch: (B, L) int64 clean tokens on the student's device.
            generator: source of every random draw (see :mod:`fewjump.random`).

        Returns:
            The () loss, with gradients to the student's parameters only, and detached () metrics.
        """

    def settle(  # noqa: B027
        self, student: Denoiser, steps: int, earlier: Mapping[str, Any]
    ) -> None:
        """Fill in options that were left open, before they identify the run.

        Args:
            student: the denoiser that will be trained.
            steps: optimiser steps of the run.
            earlier: options of the objective of the run that is gone on with, or none: what a
                longer run was begun with stays.
        """

    def begin_step(self, step: int) -> None:  # noqa: B027
        """The training loop's word that step ``step``, counted from 0, begins.

        For objectives with a schedule. What is remembered goes into a private attribute: the
        others are options, which identify a run.
        """

    def state(self) -> dict[str, list[float]]:
        """What the next step depends on beyond the student, saved with the training."""
        return {}

    def take_up(self, state: Mapping[str, list[float]]) -> None:  # noqa: B027
        """Go on from what :meth:`state` returned; an empty one starts afresh."""

    def before_save(self, step: int, student: Denoiser) -> Mapping[str, float]:
        """The training loop's word that the state after ``step`` steps is about to be saved.

        What it returns is logged. Raising ends the run and leaves the last saved state as it is.
        Called on every process, with equal weights; it must do the same on each.
        """
        return {}

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        """Raise ValueError, naming the remedy, if these two cannot be trained together."""
        if not self.needs_teacher:
            return
        teacher = require_frozen(teacher, student)
        if teacher.process is student.process:
            return
        if teacher.process.config() != student.process.config():
            raise ValueError(
                f"teacher and student have different processes ({teacher.process!r} and "
                f"{student.process!r}); build the student with process=teacher.process"
            )


def freeze(denoiser: Denoiser) -> Denoiser:
    """Put a teacher in eval mode and stop its gradients, in place; returns it."""
    return denoiser.eval().requires_grad_(False)


def require_frozen(teacher: Denoiser | None, student: Denoiser) -> Denoiser:
    """The teacher, if it is one that training cannot change.

    Raises:
        ValueError: if it is missing, is the student itself, trains, or records gradients.
    """
    if teacher is None:
        raise ValueError("this objective needs a teacher, got None")
    if teacher is student:
        raise ValueError("teacher and student are the same object; copy.deepcopy the teacher first")
    if teacher.training or any(p.requires_grad for p in teacher.parameters()):
        raise ValueError(
            "the teacher must be in eval mode and without gradients; "
            "call fewjump.objective.freeze(teacher) first"
        )
    return teacher


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
