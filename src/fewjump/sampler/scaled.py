"""Steps of another sampler, made more or less eager by a number each: what LSD learns."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import ClassVar, get_args

from torch import Tensor

from fewjump.config import one_of
from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.options.sampled import ScaledName
from fewjump.process import Process
from fewjump.registry import SAMPLERS
from fewjump.sampler.base import Moves, Sampler, Step
from fewjump.sampler.moves import JumpMove
from fewjump.sampler.single_stage import JumpSampler


class Scaled(Sampler):
    """A sampler of jumps whose rates are multiplied by Φ_k in step k.

    Step k of ``euler`` then moves xⁱ to y with probability Φ_k·(t − s)·σ(t)·Q[y, xⁱ]·r_y
    (arXiv 2509.19962, Eq. 5, where the scores are multiplied); of ``tau-leaping``, each clock runs
    Φ_k times as fast; of ``ancestral``, the probability of every jump is multiplied. Totals above 1
    are clamped, as the sampler itself does it. With every Φ_k = 1 it is that sampler.

    The multipliers belong to one grid: they are learned with it
    (:class:`fewjump.objective.SamplerDistillation`), and the order stated is that of multipliers
    of 1. The final draw of x₀ is not scaled.

    Args:
        multipliers: Φ_k ≥ 0 of every step that is walked, K − 1 for a grid 1 → 0 of K intervals
            whose last is the final draw. None given: those that the model carries for this number
            of steps; without such, and in a step alone, 1.
        base: the sampler that is scaled: ``ancestral``, ``euler`` or ``tau-leaping``.

    Raises:
        ValueError: for options outside these; at steps, for another number of them.
    """

    name: ClassVar[str] = "scaled"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Fu et al. 2025, arXiv 2509.19962, Eq. 5"

    def __init__(self, multipliers: tuple[float, ...] = (), base: ScaledName = "ancestral") -> None:
        one_of("base", base, get_args(ScaledName))
        self.multipliers = tuple(float(m) for m in multipliers)
        if not all(0 <= m < math.inf for m in self.multipliers):
            raise ValueError(f"multipliers must be at least 0, got {list(self.multipliers)}")
        sampler = SAMPLERS[base]()
        assert isinstance(sampler, JumpSampler)
        self.base: ScaledName = base
        self._base = sampler
        self.open_base = None if self.multipliers else base

    @property
    def label(self) -> str:
        """The base and its multipliers: ``scaled(euler: 1.25 0.98)``."""
        told = " ".join(f"{m:.6g}" for m in self.multipliers) or "1"
        return f"{self.name}({self.base}: {told})"

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        if denoiser.joint and any(m != 1 for m in self.multipliers):
            raise ValueError(
                "scaled multiplies the rates of single positions, and this model draws them "
                "jointly; use sampler='ancestral'"
            )

    def check_intervals(self, count: int) -> None:
        if self.multipliers and len(self.multipliers) != count:
            raise ValueError(
                f"{len(self.multipliers)} multipliers are for {len(self.multipliers) + 1} steps, "
                f"the last of which draws x₀; these times have {count} others: give as many "
                "multipliers, or the steps that these were learned for"
            )

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        """One step of the base; multipliers belong to the steps of a trajectory."""
        return self._base.moves(denoiser, x_t, t, s)

    def steps(self, denoiser: Denoiser, x: Tensor, times: Tensor) -> list[Step]:
        intervals = list(pairwise(times))
        self.check_intervals(len(intervals))
        multipliers = self.multipliers or (1.0,) * len(intervals)
        return [
            partial(self._step, denoiser, multiplier, t, s)
            for multiplier, (t, s) in zip(multipliers, intervals)
        ]

    def _step(
        self, denoiser: Denoiser, multiplier: float, t: Tensor, s: Tensor, x: Tensor
    ) -> Moves:
        if multiplier == 1:
            yield from self.moves(denoiser, x, t, s)
        else:
            yield self.jump(denoiser(x, t), denoiser.process, x, t, s, multiplier)

    def jump(
        self,
        law: Law,
        process: Process,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        multiplier: Tensor | float = 1.0,
    ) -> JumpMove:
        """The move of one step t → s, () or (B,) float64, from the law at x_t (B, L).

        Its ``log_prob`` has gradients to a multiplier that is a () float64 tensor.
        """
        rates, duration, rule = self._base.jump(law, process, x_t, t, s)
        return JumpMove(x_t, rates, multiplier * duration, rule)
