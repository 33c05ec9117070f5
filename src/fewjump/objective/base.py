"""What an objective is: something that compares two laws and says how far apart they are.

And what objectives share: sequences of which a part is given (prompts, infilling), and, where they
match a teacher, times that adapt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.law.product import ProductLaw
from fewjump.objective.time_sampling import TimeSampling
from fewjump.options.matching import DataOptions, KnownName, MatchingOptions
from fewjump.options.sampled import HalvingOptions, RoundsOptions
from fewjump.process import Process
from fewjump.random import Generator, uniform

Metrics = dict[str, Tensor]


class Objective(ABC):
    """A training loss for a student denoiser.

    Losses are means over the batch, in nats per position (a sum over positions divided by L), so
    that a batch split in equal parts has the mean of the parts' losses.

    Attributes:
        needs_teacher: whether ``teacher`` must be given.
        needs_data: whether more of ``batch`` is read than its shape and the tokens that the process
            keeps, which say how long sequences are.
        coupled: whether a batch holds pairs of the teacher's samples and the noise that they began
            from, side by side: (B, 2L).
        keeps_network: whether the student is the teacher itself, sampled in another way.
        matches_teacher: whether the teacher's answers are learned, so that it matters whether they
            are calibrated.
    """

    needs_teacher: ClassVar[bool] = True
    needs_data: bool = True
    coupled: ClassVar[bool] = False
    keeps_network: ClassVar[bool] = False
    matches_teacher: ClassVar[bool] = True

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
            batch: (B, L) int64 clean tokens on the student's device; without data, any token that
                the process does not keep.
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

    def trained(self, student: Denoiser, teacher: Denoiser, seed: int) -> Denoiser:
        """What a distillation trains: the student, or a denoiser that carries it.

        Args:
            student: the denoiser that the user gets.
            teacher: frozen.
            seed: of initial weights, where more networks are needed.
        """
        return student

    def delivered(self, model: Denoiser) -> Denoiser:
        """What the user gets of a copy of what was trained: what :meth:`trained` was given."""
        return model

    def in_rounds(self) -> list[Objective]:
        """The objective of each training of a distillation in rounds: one, unless it says so."""
        return [self]

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


@dataclass(kw_only=True, eq=False)
class InRounds(Objective, RoundsOptions):
    """An objective of several trainings: the averaged student of one is the teacher of the next.

    Attributes:
        round: which this is, counted from 1.
    """

    round: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.round <= self.rounds:
            raise ValueError(f"round must lie in 1..{self.rounds}, got {self.round}")

    def in_rounds(self) -> list[Objective]:
        return [replace(self, round=number) for number in range(1, self.rounds + 1)]


@dataclass(kw_only=True, eq=False)
class HalvingObjective(InRounds, DataOptions, HalvingOptions):
    """Rounds that each double the step over which a student's answer is its teacher's."""

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        if student.joint:
            raise ValueError(
                "this method matches position by position: use student='product', or --method "
                "matching for joint students"
            )

    @property
    def step(self) -> float:
        """This round's step, in time."""
        return 2 ** (self.round - 1) / self.jumps_before

    def diverged(self, law: ProductLaw, target: ProductLaw, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the rows with gradients, up to a constant, and each row's KL without."""
        ones = torch.ones(rows.shape[0], device=rows.device)
        if self.divergence == "reverse":
            return law.reverse_divergence(target, rows, self.floor, ones)
        found = law.soft_cross_entropy(target, rows, ones)
        return found.total, found.cross_entropy.detach() - found.target_entropy


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


def require_likelihood(student: Denoiser, method: str) -> None:
    """Raise ValueError for a student whose laws only bound the likelihood of a sample."""
    if student.latent and not student.mixture:
        raise ValueError(
            f"{method} needs the likelihood of a sample, and this latent student has a bound of "
            "it; give its latent one category per sequence and nothing else, use another kind of "
            "student, or --method matching or vadd"
        )


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


def draw_known(name: KnownName, share: float, real: Tensor, generator: Generator = None) -> Tensor:
    """Which positions of a batch are given: boolean, (B, L). At least one of each row is not.

    Of the n real positions of a row, in their order:

    * ``prefix``: the first p, p uniform on {0..m} with m = ⌊share·n⌋.
    * ``infill``: all but a stretch of n − p, p as above, which lies anywhere.
    * ``scattered``: each on its own, with a probability that is uniform on (0, share) by row.

    Args:
        name: the rule.
        share: largest share of positions that is given (``scattered``: on average).
        real: (B, L) boolean, positions that are no kept token, such as padding: others are never
            given, for they are never hidden.
        generator: see :mod:`fewjump.random`.
    """
    place, size = real.cumsum(-1) - 1, real.sum(-1, keepdim=True)
    most = (share * size.double()).long()
    first = uniform(real.shape[:1], generator, real.device)[:, None]
    if name == "scattered":
        known = (uniform(real.shape, generator, real.device) < share * first) & real
        # Should all be given by chance, the last is not.
        return known & ~((known == real).all(-1, keepdim=True) & (place == size - 1))
    count = (first * (most + 1)).long().minimum(most)
    if name == "prefix":
        return real & (place < count)
    second = uniform(real.shape[:1], generator, real.device)[:, None]
    start = (second * (count + 1)).long().minimum(count)
    return real & ((place < start) | (place >= start + size - count))


class Given:
    """The given positions of a batch, or none.

    Args:
        x0: (B, L) int64 clean tokens.
        known: (B, L) boolean; None where nothing is given.
        process: the forward process.
    """

    def __init__(self, x0: Tensor, known: Tensor | None, process: Process) -> None:
        self.x0, self.known, self.process = x0, known, process
        # Under a mask what is shown clean is certain to every law already.
        self.certain = known is None or process.absorbing

    @classmethod
    def draw(
        cls,
        name: KnownName | None,
        share: float,
        x0: Tensor,
        process: Process,
        generator: Generator = None,
    ) -> Given:
        """By rule (see :func:`draw_known`); without one nothing is given, and nothing is drawn."""
        known = None if name is None else draw_known(name, share, ~process.is_kept(x0), generator)
        return cls(x0, known, process)

    def pin(self, x: Tensor) -> Tensor:
        """A state (..., B, L) with the given positions clean."""
        return x if self.known is None else torch.where(self.known, self.x0, x)

    def open(self, values: Tensor) -> Tensor:
        """Values (B, L) of the other positions; 0 (or False) at the given ones."""
        return values if self.known is None else values.masked_fill(self.known, 0)

    def asked(self, x_t: Tensor) -> Tensor:
        """Positions of x_t that are neither visible nor given, counted row-major: (N,) int64."""
        return self.open(self.process.hidden(x_t)).reshape(-1).nonzero()[:, 0]

    def condition(self, law: Law, rows: Tensor | None = None) -> Law:
        """The law of the batch (or of its ``rows``) given those positions."""
        if self.certain:
            return law
        assert self.known is not None
        if rows is None:
            return law.given(self.x0, self.known)
        return law.given(self.x0[rows], self.known[rows])
