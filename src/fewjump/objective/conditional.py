"""Exact conditional distribution matching (arXiv 2512.12889, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from fewjump.config import one_of
from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.law.product import as_product
from fewjump.objective.base import Given, MatchingObjective, Metrics, require_frozen
from fewjump.objective.intermediate import draw_earlier, roll_down
from fewjump.objective.time_sampling import (
    draw_time_pair,
    spread_uniform,
    time_weight,
)
from fewjump.options.matching import GapOptions, Intermediate
from fewjump.random import Generator, uniform
from fewjump.sampler import Ancestral, Euler, Sampler, ThetaTrapezoidal

#: Whose step draws x_s where the student draws it.
STEPS: dict[str, Sampler] = {
    "student-euler": Euler(),
    "student-exact": Ancestral(),
    "student-trapezoidal": ThetaTrapezoidal(),
}


@dataclass(eq=False)
class ConditionalMatching(MatchingObjective, GapOptions):
    """E w(t)·Σᵢ CE(p^θ_{0|s}(·ⁱ|x_s), p^φ_{0|t}(·ⁱ|x_t)): teacher θ at s, student φ at t > s.

    By p_{0|t}(x₀|x_t) = E_{x_s|x_t} p_{0|s}(x₀|x_s) the minimiser over per-position students is
    the teacher's own p^θ_{0|t}, **if** x_s|x_t follows the true reverse conditional. How far each
    ``intermediate`` is from that:

    * ``student-euler`` (the paper's): x_s by one Euler step of the student. Biased by the size of
      the step, and by drawing positions independently.
    * ``student-exact``: x_s by the student's exact reverse step. No Euler error; positions are
      still drawn independently, so for L > 1 a bias remains (none if positions are independent).
    * ``student-trapezoidal``: x_s by one second-order step of the student (θ-trapezoidal), with an
      evaluation half way: positions know of each other there, and the error falls as the cube of
      the step, where no rate has to be clamped.
    * ``forward``: x₀ from the data, x_s ~ P_{s|0}, x_t ~ P_{t|s}. Exact, and costs nothing.
    * ``teacher-rollout``: x_T from the prior, run down to t and on to s by the teacher's ancestral
      steps. Needs no data; exact as ``rollout_steps`` grows; 2·rollout_steps teacher evaluations.

    At a masked process only positions that are masked in x_t carry loss. A student whose law is not
    a product is scored on a draw of x₀ from the teacher's law (the joint form of the objective).

    Options by keyword: those of :class:`~fewjump.options.matching.MatchingOptions` and
    :class:`~fewjump.options.matching.GapOptions`, and ``times``.

    Attributes:
        intermediate: see above.

    Raises:
        ValueError: for options outside their range; at call, for a teacher that is not frozen.
    """

    intermediate: Intermediate = "student-euler"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("intermediate", self.intermediate, get_args(Intermediate))
        # The given part of a sequence comes from the data.
        self.needs_data = self.intermediate != "teacher-rollout" or self.known is not None

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher = require_frozen(teacher, student)
        process = student.process
        given = Given.draw(self.known, self.known_share, batch, process, generator)
        if not given.certain and self.intermediate == "student-trapezoidal":
            raise ValueError(
                "known positions under noise without a mask cannot be held through a second-order "
                "step; use another intermediate"
            )
        spread, gap = None, self.max_gap
        if self.times is not None:
            first = spread_uniform(batch.shape[0], generator, batch.device)
            second = uniform((batch.shape[0],), generator, batch.device)
            spread, gap = self.times.draw(first, second), self.times.max_gap(gap)
        s, t = draw_time_pair(
            batch.shape[0],
            generator,
            batch.device,
            self.grid,
            self.min_time,
            gap,
            None if spread is None else spread.first,
            None if spread is None else spread.second,
        )
        clipped = torch.zeros((), dtype=torch.float64, device=batch.device)
        with torch.no_grad():
            if self.intermediate == "forward":
                x_s = given.pin(process.corrupt(batch, 0.0, s, generator))
                x_t = given.pin(process.corrupt(x_s, s, t, generator))
            elif self.intermediate == "teacher-rollout":
                start = torch.ones_like(t)
                x_t = given.pin(process.noise_for(batch, generator))
                # In the one-step form every t is 1 and there is nothing to run.
                if bool((t < 1).any()):
                    x_t = roll_down(teacher, x_t, start, t, self.teacher_steps, generator, given)
                x_s = roll_down(teacher, x_t, t, s, self.teacher_steps, generator, given)
            else:
                x_t = given.pin(process.corrupt(batch, 0.0, t, generator))
                x_s = x_t
        law = student(x_t, t)
        with torch.no_grad():
            if self.intermediate in STEPS:
                drawn = as_product(law).detach() if law.independent else given.condition(law)
                step = STEPS[self.intermediate]
                x_s, clipped = draw_earlier(step, student, x_t, s, t, generator, drawn)
            target = teacher(given.pin(x_s), s)
        weight = time_weight(self.weighting, process, t)
        seen = None
        if spread is not None and self.times is not None:
            weight = weight * spread.weight
            seen = partial(self.times.see, spread.bins)
        loss, metrics = compare(law, target, x_t, weight, given, generator, seen)
        metrics["clipped_mass"] = clipped
        for name, model in (("student", student), ("teacher", teacher)):
            # Score networks go through recovery, which may have had to clip as well.
            report = getattr(model, "last_recovery", None)
            if report is not None:
                metrics[f"{name}_recovery_clipped"] = report.mean_clipped_mass()
        return loss, metrics


def compare(
    law: Law,
    target: Law,
    x_t: Tensor,
    weight: Tensor,
    given: Given,
    generator: Generator = None,
    seen: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Metrics]:
    """Weighted cross-entropy of a student's law against a target law, in nats per position.

    Args:
        law: the student's law at x_t, with gradients.
        target: the teacher's law, without.
        x_t: (B, L) int64, the student's input.
        weight: (B,) w(t).
        given: known positions, which are left out, as those are that a mask shows in ``x_t``.
        generator: used where a joint law must be scored on a draw.
        seen: told each sequence's loss before its weight, (B,) nats per position: KL to the target
            between product laws, cross-entropy for joint ones.

    Returns:
        The loss and the metrics ``kl_to_teacher``, ``student_entropy``, ``teacher_entropy``
        (unweighted; means over the positions that carry loss) and ``loss_positions`` (their
        share). Joint students report ``cross_entropy`` and ``teacher_entropy`` only.
    """
    if not law.independent:
        law, target = given.condition(law), given.condition(target)
        bits = law.cross_entropy(target, generator)
        if seen is not None:
            seen(bits.detach() / x_t.shape[1])
        metrics = {"cross_entropy": bits.detach().mean() / x_t.shape[1]}
        if target.independent:
            metrics["teacher_entropy"] = as_product(target).entropy().mean()
        return (weight.to(bits.dtype) * bits).mean() / x_t.shape[1], metrics
    rows = given.asked(x_t)
    row_weight = weight[rows // x_t.shape[1]]
    entropies = as_product(law).soft_cross_entropy(as_product(target), rows, row_weight)
    ce, loss = entropies.cross_entropy, entropies.total / x_t.numel()
    if seen is not None:
        divergence = (ce.detach() - entropies.target_entropy).double()
        each = divergence.new_zeros(x_t.shape[0])
        seen(each.index_add_(0, rows // x_t.shape[1], divergence) / x_t.shape[1])
    count = max(1, rows.shape[0])
    return loss, {
        "kl_to_teacher": (ce.detach() - entropies.target_entropy).sum() / count,
        "student_entropy": entropies.entropy.sum() / count,
        "teacher_entropy": entropies.target_entropy.sum() / count,
        "loss_positions": torch.tensor(rows.shape[0] / x_t.numel(), device=x_t.device),
    }
