"""The bridge q(x_s | x_t, x₀), and the reverse step p(x_s | x_t) that mixes it over a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewjump.random import Generator, categorical

if TYPE_CHECKING:
    from fewjump.process.kernel import Kernel
    from fewjump.process.rank_one import ReverseCoefficients


class Bridge:
    """x_s between a clean token and x_t, from the kernels of any process.

    Args:
        before: P_{s|0}.
        between: P_{t|s}.
        whole: P_{t|0}.
        x_t: (B, ...) int64.

    Attributes:
        coefficients: the step as three numbers for each position, where the kernels are the
            identity plus rank one; None otherwise.
    """

    coefficients: ReverseCoefficients | None = None

    def __init__(self, before: Kernel, between: Kernel, whole: Kernel, x_t: Tensor) -> None:
        self.before, self.between, self.whole, self.x_t = before, between, whole, x_t

    def marginals(self, x0: Tensor) -> Tensor:
        """P_{s|0}[x₀, ·]·P_{t|s}[·, x_t] / P_{t|0}[x₀, x_t]: (..., V) float64.

        Where x_t cannot be reached from x₀ at all the law of x_s given x₀ alone is returned.
        """
        forward = self.before.rows(x0)
        return _normalised(forward * self.between.columns(self.x_t), forward)

    def sample(self, x0: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_s ~ q(x_s | x_t, x₀): same shape as ``x0``."""
        return categorical(self.marginals(x0), generator)

    def reverse_marginals(self, posterior: Tensor) -> Tensor:
        """Σ_a posterior(a)·q(x_s | x_t, a): (..., V) in the posterior's dtype."""
        weights = self.whole.divide_columns(posterior.double(), self.x_t)
        pushed = self.before.push(weights)
        stay = torch.zeros_like(pushed).scatter(-1, self.x_t[..., None], 1.0)
        return _normalised(pushed * self.between.columns(self.x_t), stay).to(posterior.dtype)


def _normalised(weights: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of ``weights`` divided by their sum; rows without mass become ``otherwise``."""
    total = weights.sum(-1, keepdim=True)
    possible = total > 0
    return torch.where(possible, weights / torch.where(possible, total, 1.0), otherwise)
