"""Denoising score entropy (SEDD, arXiv 2310.16834): teacher training through concrete scores."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.objective.base import Metrics
from fewjump.objective.elbo import DataObjective, rate_divergence
from fewjump.objective.known import Given
from fewjump.objective.times import spread_uniform
from fewjump.random import Generator
from fewjump.schedule import as_time


class ScoreEntropy(DataObjective):
    """E_t E_{x_t|x₀} Σ_{y≠x} Q_t[y,x]·(s_y − r⁰_y·log s_y + r⁰_y·log r⁰_y − r⁰_y).

    ``s`` are the student's concrete scores: those of its own ``ratios(x_t, t)`` method where it
    has one (a score network), otherwise the ratios that its posterior implies. r⁰ are the ratios
    given x₀. The loss is 0 at best, and the minimiser is the true concrete score. With ``known`` a
    part of every sequence stays clean, and the sum is over the other positions.

    Options by keyword: those of :class:`~fewjump.options.objectives.DataOptions`.
    """

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        process = student.process
        t = spread_uniform(batch.shape[0], generator, batch.device)
        t = self.min_time + (1 - self.min_time) * t
        given = Given.draw(self.known, self.known_share, batch, process, generator)
        x_t = given.pin(process.corrupt(batch, 0.0, t, generator))
        score = getattr(student, "ratios", None)
        if callable(score):
            student.evaluations += 1
            ratios = score(x_t, as_time(t))
            assert isinstance(ratios, Tensor)
            density = rate_divergence(process, ratios, x_t, batch, t, ratios=ratios)
        else:
            posterior = given.condition(student(x_t, t)).marginals()
            density = rate_divergence(process, posterior, x_t, batch, t)
        density = given.open(density)
        loss = (1 - self.min_time) * density.sum() / batch.numel()
        with torch.no_grad():
            largest = density.detach().max()
        return loss, {"score_entropy": loss.detach(), "largest_density": largest}
