"""Discrete consistency: a student answers at more noise as its teacher does at less, in rounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.product import as_product
from fewjump.objective.base import Given, HalvingObjective, Metrics, require_frozen
from fewjump.objective.time_sampling import spread_uniform
from fewjump.random import Generator


@dataclass(eq=False)
class DiscreteConsistency(HalvingObjective):
    """Discrete consistency distillation (DCD, "The Diffusion Duality", arXiv 2506.10892).

    In round k the step is d = 2^{k−1} / ``jumps_before``. With u uniform, t = min(1, u + d) and
    s = t − d; x_t and x_s are the data noised to both times *by one Gaussian noise*. The loss is
    the mean over positions of KL(student(x_t) ‖ teacher(x_s)), the published code's, or with
    ``forward`` of KL(teacher(x_s) ‖ student(x_t)).

    **The pair.** With x₀ one-hot and ε standard normal on the tokens, the paper's states are x_t =
    argmax(r_t·x₀ + ε). Given x₀ this pair has the law of x_t and the step of the process's flow to
    s (:meth:`~fewjump.process.Process.flow_step`): Pr(x_s = x₀ | x_t, x₀) = (α_s − α_t)/(1 − α_t)
    for x_t ≠ x₀. It is drawn so, without the paper's operator or V normal numbers a position.

    **Fixed point.** The minimiser with ``forward`` is E[p^θ(x₀ⁱ|x_s) | x_t]. That is not
    p^θ(x₀ⁱ|x_t): x_s and x_t together know more of x₀ than x_s does, so that an exact teacher is
    not its own student. With ``reverse`` it is the normalised geometric mean, which is narrower
    than the laws that it is a mean of: look at entropy beside quality.

    Steps are equal in the process's own time; the paper's are equal in the logarithm of the
    Gaussian's signal-to-noise ratio.

    Options by keyword: those of :class:`~fewjump.options.matching.DataOptions` and
    :class:`~fewjump.options.sampled.HalvingOptions`. :func:`fewjump.distill` runs the rounds.

    Metrics: ``kl_to_teacher`` (nats, mean over the positions that carry loss) and ``cleaned``, the
    share of all positions that are noise in x_t and clean in x_s.

    Raises:
        ValueError: for options outside their range; at check, for noise that is not uniform and
            joint students, which this method has no form for.
    """

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        if not student.process.uniform:
            raise ValueError(
                "dcd noises data to two times by one Gaussian, whose largest entries are uniform "
                "noise; distil a teacher of it (fewjump train --process uniform), or use "
                "--method sdtt for a mask and --method matching for other noise"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher, process = require_frozen(teacher, student), student.process
        given = Given.draw(self.known, self.known_share, batch, process, generator)
        s = spread_uniform(batch.shape[0], generator, batch.device)
        s = (self.min_time + (1 - self.min_time) * s).clamp(max=1 - self.step)
        t = (s + self.step).clamp(max=1.0)
        x_t = given.pin(process.corrupt(batch, 0.0, t, generator))
        x_s = process.flow_step(x_t, batch, s, t, generator)
        with torch.no_grad():
            target = as_product(teacher(x_s, s))
        rows = given.asked(x_t)
        total, each = self.diverged(as_product(student(x_t, t)), target, rows)
        return total / batch.numel(), {
            "kl_to_teacher": each.sum() / max(1, rows.shape[0]),
            "cleaned": (x_t != x_s).double().mean(),
        }
