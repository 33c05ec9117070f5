"""A second-order draw of x_s for conditional matching: θ-trapezoidal, each row at its own times."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.objective.intermediate import EulerDraw
from fewjump.process import Process, RankOne
from fewjump.process.base import expand_time
from fewjump.random import Generator
from fewjump.sampler.moves import JumpMove
from fewjump.sampler.rates import CombinedRates, DenseRates, OpenRows, Rates
from fewjump.sampler.reverse import posterior, reverse_rates

_THETA = 0.5


@torch.no_grad()
def trapezoidal_draw(
    student: Denoiser, law: Law, x_t: Tensor, s: Tensor, t: Tensor, generator: Generator = None
) -> EulerDraw:
    """x_s by one θ-trapezoidal step of the student (θ = ½): local error (t − s)³.

    The step is that of :class:`fewjump.sampler.trapezoidal.ThetaTrapezoidal` (Ren et al. 2025,
    arXiv 2502.00234, Alg. 2): leap to ρ = t − θ(t−s), evaluate the student there, leap the rest
    with extrapolated rates. Negative rates are set to 0 and their mass is reported.

    Args:
        student: evaluated once more, at ρ.
        law: its p(x₀|x_t), without gradients; the marginals are used.
        x_t: (B, L) int64.
        s, t: (B,) float64, s ≤ t.
        generator: see :mod:`fewjump.random`.

    Returns:
        x_s, and the mean over positions of the clamped mass, (B, L), the same everywhere.
    """
    process, gap = student.process, expand_time(t - s, x_t).expand(x_t.shape)
    middle = t - _THETA * (t - s)
    first = _rates(law, process, x_t, t)
    x_star = JumpMove(x_t, ScaledRates(first, _THETA * gap), 1.0, "poisson").sample(generator)
    second = _rates(student(x_star, middle), process, x_star, middle)
    forward = 1 / (2 * _THETA * (1 - _THETA))
    backward = ((1 - _THETA) ** 2 + _THETA**2) * forward
    combined = CombinedRates(second, forward, first, (x_star == x_t).double() * -backward, x_star)
    move = JumpMove(x_star, ScaledRates(combined, (1 - _THETA) * gap), 1.0, "poisson")
    x_s = move.sample(generator)
    assert move.clamped is not None
    return EulerDraw(x_s, move.clamped.expand(x_t.shape))


def _rates(law: Law, process: Process, x: Tensor, t: Tensor) -> Rates:
    if isinstance(process, RankOne) and process.redrawn(0.0, t, x.device).dim() == 1:
        return reverse_rates(law, process, x, t)
    ratios = process.ratios_from_posterior(posterior(law, process), x, t)
    return DenseRates(process.reverse_rates(ratios, x, t), x)


class ScaledRates(Rates):
    """Rates times a number per position: a duration of each row's own.

    Args:
        rates: what is scaled.
        scale: (B, L) float64, at least 0.
    """

    def __init__(self, rates: Rates, scale: Tensor) -> None:
        self.rates, self.scale = rates, scale.reshape(-1)
        self.bound = rates.bound * scale
        self.vocab_size = rates.vocab_size
        self.values_at_once = rates.values_at_once

    def values(self, index: Tensor) -> Tensor:
        rates = self.rates.values(index)
        return rates * self.scale[index][:, None].to(rates.dtype)

    def open(self, index: Tensor) -> OpenRows:
        return _ScaledRows(self.rates.open(index), self.scale[index])

    def rows_at_once(self) -> int:
        return self.rates.rows_at_once()


class _ScaledRows(OpenRows):
    def __init__(self, rows: OpenRows, scale: Tensor) -> None:
        self.rows = rows
        self.total = rows.total * scale
        self.negative = None if rows.negative is None else rows.negative * scale

    def draw(self, which: Tensor, u: Tensor) -> Tensor:
        return self.rows.draw(which, u)
