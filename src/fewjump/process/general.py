"""Any fixed rate matrix: P_{t|s} = exp(σ̄(s,t)·Q), dense, for vocabularies of up to thousands."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from fewjump.process.base import Process, check_dense, check_times, expand_time
from fewjump.process.exponential import (
    exponential_from_series,
    exponential_from_spectrum,
    is_reversible,
    spectrum_of,
)
from fewjump.process.generators import check_rate, spectral_gap, stationary_law
from fewjump.random import Generator, categorical
from fewjump.schedule import Schedule, Time, as_time

# A kernel with entries below this is computed by the series: the spectral form's absolute error
# of about 1e-15 would leave them fewer than eight digits, and the posterior divides by them.
_FAINT = 1e-7
# Start of generation and end of noising disagree by about this much in total variation.
_UNMIXED = 0.05


class FixedRate(Process):
    """A chain with rate σ(t)·Q for an arbitrary generator Q.

    Q is decomposed once: symmetrised when it is in detailed balance with its limit law, by
    complex eigenvectors otherwise. A defective matrix, or eigenvectors of condition above 1e6,
    or a kernel with entries that rounding would swallow, goes through a subtraction-free series
    (:mod:`fewjump.process.exponential`).

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
        self._reversible = is_reversible(self._rate, self._limit)
        self.spectral_gap = spectral_gap(self._rate)
        left = math.exp(-self.spectral_gap * float(schedule.level(1.0)))
        if left > _UNMIXED:
            warnings.warn(
                f"at t = 1 the slowest mode of this chain still has weight {left:.2g}, so its "
                "limit law is a poor start for generation; use a schedule with more total noise, "
                "or fewjump.process.rescale_to_gap(rate_matrix)",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"FixedRate(vocab_size={self.vocab_size}, schedule={self.schedule})"

    def config(self) -> dict[str, Any]:
        return {
            "name": "FixedRate",
            "rate_matrix": self._rate.tolist(),
            "schedule": self.schedule.config(),
        }

    def base_rate(self) -> Tensor:
        return self._rate

    def prior(self) -> Tensor:
        return self._limit

    @property
    def reversible(self) -> bool:
        """Whether Q is in detailed balance with its limit law."""
        return self._reversible

    def kernel(self, s: Time, t: Time) -> Tensor:
        check_times(s, t)
        gap = self.schedule.between(s, t).double()
        check_dense(self.vocab_size, gap.numel())
        flat = gap.reshape(-1)
        rate = self._rate.to(flat.device)
        if self._spectrum is None:
            out = exponential_from_series(rate, flat)
        else:
            out = exponential_from_spectrum(self._spectrum.to(flat.device), flat)
            faint = out.amin((-2, -1)) < _FAINT
            if bool(faint.any()):
                out[faint] = exponential_from_series(rate, flat[faint])
        return out.reshape(*gap.shape, self.vocab_size, self.vocab_size)

    def _rate_columns(self, x: Tensor, t: Time) -> Tensor:
        sigma = expand_time(self.schedule.sigma(as_time(t, x.device)).double(), x)
        return sigma[..., None] * self._rate.to(x.device).mT[x]

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        check_times(s, t)
        gap = self.schedule.between(as_time(s, x.device), as_time(t, x.device)).double()
        positions = x.numel() // max(1, x.shape[0]) if x.dim() else 1
        if self._spectrum is None or gap.dim() == 0 or positions >= self.vocab_size:
            return super().corrupt(x, s, t, generator)
        # Rows of the kernel only: V² per position in place of V³ per batch element. Absolute
        # precision is all that a draw needs.
        spectrum = self._spectrum.to(x.device)
        scale = torch.exp(spectrum.values * gap[:, None])
        scale = scale.reshape(x.shape[0], *(1,) * (x.dim() - 1), self.vocab_size)
        rows = (spectrum.left[x] * scale) @ spectrum.right
        rows = rows.real if rows.is_complex() else rows
        return categorical(rows.clamp(min=0), generator)

    def condition_number(self, t: Time) -> Tensor:
        """2-norm condition number of P_{t|0}; exp(σ̄·|λ_min|) for a symmetric Q."""
        if self._spectrum is not None and torch.equal(self._rate, self._rate.mT):
            fastest = float(-self._spectrum.values.real.min())
            return torch.exp(fastest * self.schedule.level(t).double())
        return super().condition_number(t)
