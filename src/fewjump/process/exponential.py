"""The exponential of a rate matrix: P(τ) = exp(τ·Q), two ways.

*Spectral*: Q = left·diag(values)·right once, then one product per τ. Its error is absolute, about
1e-16 times the condition of the eigenvectors: entries smaller than that are noise.

*Series*: uniformization with squaring. With q = max|Q_aa| the matrix A = I + Q/q is
non-negative, P(θ/q) = e^{−θ}·Σ_j θʲ/j!·Aʲ, and P(2τ) = P(τ)². Nothing is ever subtracted, so
small entries keep their relative precision (Xue & Ye, Math. Comp. 82, 2013).
(``torch.linalg.matrix_exp`` is less exact: on a 4×4 generator at τ = 0.01 by up to 7e-12.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Eigenvectors of a condition above this lose too many digits; the series takes over.
MAX_EIGENVECTOR_CONDITION = 1e6
# With θ ≤ 1/4 the first term left out, θ^17/17!, is below 1e-24.
_SERIES_STEP = 0.25
_SERIES_TERMS = 16


class Spectrum(NamedTuple):
    """Q = left·diag(values)·right; real for a reversible Q, complex otherwise.

    Attributes:
        values: (V,) eigenvalues, real parts ≤ 0.
        left: (V, V) right eigenvectors as columns.
        right: (V, V) inverse of ``left``.
    """

    values: Tensor
    left: Tensor
    right: Tensor

    def to(self, device: torch.device) -> Spectrum:
        return Spectrum(self.values.to(device), self.left.to(device), self.right.to(device))


def is_reversible(rate: Tensor, law: Tensor) -> bool:
    """Whether Q (V, V) is in detailed balance with ``law`` (V,): law_a·Q_ab = law_b·Q_ba."""
    flow = law[:, None] * rate
    return bool((flow - flow.mT).abs().max() <= 1e-12 * flow.abs().max())


def spectrum_of(rate: Tensor, law: Tensor) -> Spectrum | None:
    """Eigendecomposition of a generator, or None where it would lose precision.

    Args:
        rate: (V, V) float64 generator.
        law: (V,) its stationary law. When Q is in detailed balance with it, the symmetric
            D^{1/2}·Q·D^{−1/2}, D = diag(law), is decomposed instead: real and orthogonal.

    Returns:
        None for a defective matrix and for eigenvectors of condition above 1e6.
    """
    root = law.sqrt()
    if float(root.min()) * MAX_EIGENVECTOR_CONDITION > float(root.max()) and is_reversible(
        rate, law
    ):
        symmetric = root[:, None] * rate / root
        values, vectors = torch.linalg.eigh((symmetric + symmetric.mT) / 2)
        found = Spectrum(values.clamp(max=0), vectors / root[:, None], vectors.mT * root)
    else:
        values, vectors = torch.linalg.eig(rate)
        if not float(torch.linalg.cond(vectors)) < MAX_EIGENVECTOR_CONDITION:
            return None
        found = Spectrum(values, vectors, torch.linalg.inv(vectors))
    back = (found.left * found.values) @ found.right
    residual = (back.real if back.is_complex() else back) - rate
    return found if float(residual.abs().max()) <= 1e-10 * float(rate.abs().max()) else None


def exponential_from_spectrum(spectrum: Spectrum, gap: Tensor) -> Tensor:
    """exp(τ·Q) for every τ in ``gap`` (N,): (N, V, V) float64, clipped at 0, rows summing to 1."""
    scale = torch.exp(spectrum.values * gap[:, None])
    return stochastic((spectrum.left * scale[:, None, :]) @ spectrum.right)


def exponential_from_series(rate: Tensor, gap: Tensor) -> Tensor:
    """exp(τ·Q) by uniformization and squaring: (N, V, V) float64.

    Args:
        rate: Q, (V, V), or (N, V, V) of each τ's own.
        gap: τ, (N,), or (1,) for all.
    """
    speed = float(-rate.diagonal(dim1=-2, dim2=-1).min()) if rate.numel() else 0.0
    eye = torch.eye(rate.shape[-1], dtype=rate.dtype, device=rate.device)
    longest = speed * float(gap.max()) if gap.numel() else 0.0
    if speed <= 0:
        return eye.expand(max([len(gap), *rate.shape[:-2]]), *eye.shape).clone()
    squarings = max(0, math.ceil(math.log2(max(longest, 1e-300) / _SERIES_STEP)))
    theta = (gap * (speed / 2**squarings))[:, None, None]
    jump = eye + rate / speed
    power, coefficient = eye, torch.exp(-theta)
    out = coefficient * power
    for term in range(1, _SERIES_TERMS + 1):
        power = power @ jump
        coefficient = coefficient * (theta / term)
        out = out + coefficient * power
    out = stochastic(out)
    for _ in range(squarings):
        out = stochastic(out @ out)
    return out


def stochastic(matrix: Tensor) -> Tensor:
    """Remove the rounding of a stochastic matrix: real, non-negative, rows summing to 1."""
    matrix = (matrix.real if matrix.is_complex() else matrix).clamp(min=0)
    return matrix / matrix.sum(-1, keepdim=True)
