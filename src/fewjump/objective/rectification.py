"""Rectification: a student learns the teacher's samples together with the noise they began from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.objective.base import Given, InRounds, Metrics
from fewjump.objective.elbo import cross_entropy
from fewjump.objective.time_sampling import spread_uniform
from fewjump.options.matching import TimeOptions
from fewjump.options.sampled import CouplingOptions
from fewjump.process import Process
from fewjump.process.kernel import expand_time
from fewjump.random import Generator, bernoulli


@dataclass(eq=False)
class Rectification(InRounds, TimeOptions, CouplingOptions):
    """The coupling of noise and data made straighter, in rounds (ReDi, arXiv 2507.15897).

    A *coupling* π(x₀, x₁) says which data come of which noise. Training on data has the two
    independent. Round k draws x₁ from the prior and x₀ from it by many steps of that round's
    teacher, once, and keeps the pairs. The student then learns p(x₀|x_t) by cross-entropy, where
    x_t lies between the two ends *of one pair*: each position is x₀'s with probability α_t and
    x₁'s otherwise. The averaged student is the teacher of the next round.

    **What it gains.** A product student that answers x₁ at once loses the conditional total
    correlation TC(x₀|x₁) = E[KL(π(x₀|x₁) ‖ Πᵢ π(x₀ⁱ|x₁))]. With exact students a round does not
    increase it (the paper's theorem), whatever the number of steps that draw the pairs. This holds
    where tokens keep what they began with until they are drawn: draw pairs and, in more than one
    step, the student by the sampler ``flow-matching``. The ancestral step of uniform noise redraws
    tokens on the way, and nothing is rectified.

    **What it costs.** What the teacher's steps get wrong stays in every later round, so
    ``pair_steps`` must be many. Data are never read. The process must be ``straight``: its noise
    redraws a token from a law that stands still. Under a mask x₁ is the same for all x₀, and no
    coupling can be straighter.

    Options by keyword: those of :class:`~fewjump.options.matching.TimeOptions` and
    :class:`~fewjump.options.sampled.CouplingOptions`. There are none for prompts: the noise of a
    pair depends on all its tokens, that of a prompt does not.

    Batches hold pairs, (B, 2L): x₀ and x₁ side by side.

    Metrics, nats per position: ``cross_entropy`` (mean over positions), ``one_step_nll``,
    −log p(x₀|x₁) of an eighth of the batch at t = 1. For a product student the expectation of the
    latter is at least (TC(x₀|x₁) + H(x₀|x₁))/L: it bounds TC, and falls from round to round.

    Raises:
        ValueError: for options outside their range; at check, for noise that has no such path.
    """

    needs_data = False
    coupled: ClassVar[bool] = True

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        process = student.process
        if int((process.prior() > 0).sum()) < 2:
            raise ValueError(
                "redi makes noise and data depend on each other, and under a mask every sequence "
                "begins as the same masks; distil a teacher of uniform noise "
                "(fewjump train --process uniform), or use --method sdtt"
            )
        if not process.straight:
            raise ValueError(
                f"redi needs noise that redraws tokens from one law that stands still, as Uniform "
                f"and ResetToPrior do, got {process!r}; use --method matching"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        process = student.process
        x0, x1 = batch.chunk(2, dim=-1)
        t = spread_uniform(batch.shape[0], generator, batch.device)
        t = self.min_time + (1 - self.min_time) * t
        x_t = between(process, x0, x1, t, generator)
        nothing = Given(x0, None, process)
        total, mean = cross_entropy(student(x_t, t), x_t, x0, nothing)
        few = torch.arange(max(1, len(x0) // 8), device=x0.device)
        with torch.no_grad():
            one_step = -student.rows(few)(x1[few], 1.0).log_prob(x0[few])
        return total.sum() / x0.numel(), {
            "cross_entropy": mean,
            "one_step_nll": one_step.double().mean() / x0.shape[1],
        }


def between(
    process: Process, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator = None
) -> Tensor:
    """x_t given both ends, (B, L): x₀'s token with probability α_t, and where it is kept."""
    share = expand_time(process.schedule.alpha(t).double(), x0).expand(x0.shape)
    return torch.where(bernoulli(share, generator) | process.is_kept(x0), x0, x1)
