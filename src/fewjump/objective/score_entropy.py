"""Denoising score entropy (SEDD, arXiv 2310.16834): teacher training through concrete scores."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.objective.base import Metrics, Objective
from fewjump.objective.elbo import rate_divergence
from fewjump.objective.times import spread_uniform
from fewjump.random import Generator
from fewjump.schedule import as_time


class ScoreEntropy(Objective):
    """E_t E_{x_t|x₀} Σ_{y≠x} Q_t[y,x]·(s_y − r⁰_y·log s_y + r⁰_y·log r⁰_y − r⁰_y).

    ``s`` are the student's concrete scores: those of its own ``ratios(x_t, t)`` method where it
    has one (a score network), otherwise the ratios that its posterior implies. r⁰ are the ratios
    given x₀. The loss is 0 at best, and the minimiser is the true concrete score.

    Args:
        min_time: smallest t; scores diverge at 0.
    """

    needs_teacher = False

    def __init__(self, *, min_time: float = 1e-3) -> None:
        if not 0 < min_time < 1:
            raise ValueError(f"min_time must lie in (0, 1), got {min_time}")
        self.min_time = min_time

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        process = student.process
        t = spread_uniform(batch.shape[0], generator, batch.device)
        t = self.min_time + (1 - self.min_time) * t
        x_t = process.corrupt(batch, 0.0, t, generator)
        score = getattr(student, "ratios", None)
        if callable(score):
            student.evaluations += 1
            ratios = score(x_t, as_time(t))
            assert isinstance(ratios, Tensor)
            density = rate_divergence(process, ratios, x_t, batch, t, ratios=ratios)
        else:
            density = rate_divergence(process, student(x_t, t).marginals(), x_t, batch, t)
        loss = (1 - self.min_time) * density.sum() / batch.numel()
        with torch.no_grad():
            largest = density.detach().max()
        return loss, {"score_entropy": loss.detach(), "largest_density": largest}
