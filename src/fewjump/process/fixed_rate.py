"""Any fixed rate matrix: P_{t|s} = exp(σ̄(s,t)·Q), dense, for vocabularies of up to thousands."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from fewjump.process.base import Process
from fewjump.process.exponential import (
    Spectrum,
    exponential_from_series,
    exponential_from_spectrum,
    spectrum_of,
)
from fewjump.process.generators import (
    birth_death_rate,
    check_rate,
    spectral_gap,
    stationary_law,
    warn_if_unmixed,
)
from fewjump.process.kernel import DenseKernel, check_dense, checked_times, expand_time
from fewjump.random import Generator, categorical
from fewjump.schedule import Schedule, Time, as_time

# A kernel with entries below this is computed by the series: the spectral form's absolute error
# of about 1e-15 would leave them fewer than eight digits, and the posterior divides by them.
_FAINT = 1e-7


class ExponentialKernel(DenseKernel):
    """exp(τ·Q), made by the spectrum of Q or, where rounding would show, by the series.

    Args:
        rate: Q, (V, V) float64.
        spectrum: its eigendecomposition; None where that would lose precision.
        gap: τ, () or (B,) float64.
    """

    def __init__(self, rate: Tensor, spectrum: Spectrum | None, gap: Tensor) -> None:
        super().__init__(self._exponential)
        self.rate, self.spectrum, self.gap = rate, spectrum, gap

    def _exponential(self) -> Tensor:
        size = self.rate.shape[0]
        check_dense(size, self.gap.numel())
        flat = self.gap.reshape(-1)
        rate = self.rate.to(flat.device)
        if self.spectrum is None:
            out = exponential_from_series(rate, flat)
        else:
            out = exponential_from_spectrum(self.spectrum.to(flat.device), flat)
            faint = out.amin((-2, -1)) < _FAINT
            if bool(faint.any()):
                out[faint] = exponential_from_series(rate, flat[faint])
        return out.reshape(*self.gap.shape, size, size)

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        size, gap = self.rate.shape[0], self.gap.to(x.device)
        positions = x.numel() // max(1, x.shape[0]) if x.dim() else 1
        if self.spectrum is None or gap.dim() == 0 or positions >= size:
            return super().sample(x, generator)
        # Rows of the kernel only: V² per position in place of V³ per batch element. Absolute
        # precision is all that a draw needs.
        spectrum = self.spectrum.to(x.device)
        scale = torch.exp(spectrum.values * gap[:, None])
        scale = scale.reshape(x.shape[0], *(1,) * (x.dim() - 1), size)
        rows = (spectrum.left[x] * scale) @ spectrum.right
        rows = rows.real if rows.is_complex() else rows
        return categorical(rows.clamp(min=0), generator)

    def condition_number(self) -> Tensor:
        """exp(τ·|λ_min|) for a symmetric Q."""
        if self.spectrum is None or not torch.equal(self.rate, self.rate.mT):
            return super().condition_number()
        return torch.exp(float(-self.spectrum.values.real.min()) * self.gap)


class FixedRate(Process):
    """A chain with rate σ(t)·Q for an arbitrary generator Q.

    Q is decomposed once: symmetrised when it is in detailed balance with its limit law, by
    complex eigenvectors otherwise. Where that would lose precision a subtraction-free series is
    taken (:mod:`fewjump.process.exponential`).

    Generation starts from the limit law, so the schedule must carry the chain there: a warning
    says when exp(−gap·σ̄(1)) exceeds 0.05, with the spectral gap of Q.

    Args:
        rate_matrix: (V, V), ``[a, b]`` the rate a → b: off-diagonal entries ≥ 0, rows sum to 0.
        schedule: the noise schedule.

    Raises:
        ValueError: if the matrix is not a generator, is too large to be dense, or has more than
            one closed class of states, so that no single limit law exists. Transient states are
            allowed, and have probability 0 in the limit law.
    """

    def __init__(self, rate_matrix: Tensor, schedule: Schedule) -> None:
        self._rate = check_rate(rate_matrix)
        self.vocab_size = self._rate.shape[0]
        self.schedule = schedule
        self._limit = stationary_law(self._rate)
        self._spectrum = spectrum_of(self._rate, self._limit)
        self.spectral_gap = spectral_gap(self._rate)
        left = math.exp(-self.spectral_gap * float(schedule.level(1.0)))
        warn_if_unmixed(left, "or fewjump.process.rescale_to_gap(rate_matrix)")

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        return cls(birth_death_rate(4, up=1.5, down=1.0), schedule)

    def config(self) -> dict[str, Any]:
        return self._described(rate_matrix=self._rate.tolist())

    def base_rate(self) -> Tensor:
        return self._rate

    def prior(self) -> Tensor:
        return self._limit

    def kernel(self, s: Time, t: Time) -> ExponentialKernel:
        gap = self.schedule.between(*checked_times(s, t))
        return ExponentialKernel(self._rate, self._spectrum, gap)

    def rate_columns(self, x: Tensor, t: Time) -> Tensor:
        sigma = expand_time(self.schedule.sigma(as_time(t, x.device)).double(), x)
        return sigma[..., None] * self._rate.to(x.device).mT[x]
