"""Options of the objectives that follow a sampler.

Its jumps are halved, or the teacher's paths or the student's own samples are learned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args

import tyro

from fewjump.config import PLACE, one_of, require
from fewjump.options.matching import (
    Part,
    Weighting,
    WholeJumpOptions,
    by_name,
    check_data_weight,
    check_weighting,
)

DivergenceName = Literal["reverse", "forward"]
StatesName = Literal["forward", "student"]
Estimator = Literal["auto", "score", "expected"]
ScaledName = Literal["ancestral", "euler", "tau-leaping"]
AlignName = Literal["transitions", "scores"]
Reward = Callable[[Any], Any]


def _by_text() -> Any:
    """A function is for Python; the command line says where one is."""
    return tyro.conf.arg(constructor=cast(Any, str | None), help_behavior_hint="(default: none)")


@dataclass(kw_only=True)
class RoundsOptions(Part):
    """Several trainings in a row.

    Attributes:
        rounds: rounds; each takes its share of the optimiser steps, and the student of one is the
            teacher of the next.
    """

    rounds: int = 3

    whose = "--method sdtt, dcd or redi"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rounds >= 1, f"rounds must be at least 1, got {self.rounds}")


@dataclass(kw_only=True)
class HalvingOptions(RoundsOptions):
    """Rounds of self-distillation, each of which halves the number of jumps.

    Attributes:
        jumps_before: the first round's step is 1 / jumps_before, and each round doubles it: of
            sdtt, jumps from noise to data of the sampler that the first round halves, so that after
            all rounds the student has jumps_before / 2^rounds.
        divergence: reverse, KL(student ‖ teacher), which prefers tokens that the teacher likes at
            every state; or forward, KL(teacher ‖ student), which averages.
        floor: with reverse: probabilities of the teacher below it count as it.
    """

    jumps_before: int = 64
    divergence: DivergenceName = "reverse"
    floor: Annotated[float, tyro.conf.arg(name="target-floor")] = 1e-10

    whose = "--method sdtt or dcd"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("divergence", self.divergence, get_args(DivergenceName))
        require(
            self.jumps_before % 2**self.rounds == 0 and self.jumps_before > 0,
            f"{self.rounds} rounds of halving need jumps_before that is a multiple of "
            f"{2**self.rounds}, got {self.jumps_before}",
        )
        require(0 < self.floor < 1, f"floor must lie in (0, 1), got {self.floor}")
        require(
            self.divergence == "reverse" or self.floor == HalvingOptions.floor,
            "floor (--target-floor) is for divergence='reverse'",
        )


@dataclass(kw_only=True)
class CouplingOptions(Part):
    """Pairs of noise and the teacher's samples that began from it, drawn anew in each round.

    Attributes:
        pairs: pairs that a round draws and keeps.
        pair_steps: the teacher's evaluations for each: many, for their errors are learned.
    """

    pairs: int = 50_000
    pair_steps: int = 64

    whose = "--method redi"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pairs", "pair_steps"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")


@dataclass(kw_only=True)
class LearnedSamplerOptions(Part):
    """A few-step sampler of the teacher itself, whose coefficients are learned (LSD).

    Attributes:
        base: the sampler whose jumps are scaled, each step's by a number of its own.
        align: what is aligned: transitions, how likely the few-step sampler makes what the
            teacher's many steps do between its times; or scores, the published loss, at
            trajectories of either.
        learn_times: learn the times too (LSD+), from the equal jumps on. Default: with transitions.
        path_steps: the teacher's steps from noise to data.
        relaxed: with scores: share of tokens that the few-step sampler's noise is redrawn at.
    """

    base: ScaledName = "ancestral"
    align: AlignName = "transitions"
    learn_times: bool | None = None
    path_steps: int = 64
    relaxed: float = 0.0

    whose = "--method lsd"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("base", self.base, get_args(ScaledName))
        one_of("align", self.align, get_args(AlignName))
        if self.learn_times and self.align == "scores":
            raise ValueError(
                "scores are aligned at the times of both samplers, which then cannot be learned: "
                "use align='transitions', or learn_times=False"
            )
        require(self.path_steps >= 1, f"path_steps must be at least 1, got {self.path_steps}")
        require(0 <= self.relaxed < 1, f"relaxed must lie in [0, 1), got {self.relaxed}")
        if self.relaxed and self.align != "scores":
            raise ValueError("relaxed is for align='scores'")


@dataclass(kw_only=True)
class AuxiliaryOptions(Part):
    """A second network, which learns what the student's samples look like.

    Attributes:
        warmup: steps, of all steps, in which the auxiliary network, which learns the student's
            samples, learns alone.
        auxiliary_lr: learning rate of the auxiliary network, as a multiple of the student's.
    """

    warmup: Annotated[int, tyro.conf.arg(name="auxiliary-steps")] = 200
    auxiliary_lr: float = 3.0

    whose = "--method idlm, dmmd and dimo, and refinement against a teacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.warmup >= 0, f"warmup must be ≥ 0, got {self.warmup}")
        require(
            0 < self.auxiliary_lr < math.inf,
            f"auxiliary_lr must be positive, got {self.auxiliary_lr}",
        )


@dataclass(kw_only=True)
class OwnSamplesOptions(WholeJumpOptions):
    """Training of a student on its own samples.

    Attributes:
        draws: the student's samples for each noisy state, at least 2.
        data_weight: weight of the data's own likelihood in the loss: it keeps the student from
            dropping part of the data. Needs data.
    """

    draws: int = 4
    data_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.draws >= 2,
            f"draws must be at least 2 (each is the others' baseline), got {self.draws}",
        )
        check_data_weight(self.data_weight)


@dataclass(kw_only=True)
class OnPolicyOptions(OwnSamplesOptions, AuxiliaryOptions):
    """The same against a teacher.

    Attributes:
        estimator: how the gradient is estimated: expected sums tokens out (product and mixture
            students), score draws them (every student), auto takes expected where there is one.
        weighting: weight of a time in the loss: uniform; elbo, that of the likelihood bound; or
            sigma, the noise rate.
        floor: probabilities below it, of both networks, count as it: a bounded reward where an
            exact teacher says 0.
    """

    estimator: Estimator = "auto"
    weighting: Annotated[Weighting, by_name("elbo")] = "elbo"
    floor: float = 1e-6

    whose = "refinement against a teacher; leave the reward out"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("estimator", self.estimator, get_args(Estimator))
        check_weighting(self.weighting)
        require(0 < self.floor < 1, f"floor must lie in (0, 1), got {self.floor}")


@dataclass(kw_only=True)
class RewardOptions(Part):
    """What a student's samples are worth, and what holds it to where it starts.

    Attributes:
        reward: refine by a reward in place of a teacher: FILE.py:NAME, a function of that file that
            takes samples, an int64 tensor (N, L), and returns their rewards, (N,). The file is run.
        anchor: weight β of the divergence from the student at the start, in rewards per nat of a
            sequence: the student's law tends to that law times exp(reward/β).
    """

    reward: Annotated[Reward | str | None, _by_text(), PLACE] = None
    anchor: float = 0.1

    whose = "refinement by a reward; give --reward"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.anchor < math.inf, f"anchor must be ≥ 0, got {self.anchor}")


@dataclass(kw_only=True)
class AnchorOptions(AuxiliaryOptions):
    """What holds a student on its own samples to the teacher, at which it starts.

    Attributes:
        anchor: weight, at first, of the divergence of the student's law from the teacher's at the
            same noisy state, where the student starts. Default: 1 of idlm, 0 of dmmd and dimo.
        anchor_steps: optimiser steps over which that weight falls to 0. Default: half of the steps
            that the run was begun with.
    """

    anchor: float | None = None
    anchor_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.anchor is None or 0 <= self.anchor < math.inf,
            f"anchor must be ≥ 0, got {self.anchor}",
        )
        require(
            self.anchor_steps is None or self.anchor_steps >= 1,
            f"anchor_steps must be at least 1, got {self.anchor_steps}",
        )


@dataclass(kw_only=True)
class JeffreyOptions(Part):
    """Which way two posteriors are compared.

    Attributes:
        reverse_share: share in [0, 1] of KL(student ‖ teacher) in the divergence of two posteriors,
            which leaves tokens out; the rest is KL(teacher ‖ student), which covers them.
    """

    reverse_share: float = 0.0

    whose = "--method dimo"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.reverse_share <= 1,
            f"reverse_share must lie in [0, 1], got {self.reverse_share}",
        )


@dataclass(kw_only=True)
class GuardOptions(Part):
    """What keeps a refinement in bounds.

    Attributes:
        guard: watch the entropies of the student's samples.
        band: the run stops when one of them falls below the first number times, or rises above the
            second number times, what it was at the start (or is for the teacher).
        guard_samples: sequences to measure them on.
    """

    guard: bool = True
    band: tuple[float, float] = (0.7, 1.3)
    guard_samples: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.band
        require(
            0 <= low < 1 < high < math.inf,
            f"band must satisfy 0 ≤ low < 1 < high, got {low} and {high}",
        )
        require(
            self.guard_samples >= 2, f"guard_samples must be at least 2, got {self.guard_samples}"
        )
