"""The bridge q(x_s | x_t, x₀), and the reverse step p(x_s | x_t) that mixes it over a posterior.

Two forms: from the kernels of any process, and in a few numbers for each position where the kernels
are the identity plus rank one: three for a step by a posterior, two for one by ratios.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.inversion import block_sums
from fewjump.process.redraw_law import RedrawLaw
from fewjump.random import Generator, categorical, uniform


class ReverseCoefficients(NamedTuple):
    """A reverse step, or the rates of the reverse chain, as numbers per position.

    For y ≠ x_t: Pr(x_s = y | x_t) = data·p(y) + C·m(y), where p is the posterior of x₀, m the law
    of a position redrawn between 0 and s (for rates: and t), and
    C = prior·(1 − p(x_t)) + prior_self·p(x_t). All are 0 at a token that cannot have been redrawn:
    such a position is visible. The tensors are float64 and broadcast over the state.
    """

    data: Tensor
    prior: Tensor
    prior_self: Tensor
    redrawn: RedrawLaw


class RatioCoefficients(NamedTuple):
    """A reverse step, or the rates of the reverse chain, by ratios: SEDD's analytic step.

    With r the ratios at t, those at s are P_{t|s}⁻ᵀ r = (r − (1−α)·m·Σr)/α, so that for y ≠ x_t
    Pr(x_s = y | x_t) = scale·(r_y − share·m(y)·Σr): linear in the ratios, whose posterior is not
    needed. Σ is over the tokens that are noised, m is the law of a position redrawn between s and
    t, and share is 0 for rates. Where an imperfect network puts an entry below zero it is 0.

    Attributes:
        scale, share: float64 that broadcast over the state; scale is 0 at a token that cannot have
            been redrawn.
        redrawn: m.
        kept: tokens that noise does not make.
    """

    scale: Tensor
    share: Tensor
    redrawn: RedrawLaw
    kept: tuple[int, ...]

    def weigh(self, ratios: Tensor, x: Tensor, index: Tensor) -> Tensor:
        """Make the step's rows of ratios, in place: 0 at the current token.

        Args:
            ratios: (N, V), in the precision that the step is wanted in.
            x: (B, L) int64.
            index: (N,) int64, the positions of the rows, counted row-major.

        Returns:
            (N,) float64: what the same form makes of the current token, whose weight is P_{t|s} of
            its staying: (1 + scale)·(1 − share·m(x)·Σr), not below 0.
        """
        here = x.reshape(-1)[index, None]
        if self.kept:
            ratios.index_fill_(1, torch.tensor(self.kept, device=x.device), 0.0)
        scale, share = (v.expand(x.shape).reshape(-1)[index] for v in self[:2])
        ratios.scatter_(1, here, 0.0)
        stays = 1 + scale
        if bool((share != 0).any()):
            total = 1 + block_sums(ratios).sum(-1, dtype=torch.float64)
            cut = share * total
            stays = (stays * (1 - cut * self.redrawn.at(x).reshape(-1)[index])).clamp(min=0)
            law = self.redrawn.on(x.device, ratios.dtype)
            law = law if law.dim() == 1 else law[index // x[0].numel()]
            ratios.addcmul_(law, cut[:, None].to(ratios.dtype), value=-1).clamp_(min=0)
            ratios.scatter_(1, here, 0.0)
        ratios.mul_(scale[:, None].to(ratios.dtype))
        return stays


class Bridge(ABC):
    """x_s between a clean token and x_t.

    Attributes:
        coefficients: the step as three numbers for each position, where the kernels are the
            identity plus rank one; None otherwise.
        by_ratios: the same of a step by ratios.
    """

    coefficients: ReverseCoefficients | None = None
    by_ratios: RatioCoefficients | None = None

    @abstractmethod
    def marginals(self, x0: Tensor) -> Tensor:
        """P_{s|0}[x₀, ·]·P_{t|s}[·, x_t] / P_{t|0}[x₀, x_t]: (..., V) float64.

        Where x_t cannot be reached from x₀ at all it is a law, but none in particular.
        """

    def sample(self, x0: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_s ~ q(x_s | x_t, x₀): same shape as ``x0``."""
        return categorical(self.marginals(x0), generator)

    @abstractmethod
    def reverse_marginals(self, posterior: Tensor) -> Tensor:
        """Σ_a posterior(a)·q(x_s | x_t, a): (..., V) in the posterior's dtype."""


class RankOneBridge(Bridge):
    """A bridge from three numbers a position: drawing from it makes nothing of size V.

    Args:
        coefficients: the numbers.
        by_ratios: those of a step by ratios.
        x_t: (B, ...) int64.
    """

    def __init__(
        self, coefficients: ReverseCoefficients, by_ratios: RatioCoefficients, x_t: Tensor
    ) -> None:
        self.coefficients: ReverseCoefficients = coefficients  # pyright: ignore[reportIncompatibleVariableOverride]
        self.by_ratios: RatioCoefficients = by_ratios  # pyright: ignore[reportIncompatibleVariableOverride]
        self.x_t = x_t

    def marginals(self, x0: Tensor) -> Tensor:
        size = self.coefficients.redrawn.weights.shape[-1]
        certain = torch.zeros(*x0.shape, size, dtype=torch.float64, device=x0.device)
        return self.reverse_marginals(certain.scatter_(-1, x0[..., None], 1.0))

    def sample(self, x0: Tensor, generator: Generator = None) -> Tensor:
        # With x₀ known the step is a three-way choice: stay at x_t, go to x₀, or be redrawn.
        data, prior, prior_self, law = self.coefficients
        same = self.x_t == x0
        to_data = torch.where(same, 0.0, data)
        to_prior = torch.where(same, prior_self, prior)
        u = uniform(x0.shape, generator, x0.device)
        redrawn = law.sample(x0.shape, generator, x0.device)
        moved = torch.where(u < to_data + to_prior, redrawn, self.x_t)
        return torch.where(u < to_data, x0, moved)

    def reverse_marginals(self, posterior: Tensor) -> Tensor:
        data, prior, prior_self, law = self.coefficients
        x_t, dtype = self.x_t, posterior.dtype
        index = x_t[..., None]
        p_x = posterior.gather(-1, index)[..., 0].double()
        toward_prior = prior * (1 - p_x) + prior_self * p_x
        out = posterior * data[..., None].to(dtype)
        out.addcmul_(toward_prior[..., None].to(dtype), law.beside(x_t, dtype))
        leave = data * (1 - p_x) + toward_prior * (1 - law.at(x_t))
        return out.scatter_(-1, index, (1 - leave)[..., None].to(dtype))
