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
from typing import Any

import torch
from torch import Tensor

from fewjump.process.base import Process, check_dense, check_times
from fewjump.process.generators import stationary_law
from fewjump.random import Generator, categorical, invert_shared_cdf, uniform
from fewjump.schedule import Schedule, Time, as_time

# With a norm of at most 1/4 the first term left out, 4^-17/17!, is below 1e-24.
_SERIES_NORM, _SERIES_TERMS = 0.25, 16


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
        self._members = _stochastic(memberships, "memberships")
        self._priors = _stochastic(priors, "priors")
        if self._members.shape != self._priors.mT.shape or self._members.shape[0] < 2:
            raise ValueError(
                f"memberships (V, r) and priors (r, V) do not fit: {tuple(self._members.shape)} "
                f"and {tuple(self._priors.shape)}"
            )
        self.vocab_size, self.rank = self._members.shape
        self.schedule = schedule
        self._between = self._priors @ self._members
        # The limit law is that of the clusters, seen through their priors.
        moves = self._between - torch.eye(self.rank, dtype=torch.float64)
        law = stationary_law(moves) if self.rank > 1 else torch.ones(1, dtype=torch.float64)
        self._limit = law @ self._priors

    def __repr__(self) -> str:
        sizes = f"vocab_size={self.vocab_size}, rank={self.rank}"
        return f"LowRankRate({sizes}, schedule={self.schedule})"

    def config(self) -> dict[str, Any]:
        return {
            "name": "LowRankRate",
            "memberships": self._members.tolist(),
            "priors": self._priors.tolist(),
            "schedule": self.schedule.config(),
        }

    def base_rate(self) -> Tensor:
        check_dense(self.vocab_size)
        return self._members @ self._priors - torch.eye(self.vocab_size, dtype=torch.float64)

    def kernel(self, s: Time, t: Time) -> Tensor:
        gap = self._gap(s, t)
        check_dense(self.vocab_size, gap.numel())
        keep, inner = self._parts(gap)
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=gap.device)
        members, priors = self._factors(gap.device)
        return keep[..., None, None] * eye + members @ inner @ priors

    def prior(self) -> Tensor:
        return self._limit

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        # r + 1 outcomes: nothing happened, or the last redraw was from one of r clusters.
        keep, inner = self._parts(self._gap(s, t, x))
        clusters = self._expand_rows(self._factors(x.device)[0][x], inner)
        stay = _beside(keep, x).expand(x.shape)[..., None]
        choice = categorical(torch.cat([stay, clusters.clamp(min=0)], -1), generator)
        u = uniform(x.shape, generator, x.device)
        out, flat, drawn = x.clone().reshape(-1), choice.reshape(-1), u.reshape(-1)
        priors = self._priors.to(x.device)
        for cluster in flat.unique().tolist():
            if cluster:
                where = flat == cluster
                out[where] = invert_shared_cdf(priors[cluster - 1], drawn[where])
        return out.reshape(x.shape)

    # -- ratios and posteriors --------------------------------------------------------------

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        """w = P_{t|0}⁻ᵀ r in O(V·r), float64: (B, L, V).

        Raises:
            ValueError: if P_{t|0} is singular in float64.
        """
        gap = self._gap(0.0, t, ratios[..., 0])
        grow, inner = self._parts(-gap)
        if not bool(inner.isfinite().all() & grow.isfinite().all()) or float(gap.max()) > 34.5:
            raise ValueError(
                f"the kernel at t = {t} is singular in float64, so ratios there do not determine a "
                "posterior; use a smaller t, or a denoiser that gives posteriors"
            )
        return self._apply(ratios.double(), grow, inner)

    def condition_number(self, t: Time) -> Tensor:
        """2-norm condition number of P_{t|0}, from a matrix of 2r×2r: () or (B,).

        P = α·I + U·S·W is α outside the span of U and Wᵀ; in an orthonormal basis of that span it
        is a matrix of at most 2r×2r.
        """
        keep, inner = self._parts(self._gap(0.0, t))
        both = torch.cat([self._members, self._priors.mT], 1)
        basis, triangle = torch.linalg.qr(both)
        size, outside = basis.shape[1], basis.shape[1] < self.vocab_size
        left, right = triangle[:, : self.rank], triangle[:, self.rank :]
        eye = torch.eye(size, dtype=torch.float64)
        small = keep[..., None, None].cpu() * eye + left @ inner.cpu() @ right.mT
        values = torch.linalg.svdvals(small)
        if outside:
            values = torch.cat([values, keep[..., None].cpu()], -1)
        return values.amax(-1) / values.amin(-1)

    # -- the products that the base class asks for ------------------------------------------

    def _rows(self, s: Time, t: Time, x: Tensor) -> Tensor:
        keep, inner = self._parts(self._gap(s, t, x))
        members, priors = self._factors(x.device)
        rows = self._expand_rows(members[x], inner) @ priors
        at = _beside(keep, x).expand(x.shape)[..., None]
        return rows.scatter_add_(-1, x[..., None], at)

    def _columns(self, s: Time, t: Time, x: Tensor) -> Tensor:
        keep, inner = self._parts(self._gap(s, t, x))
        members, priors = self._factors(x.device)
        columns = self._expand_rows(priors.mT[x], inner.mT) @ members.mT
        at = _beside(keep, x).expand(x.shape)[..., None]
        return columns.scatter_add_(-1, x[..., None], at)

    def _push(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        return self._apply(rows, *self._parts(self._gap(s, t, rows[..., 0])))

    def _pull(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        keep, inner = self._parts(self._gap(s, t, rows[..., 0]))
        members, priors = (f.to(rows.dtype) for f in self._factors(rows.device))
        through = self._expand_rows(rows @ priors.mT, inner.mT.to(rows.dtype)) @ members.mT
        return through.addcmul_(rows, _beside(keep, rows[..., 0]).to(rows.dtype)[..., None])

    def _rate_columns(self, x: Tensor, t: Time) -> Tensor:
        members, priors = self._factors(x.device)
        sigma = _beside(self.schedule.sigma(as_time(t, x.device)).double(), x)
        columns = priors.mT[x] @ members.mT
        columns = columns.scatter_add_(-1, x[..., None], -torch.ones_like(columns[..., :1]))
        return columns * sigma[..., None]

    def _apply(self, rows: Tensor, keep: Tensor, inner: Tensor) -> Tensor:
        """rows @ (keep·I + U·inner·W)."""
        members, priors = (f.to(rows.dtype) for f in self._factors(rows.device))
        through = self._expand_rows(rows @ members, inner.to(rows.dtype)) @ priors
        return through.addcmul_(rows, _beside(keep, rows[..., 0]).to(rows.dtype)[..., None])

    def _gap(self, s: Time, t: Time, x: Tensor | None = None) -> Tensor:
        check_times(s, t)
        device = None if x is None else x.device
        return self.schedule.between(as_time(s, device), as_time(t, device)).double()

    def _parts(self, gap: Tensor) -> tuple[Tensor, Tensor]:
        """e^{−τ} and e^{−τ}·S(τ) for τ of any shape and sign: (...) and (..., r, r)."""
        size, flat = self.rank, gap.reshape(-1, 1, 1)
        top = torch.cat([self._between, torch.eye(size, dtype=torch.float64)], 1)
        block = torch.cat([top, torch.zeros_like(top)]).to(gap.device)
        whole = _exponential(flat * block)
        keep = torch.exp(-gap)
        inner = whole[:, :size, size:].reshape(*gap.shape, size, size)
        # Its rows sum to 1 − e^{−τ}, of either sign: the rounding of the squarings goes.
        total, exact = inner.sum(-1), -torch.expm1(-gap)[..., None]
        return keep, inner * torch.where(total != 0, exact / total, 0.0)[..., None]

    def _factors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return self._members.to(device), self._priors.to(device)

    @staticmethod
    def _expand_rows(rows: Tensor, inner: Tensor) -> Tensor:
        """rows (..., r) @ inner, (r, r) or one for each of the first axis (B, r, r)."""
        if inner.dim() == 2:
            return rows @ inner
        flat = rows.reshape(rows.shape[0], -1, rows.shape[-1])
        return torch.bmm(flat, inner).reshape(rows.shape)


def _beside(value: Tensor, x: Tensor) -> Tensor:
    """A () or (B,) number to broadcast over a state."""
    return value.reshape(value.shape + (1,) * (x.dim() - value.dim())) if value.dim() else value


def _stochastic(matrix: Tensor, name: str) -> Tensor:
    rows = torch.as_tensor(matrix).detach().cpu().double()
    total = rows.sum(-1, keepdim=True)
    if rows.dim() != 2 or bool((rows < 0).any()) or not bool(((total - 1).abs() < 1e-6).all()):
        raise ValueError(f"{name} must be a matrix whose rows are probabilities that sum to 1")
    return rows / total


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
