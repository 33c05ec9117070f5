"""Self-distillation through time: two steps of the teacher in one of the student, in rounds."""

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
class SelfDistillation(HalvingObjective):
    """The student's one step learns what two steps of the teacher say (SDTT, arXiv 2410.21035).

    In round k the teacher's step is d = 2^{k−1} / ``jumps_before``. At a uniform time t and x_t,
    the data noised to t, the teacher takes an ancestral step to t − d, where some positions are
    unmasked, and is asked again. The target of a position is what the teacher said of it last while
    it was masked: at x_t of those that the step unmasked, at x_{t−d} of the others. Where t < 2d
    the two steps are halves of t. The loss is the mean over positions of KL(student ‖ target), the
    paper's, or of KL(target ‖ student); positions that are visible in x_t carry none.

    With ``forward``, the minimiser is the mean of the targets: for two positions and an exact
    teacher that is the teacher itself. With ``reverse`` it is their normalised geometric mean,
    which is narrower than any law that the teacher knows: look at entropy beside quality.

    :func:`fewjump.distill` runs the rounds, each with a fresh optimiser and an equal share of the
    steps. The averaged student of one round is the teacher of the next, and what it starts from.

    Options by keyword: those of :class:`~fewjump.options.matching.DataOptions` and
    :class:`~fewjump.options.sampled.HalvingOptions`.

    Metrics: ``kl_to_teacher`` (nats, mean over the positions that carry loss), ``loss_positions``
    (their share) and ``asked_again`` (share of them whose target is the teacher's second answer).

    Raises:
        ValueError: for options outside their range; at check, for noise without a mask and joint
            students, which this method has no form for.
    """

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        if not student.process.absorbing:
            raise ValueError(
                "self-distillation takes the teacher's word on a position at the step that unmasks "
                "it, so it needs noise with a mask; use --method matching"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher, process = require_frozen(teacher, student), student.process
        given = Given.draw(self.known, self.known_share, batch, process, generator)
        t = spread_uniform(batch.shape[0], generator, batch.device)
        t = self.min_time + (1 - self.min_time) * t
        later = t - torch.minimum(torch.full_like(t, self.step), t / 2)
        with torch.no_grad():
            x_t = given.pin(process.corrupt(batch, 0.0, t, generator))
            first = as_product(teacher(x_t, t))
            x0 = first.sample(generator)
            x_later = process.bridge(x_t, x0, later, t, generator)
            second = as_product(teacher(x_later, later))
        law = as_product(student(x_t, t))
        masked, still = process.masked(x_t), process.masked(x_later)
        assert masked is not None
        assert still is not None
        loss, count = torch.zeros((), dtype=torch.float64, device=batch.device), 0
        divergence = loss.clone()
        for target, where in ((first, masked & ~still), (second, still)):
            rows = where.reshape(-1).nonzero()[:, 0]
            total, each = self.diverged(law, target, rows)
            loss, divergence = loss + total, divergence + each.sum()
            count += rows.shape[0]
        share = torch.tensor(count / batch.numel(), device=batch.device)
        return loss / batch.numel(), {
            "kl_to_teacher": divergence / max(1, count),
            "loss_positions": share,
            "asked_again": still.double().mean() / share.clamp(min=1e-9),
        }
