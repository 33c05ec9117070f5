"""Noise by cluster: a token is redrawn from the prior of the clusters it belongs to.

Q = U·W − I with U (V, r) the memberships and W (r, V) the clusters' priors, both row-stochastic:
rates of low rank plus a diagonal. With A = W·U, an r×r stochastic matrix,

    exp(τ·Q) = e^{−τ}·(I + U·S(τ)·W),   S(τ) = τ·φ₁(τA) = ∫₀^τ e^{uA} du,

and the inverse has the same form with −τ. S comes from one exponential of a 2r×2r matrix, so that
every operation costs O(V·r) per position and none builds a V×V matrix. One cluster is
:class:`~fewjump.process.reset.ResetToPrior`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from fewjump.inversion import invert_shared_cdf
from fewjump.process.base import Process, check_laws
from fewjump.process.generators import stationary_law
from fewjump.process.kernel import (
    MOST_NOISE,
    Kernel,
    SingularKernelError,
    check_dense,
    checked_times,
    expand_time,
    multiply_rows,
)
from fewjump.random import Generator, categorical, uniform
from fewjump.schedule import Schedule, Time, as_time

# With a norm of at most 1/4 the first term left out, 4^-17/17!, is below 1e-24.
_SERIES_NORM, _SERIES_TERMS = 0.25, 16


class LowRankKernel(Kernel):
    """e^{−τ}·(I + U·S(τ)·W).

    Args:
        gap: τ, () or (B,) float64.
        members: U, (V, r) float64.
        priors: W, (r, V) float64.
        between: W·U, (r, r), made once for all kernels.
    """

    def __init__(self, gap: Tensor, members: Tensor, priors: Tensor, between: Tensor) -> None:
        self.gap, self.members, self.priors, self.between = gap, members, priors, between
        self.vocab_size, self.rank = members.shape

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor]:
        return self._parts_of(self.gap)

    def _parts_of(self, gap: Tensor) -> tuple[Tensor, Tensor]:
        """e^{−τ} and e^{−τ}·S(τ) for τ of any shape and sign: (...) and (..., r, r)."""
        size, flat = self.rank, gap.reshape(-1, 1, 1)
        top = torch.cat([self.between, torch.eye(size, dtype=torch.float64)], 1)
        block = torch.cat([top, torch.zeros_like(top)]).to(gap.device)
        whole = _exponential(flat * block)
        keep = torch.exp(-gap)
        inner = whole[:, :size, size:].reshape(*gap.shape, size, size)
        # Its rows sum to 1 − e^{−τ}, of either sign: the rounding of the squarings goes.
        total, exact = inner.sum(-1), -torch.expm1(-gap)[..., None]
        return keep, inner * torch.where(total != 0, exact / total, 0.0)[..., None]

    def dense(self) -> Tensor:
        check_dense(self.vocab_size, self.gap.numel())
        keep, inner = self._parts
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=keep.device)
        members, priors = self.members.to(keep.device), self.priors.to(keep.device)
        return keep[..., None, None] * eye + members @ inner @ priors

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        x = x.long()
        # r + 1 outcomes: nothing happened, or the last redraw was from one of r clusters.
        keep, inner = self._parts
        clusters = multiply_rows(self.members.to(x.device)[x], inner)
        stay = expand_time(keep, x).expand(x.shape)[..., None]
        choice = categorical(torch.cat([stay, clusters.clamp(min=0)], -1), generator)
        u = uniform(x.shape, generator, x.device)
        out, flat, drawn = x.clone().reshape(-1), choice.reshape(-1), u.reshape(-1)
        priors = self.priors.to(x.device)
        for cluster in flat.unique().tolist():
            if cluster:
                where = flat == cluster
                out[where] = invert_shared_cdf(priors[cluster - 1], drawn[where])
        return out.reshape(x.shape)

    def rows(self, x: Tensor) -> Tensor:
        return self._of_tokens(x, self.members, self._parts[1], self.priors)

    def columns(self, x: Tensor) -> Tensor:
        return self._of_tokens(x, self.priors.mT, self._parts[1].mT, self.members.mT)

    def push(self, rows: Tensor) -> Tensor:
        keep, inner = self._parts
        return _times(rows, keep, self.members, inner, self.priors)

    def pull(self, rows: Tensor) -> Tensor:
        keep, inner = self._parts
        return _times(rows, keep, self.priors.mT, inner.mT, self.members.mT)

    def solve(self, rows: Tensor) -> Tensor:
        grow, inner = self._parts_of(-self.gap)
        finite = bool(inner.isfinite().all() & grow.isfinite().all())
        if not finite or float(self.gap.max()) > MOST_NOISE:
            raise SingularKernelError("is singular in float64")
        return _times(rows.double(), grow, self.members, inner, self.priors)

    def condition_number(self) -> Tensor:
        """2-norm condition number from a matrix of 2r×2r: () or (B,).

        P = α·I + U·S·W is α outside the span of U and Wᵀ; in an orthonormal basis of that span it
        is a matrix of at most 2r×2r.
        """
        keep, inner = (part.cpu() for part in self._parts)
        both = torch.cat([self.members, self.priors.mT], 1)
        basis, triangle = torch.linalg.qr(both)
        size, outside = basis.shape[1], basis.shape[1] < self.vocab_size
        left, right = triangle[:, : self.rank], triangle[:, self.rank :]
        eye = torch.eye(size, dtype=torch.float64)
        values = torch.linalg.svdvals(keep[..., None, None] * eye + left @ inner @ right.mT)
        if outside:
            values = torch.cat([values, keep[..., None]], -1)
        return values.amax(-1) / values.amin(-1)

    def _of_tokens(self, x: Tensor, left: Tensor, inner: Tensor, right: Tensor) -> Tensor:
        """Rows x of keep·I + left·inner·right: (..., V)."""
        rows = multiply_rows(left.to(x.device)[x], inner) @ right.to(x.device)
        at = expand_time(self._parts[0], x).expand(x.shape)[..., None]
        return rows.scatter_add_(-1, x[..., None], at)


def _times(rows: Tensor, keep: Tensor, left: Tensor, inner: Tensor, right: Tensor) -> Tensor:
    """rows @ (keep·I + left·inner·right), in the dtype of the rows."""
    through = multiply_rows(multiply_rows(multiply_rows(rows, left), inner), right)
    return through.addcmul_(rows, expand_time(keep, rows[..., 0]).to(rows.dtype)[..., None])


class LowRankRate(Process):
    """A chain with rate σ(t)·(U·W − I): noise that keeps to clusters of tokens.

    With probability α = e^{−σ̄} nothing has happened to a position; otherwise its token was drawn
    from the priors of its clusters, once or more. Clusters that share tokens let it wander.

    Args:
        memberships: U, (V, r) non-negative, rows sum to 1 within 1e-6: a token's clusters.
        priors: W, (r, V) non-negative, rows sum to 1 within 1e-6: what each cluster draws.
        schedule: the noise schedule.

    Raises:
        ValueError: for shapes that do not fit or rows that are no probabilities, and for clusters
            that fall apart, so that where the chain ends depends on where it starts.
    """

    def __init__(self, memberships: Tensor, priors: Tensor, schedule: Schedule) -> None:
        self._members = check_laws(memberships, "memberships", 1)
        self._priors = check_laws(priors, "priors")
        if self._members.shape != self._priors.mT.shape or self._members.shape[0] < 2:
            raise ValueError(
                f"memberships (V, r) and priors (r, V) do not fit: {tuple(self._members.shape)} "
                f"and {tuple(self._priors.shape)}"
            )
        self.vocab_size, self.rank = self._members.shape
        self.schedule = schedule
        # The limit law is that of the clusters, seen through their priors.
        self._between = self._priors @ self._members
        moves = self._between - torch.eye(self.rank, dtype=torch.float64)
        law = stationary_law(moves) if self.rank > 1 else torch.ones(1, dtype=torch.float64)
        self._limit = law @ self._priors

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        members = [[1.0, 0.0], [0.7, 0.3], [0.0, 1.0], [0.0, 1.0]]
        priors = [[0.4, 0.4, 0.2, 0.0], [0.0, 0.1, 0.3, 0.6]]
        return cls(torch.tensor(members), torch.tensor(priors), schedule)

    def config(self) -> dict[str, Any]:
        return self._described(memberships=self._members.tolist(), priors=self._priors.tolist())

    def base_rate(self) -> Tensor:
        check_dense(self.vocab_size)
        return self._members @ self._priors - torch.eye(self.vocab_size, dtype=torch.float64)

    def kernel(self, s: Time, t: Time) -> LowRankKernel:
        gap = self.schedule.between(*checked_times(s, t))
        return LowRankKernel(gap, self._members, self._priors, self._between)

    def prior(self) -> Tensor:
        return self._limit

    def rate_columns(self, x: Tensor, t: Time) -> Tensor:
        sigma = expand_time(self.schedule.sigma(as_time(t, x.device)).double(), x)
        members, priors = self._members.to(x.device), self._priors.to(x.device)
        return (priors.mT[x] @ members.mT) * sigma[..., None]


def _exponential(matrices: Tensor) -> Tensor:
    """exp of small matrices (N, n, n) by Taylor series, scaled and squared.

    For non-negative ones nothing is subtracted. (``torch.linalg.matrix_exp`` cuts its polynomial
    short for small matrices, see :mod:`fewjump.process.exponential`.)
    """
    largest = float(matrices.abs().sum(-1).max()) if matrices.numel() else 0.0
    squarings = max(0, math.ceil(math.log2(max(largest, 1e-300) / _SERIES_NORM)))
    scaled = matrices / 2.0**squarings
    term = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    total = term = term.expand_as(matrices)
    for k in range(1, _SERIES_TERMS + 1):
        term = term @ scaled / k
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total
