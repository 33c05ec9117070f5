"""Options of the objectives that show the student noised data, and the parts that all share.

An objective's class inherits the parts that it takes, and a verb of the command line has a flag for
every field of them: a flag of a part that the student's objective does not inherit is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import tyro

from fewjump.config import one_of, require

KnownName = Literal["prefix", "infill", "scattered"]
Intermediate = Literal[
    "student-euler", "student-exact", "student-trapezoidal", "forward", "teacher-rollout"
]
JointIntermediate = Literal["forward", "teacher-rollout", "student"]
WeightingName = Literal["uniform", "elbo", "sigma"]
Weighting = WeightingName | Callable[[Any], Any]
Near = Literal["zero", "uniform", "adaptive"] | float
LatentEstimator = Literal["auto", "sum", "sample"]


def by_name(default: WeightingName) -> Any:
    """A function of times is for Python; the command line takes a name."""
    hint = f"(default: {default})"
    return tyro.conf.arg(constructor=cast(Any, WeightingName), help_behavior_hint=hint)


#: More jumps than this are a slip of the hand: each is a time that is written down.
_MOST_JUMPS = 100_000


@dataclass(kw_only=True)
class Part:
    """Base of the parts: each checks itself, whichever others it is joined with.

    Attributes:
        whose: the students that it is for, as a message says it.
    """

    whose: ClassVar[str] = "every student"

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range."""


@dataclass(kw_only=True)
class KnownOptions(Part):
    """Sequences of which a part is given: for prompts and infilling.

    Attributes:
        known: show a part of every sequence clean at all times, and leave it out of the loss: for
            prompts (prefix) and infilling (infill: all but one stretch; scattered: positions here
            and there).
        known_share: the largest share of a sequence that known shows.
    """

    known: KnownName | None = None
    known_share: float = 0.5

    whose = "methods that show the student data, such as --method matching"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.known is not None:
            one_of("rule", self.known, get_args(KnownName))
        require(0 < self.known_share < 1, f"known_share must lie in (0, 1), got {self.known_share}")
        if self.known is None:
            if self.known_share != KnownOptions.known_share:
                raise ValueError(
                    "known_share is for sequences of which a part is shown: give known='prefix', "
                    "or another rule"
                )
            # What is not used does not identify a run.
            del self.known_share


@dataclass(kw_only=True)
class TimeOptions(Part):
    """Times of training.

    Attributes:
        min_time: smallest time that is trained, in (0, 1).
    """

    min_time: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.min_time < 1, f"min_time must lie in (0, 1), got {self.min_time}")


@dataclass(kw_only=True)
class DataOptions(KnownOptions, TimeOptions):
    """Training from data."""


@dataclass(kw_only=True)
class JumpOptions(TimeOptions):
    """The few-step sampler that is trained for.

    Attributes:
        steps: train for exactly this many equal jumps from noise to data. Default: for any; on the
            student's own samples for 1; for a learned sampler 8.
        grid: train for the jumps between these decreasing times, in place of a number of them.
    """

    steps: Annotated[int | None, tyro.conf.arg(name="jumps")] = None
    grid: Annotated[tuple[float, ...] | None, tyro.conf.arg(name="jump-times")] = None

    whose = "--method matching, idlm, dmmd, dimo, data-only, vadd, e-moe and lsd"


@dataclass(kw_only=True)
class WholeJumpOptions(JumpOptions):
    """The same, always one from noise to data."""

    default_steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        times = self.few_step_times()
        require(
            times[0] == 1 and times[-1] == 0,
            f"grid must run from 1 to 0, as a sampler's does; got {times}",
        )

    def few_step_times(self) -> tuple[float, ...]:
        """The decreasing times of the sampler that is trained, from 1 to 0."""
        steps = self.default_steps if self.grid is None and self.steps is None else self.steps
        times = _few_steps(self.grid, steps, self.min_time)
        assert times is not None
        return times


@dataclass(kw_only=True)
class FewStepOptions(DataOptions, JumpOptions):
    """Learning what is behind a noisy state, at the times of a few-step sampler or at any.

    Attributes:
        weighting: weight of a time t in the loss: uniform; elbo, that of the likelihood bound; or
            sigma, the noise rate.
    """

    weighting: Annotated[Weighting, by_name("uniform")] = "uniform"

    whose = "--method matching, data-only, vadd and e-moe"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weighting(self.weighting)
        self.few_step_times()

    def few_step_times(self) -> tuple[float, ...] | None:
        """The decreasing times of the few-step form, if it is one."""
        return _few_steps(self.grid, self.steps, self.min_time)


@dataclass(kw_only=True)
class MatchingOptions(FewStepOptions):
    """Matching a teacher, by whatever student.

    Attributes:
        rollout_steps: with teacher-rollout: the teacher's steps from noise to t, and again from
            there to the cleaner state. Default: 8, or 16 for joint students.
    """

    rollout_steps: int | None = None

    whose = "--method matching"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.rollout_steps is None or self.rollout_steps >= 1,
            f"rollout_steps must be at least 1, got {self.rollout_steps}",
        )


@dataclass(kw_only=True)
class GapOptions(Part):
    """Where a product student's teacher is asked.

    Attributes:
        max_gap: largest time between the student's state and the teacher's cleaner one, in (0, 1].
    """

    max_gap: float = 1.0

    whose = (
        "student='product' of --method matching; joint ones say where the teacher is asked by near "
        "(--near)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.max_gap <= 1, f"max_gap must lie in (0, 1], got {self.max_gap}")


@dataclass(kw_only=True)
class JointOptions(Part):
    """What a joint student learns from the teacher's answer at a cleaner state.

    Attributes:
        near: where the teacher is asked. A share of the noise time in (0, 1); zero, next to the
            data; uniform, anywhere below; or adaptive, as far as its own doubt allows. Default: 0.1
            under a mask, 0.02 otherwise.
        tolerance: with near adaptive: the largest bias that is allowed, in nats per position.
        draws: sequences drawn from the teacher for each that is noised; draws of its latent for a
            latent student, where that is not summed out.
        summed: of what is drawn from the teacher, sum every token out given those to its left: less
            noise, most where near is large. For chains and mixtures, in more time; an
            autoregressive student's loss is so always.
        consistency: share in [0, 1] of the loss whose target is the student's own answer at a
            cleaner state; not for latent students.
        data_weight: weight of the data's own likelihood in the loss.
    """

    near: Near | None = None
    tolerance: float = 0.02
    draws: int = 1
    summed: bool = False
    consistency: float = 0.0
    data_weight: float = 0.0

    whose = (
        "joint students of --method matching; choose one, such as student='chain', or leave it out"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.near, str):
            if self.near not in ("zero", "uniform", "adaptive"):
                raise ValueError(
                    f"unknown near {self.near!r}; known: zero, uniform, adaptive, or a share in "
                    "(0, 1)"
                )
        elif self.near is not None:
            require(0 < self.near < 1, f"near as a share s/t must lie in (0, 1), got {self.near}")
        require(0 < self.tolerance < math.inf, f"tolerance must be above 0, got {self.tolerance}")
        require(self.draws >= 1, f"draws must be at least 1, got {self.draws}")
        require(
            0 <= self.consistency <= 1, f"consistency must lie in [0, 1], got {self.consistency}"
        )
        check_data_weight(self.data_weight)


@dataclass(kw_only=True)
class CorrelationOptions(Part):
    """What a joint student learns of the teacher's many steps (Di4C).

    Attributes:
        teacher_step: time by which the teacher brings a noisy state closer to the data, where the
            student is asked for its own answer; half the way to the data where that is nearer.
        distil_until: largest time at which the student learns the teacher's own answer.
        term_weights: weights in the loss of the teacher's answer close to the data, of the
            student's own, and of the data.
        control_variate: take the marginals of what is learned from its law, and only the
            correlations from draws: less noise. Of mixtures; others are trained without.
    """

    teacher_step: float = 0.01
    distil_until: float = 0.02
    term_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    control_variate: bool = True

    whose = "--method di4c"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.teacher_step <= 1, f"teacher_step must lie in (0, 1], got {self.teacher_step}"
        )
        require(
            0 < self.distil_until <= 1, f"distil_until must lie in (0, 1], got {self.distil_until}"
        )
        require(
            all(0 <= w < math.inf for w in self.term_weights) and any(self.term_weights),
            f"term_weights must be ≥ 0 and not all 0, got {self.term_weights}",
        )


@dataclass(kw_only=True)
class LatentOptions(Part):
    """What keeps a latent student's latent in use.

    Attributes:
        free_bits: nats per sequence that the latent may carry for nothing.
        kl_warmup: optimiser steps over which the price of what the latent carries rises from 0 to
            its full height; 0 for none. Default: half of the steps that the run was begun with.
        estimator: of the expectation over the latent: sum, over all its values (one category per
            sequence only); sample, drawn from the encoder; auto, the sum where it can be had with
            at most 32 values.
    """

    free_bits: float = 0.0
    kl_warmup: int | None = None
    estimator: LatentEstimator = "auto"

    whose = "latent students of --method matching and vadd; use student='latent'"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.free_bits < math.inf and (self.kl_warmup is None or self.kl_warmup >= 0),
            f"free_bits and kl_warmup must be ≥ 0, got {self.free_bits} and {self.kl_warmup}",
        )
        one_of("estimator", self.estimator, get_args(LatentEstimator))


@dataclass(kw_only=True)
class ExpertOptions(Part):
    """A mixture whose components are all to be used.

    Attributes:
        balance: weight of a term that is 0 where a batch uses all experts alike, and at most the
            logarithm of their number, in nats per sequence.
    """

    balance: float = 0.0

    whose = "--method e-moe"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.balance < math.inf, f"balance must be ≥ 0, got {self.balance}")


def _few_steps(
    grid: Sequence[float] | None, steps: int | None, min_time: float
) -> tuple[float, ...] | None:
    """The decreasing times of a few-step form: ``grid`` itself, or ``steps`` equal intervals.

    Raises:
        ValueError: if both are given, or the grid is not a decreasing list within [0, 1] whose last
            time but one exceeds ``min_time``.
    """
    if grid is not None and steps is not None:
        raise ValueError("grid and steps are for one thing: give one of them, not both")
    if steps is not None:
        require(
            1 <= steps <= _MOST_JUMPS,
            f"steps must be at least 1 and at most {_MOST_JUMPS}, got {steps}",
        )
        values: tuple[float, ...] = (*(1 - k / steps for k in range(steps)), 0.0)
    elif grid is None:
        return None
    else:
        values = tuple(float(v) for v in grid)
        require(
            len(values) >= 2 and 0 <= values[-1] < values[0] <= 1,
            f"grid must run from a time ≤ 1 down to a time ≥ 0, got {values}",
        )
        require(
            all(a > b for a, b in pairwise(values)),
            f"grid must be strictly decreasing, got {values}",
        )
    last = min(values[:-1])
    require(last > min_time, f"the last positive grid time {last} must exceed min_time={min_time}")
    return values


def check_data_weight(weight: float) -> None:
    require(0 <= weight < math.inf, f"data_weight must be ≥ 0, got {weight}")


def check_weighting(weighting: Weighting) -> None:
    if not callable(weighting):
        one_of("weighting", weighting, get_args(WeightingName))
