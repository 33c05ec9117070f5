"""Noise by cluster at a rate of each token's own: Q = U·W − diag(e).

U (V, r) says how fast a token is taken by each cluster, W (r, V) what a cluster draws. With equal
exit rates this is :class:`~fewjump.process.low_rank_rate.LowRankRate`, which has a closed form;
with general ones diag(e) and U·W do not commute, and exp(τ·Q) is uniformization: with q = max e and
A = I + Q/q, which is diagonal plus low rank as well and non-negative,

    exp(τ·Q) = Σ_j e^{−qτ}·(qτ)ʲ/j!·Aʲ,

whose powers :mod:`fewjump.process.low_rank_series` sums without forming one. O(V·r·J) per position
for J ≈ qτ + 9·√(qτ) + 16 terms: the cost grows with the largest exit rate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fewjump.process.base import Process, check_dense, check_times, expand_time
from fewjump.process.condition import largest_singular_value
from fewjump.process.exponential import stochastic
from fewjump.process.low_rank_factors import check_diagonal, factor_of, limit_of_clusters
from fewjump.process.low_rank_series import LowRankSeries, rounded_terms
from fewjump.random import Generator, invert_cdf, uniform
from fewjump.schedule import Schedule, Time, as_time

# Expected jumps of one run of the series; e^{−128} is far from the smallest float64.
_JUMPS = 128.0
# The inverse alternates: in runs of norm at most 4 little cancels, and 4^41/41! is below 1e-24.
_INVERSE_JUMPS, _INVERSE_TERMS = 2.0, 40
_DENSE_STATES = 256
_CHUNK_ELEMENTS = 1 << 23


class LowRankDiagonalRate(Process):
    """A chain with rate σ(t)·(U·W + diag(d)): clusters, and exit rates that differ by token.

    A token leaves at rate e_a = −d_a, its row's sum of U·W (which may put it back where it was).
    One cluster that draws the mask alone is masking at rates of each token's own.

    Args:
        left: U, (V, r) non-negative: the rate at which a token is redrawn by a cluster.
        right: W, (r, V) non-negative, every row with some mass: what each cluster draws. Its rows
            need not sum to 1.
        schedule: the noise schedule.
        diagonal: d, (V,). Rows of a generator sum to 0, which leaves one choice; it is computed
            when left out, and checked to 1e-6 of the largest rate when given.
        mask: a state that no clean sequence holds, if there is one.

    Raises:
        ValueError: for shapes that do not fit, entries that are negative or not finite, a diagonal
            with which rows do not sum to 0, and for chains of which the end depends on the start.
    """

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        schedule: Schedule,
        diagonal: Tensor | None = None,
        mask: int | None = None,
    ) -> None:
        self._left, self._right = factor_of(left, "left"), factor_of(right, "right")
        if self._left.shape != self._right.mT.shape or self._left.shape[0] < 2:
            raise ValueError(
                f"left (V, r) and right (r, V) do not fit: {tuple(self._left.shape)} and "
                f"{tuple(self._right.shape)}"
            )
        self.vocab_size, self.rank = self._left.shape
        if mask is not None and not 0 <= mask < self.vocab_size:
            raise ValueError(f"mask must lie in [0, {self.vocab_size}), got {mask}")
        mass = self._right.sum(-1)
        if bool((mass <= 0).any()):
            raise ValueError(
                f"row {int(mass.argmin())} of right has no positive entry: the cluster draws "
                "nothing; drop it, and its column of left"
            )
        self._exits = self._left @ mass
        self.speed = float(self._exits.max())
        if self.speed <= 0:
            raise ValueError("left has no positive rate: nothing would ever be noised")
        if diagonal is not None:
            check_diagonal(diagonal, self._exits)
        self.schedule, self.mask = schedule, mask
        self._limit = limit_of_clusters(self._left * mass, self._right / mass[:, None], self._exits)
        stay = (1 - self._exits / self.speed).clamp(min=0)
        self._push_series = LowRankSeries(stay, self._left / self.speed, self._right)
        self._pull_series = self._push_series.transposed()
        self._inverse_series = LowRankSeries(
            self._exits / self.speed, self._left / self.speed, -self._right
        )
        self._inverse_pull_series = self._inverse_series.transposed()

    def __repr__(self) -> str:
        sizes = f"vocab_size={self.vocab_size}, rank={self.rank}"
        return f"LowRankDiagonalRate({sizes}, schedule={self.schedule})"

    def config(self) -> dict[str, Any]:
        return {
            "name": "LowRankDiagonalRate",
            "left": self._left.tolist(),
            "right": self._right.tolist(),
            "mask": self.mask,
            "schedule": self.schedule.config(),
        }

    @property
    def exit_rates(self) -> Tensor:
        """e = −d, what the rows of U·W sum to: (V,) float64."""
        return self._exits

    def base_rate(self) -> Tensor:
        check_dense(self.vocab_size)
        return self._left @ self._right - torch.diag(self._exits)

    def kernel(self, s: Time, t: Time) -> Tensor:
        gap = self._gap(s, t)
        check_dense(self.vocab_size, gap.numel())
        tokens = torch.arange(self.vocab_size, device=gap.device).expand(max(1, gap.numel()), -1)
        rows = stochastic(self._of_tokens(self._push_series, tokens, gap.reshape(-1)))
        return rows.reshape(*gap.shape, self.vocab_size, self.vocab_size)

    def prior(self) -> Tensor:
        return self._limit

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        gap = self._gap(s, t, x).reshape(-1)
        u = uniform(x.shape, generator, x.device).reshape(max(1, gap.numel()), -1)
        tokens = x.reshape(u.shape)
        out = torch.empty_like(tokens)
        # Rows for a part of the batch, or of one element of it, at a time.
        across = max(1, min(u.shape[1], _CHUNK_ELEMENTS // self.vocab_size))
        down = max(1, _CHUNK_ELEMENTS // (self.vocab_size * across))
        for i in range(0, u.shape[0], down):
            for j in range(0, u.shape[1], across):
                part = slice(i, i + down), slice(j, j + across)
                rows = self._of_tokens(self._push_series, tokens[part], gap[part[0]])
                drawn = invert_cdf(rows.flatten(0, -2), u[part].reshape(-1))
                out[part] = drawn.reshape(u[part].shape)
        return out.reshape(x.shape)

    # -- ratios and posteriors --------------------------------------------------------------

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        """w = P_{t|0}⁻ᵀ r by the action of exp(−τ·Q), float64: (B, L, V).

        Raises:
            ValueError: if P_{t|0} is singular in float64, or so ill-conditioned that multiplying
                back does not give the ratios to 1e-6.
        """
        rows, gap = self._flatten(ratios.double(), 0.0, t)
        # σ_min(P) ≤ det(P)^{1/V} = e^{τ·tr(Q)/V}, and the norm of P is at least 1.
        inside = (self._left * self._right.mT).sum(-1)
        fastest = float(gap.max()) if gap.numel() else 0.0
        least = fastest * float((self._exits - inside).mean())
        if least <= 34.5 and fastest * self.speed <= 700:
            weights = self._inverse(self._inverse_series, rows, gap)
            rows = rows.detach()
            back = self._forward(self._push_series, weights.detach(), gap)
            residual = back.sub_(rows).abs_().amax(-1)
            if bool((residual <= 1e-6 * rows.abs().amax(-1)).all()):
                return weights.reshape(ratios.shape)
            said = f"has a condition number of about {float(self.condition_number(t).max()):.1e}"
        else:
            said = "is singular in float64"
        raise ValueError(
            f"the kernel at t = {t} {said}, so ratios there do not determine a posterior; use a "
            "smaller t, smaller exit rates, or a denoiser that gives posteriors"
        )

    def condition_number(self, t: Time) -> Tensor:
        """2-norm condition number of P_{t|0}: () or (B,).

        Above 256 states an estimate from below, by power iterations on P and P⁻¹.
        """
        if self.vocab_size <= _DENSE_STATES:
            return super().condition_number(t)
        gap = self._gap(0.0, t)
        flat = gap.reshape(-1).cpu()

        def through(v: Tensor) -> Tensor:
            pushed = self._forward(self._push_series, v[:, None], flat)
            return self._forward(self._pull_series, pushed, flat)[:, 0]

        def back(v: Tensor) -> Tensor:
            pushed = self._inverse(self._inverse_series, v[:, None], flat)
            return self._inverse(self._inverse_pull_series, pushed, flat)[:, 0]

        norms = [largest_singular_value(f, flat.numel(), self.vocab_size) for f in (through, back)]
        return (norms[0] * norms[1]).reshape(gap.shape).to(gap.device)

    # -- the products that the base class asks for ------------------------------------------

    def _rows(self, s: Time, t: Time, x: Tensor) -> Tensor:
        return self._tokens_times(self._push_series, s, t, x)

    def _columns(self, s: Time, t: Time, x: Tensor) -> Tensor:
        return self._tokens_times(self._pull_series, s, t, x)

    def _push(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        flat, gap = self._flatten(rows, s, t)
        return self._forward(self._push_series, flat, gap).reshape(rows.shape).to(rows.dtype)

    def _pull(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        flat, gap = self._flatten(rows, s, t)
        return self._forward(self._pull_series, flat, gap).reshape(rows.shape).to(rows.dtype)

    def _rate_columns(self, x: Tensor, t: Time) -> Tensor:
        left, right = self._left.to(x.device), self._right.to(x.device)
        sigma = expand_time(self.schedule.sigma(as_time(t, x.device)).double(), x)
        exits = self._exits.to(x.device)[x][..., None]
        columns = (right.mT[x] @ left.mT).scatter_add_(-1, x[..., None], -exits)
        return columns * sigma[..., None]

    def _tokens_times(self, series: LowRankSeries, s: Time, t: Time, x: Tensor) -> Tensor:
        gap = self._gap(s, t, x).reshape(-1)
        tokens = x.reshape(max(1, gap.numel()), -1)
        return self._of_tokens(series, tokens, gap).reshape(*x.shape, self.vocab_size)

    def _of_tokens(self, series: LowRankSeries, tokens: Tensor, gap: Tensor) -> Tensor:
        """Rows of exp(τ·Q), or its transpose, for tokens (N, n) and τ (N,): (N, n, V)."""
        if tokens.shape[1] > self.vocab_size:
            every = torch.arange(self.vocab_size, device=tokens.device).expand(len(tokens), -1)
            table = self._of_tokens(series, every, gap)
            return table.gather(1, tokens[..., None].expand(-1, -1, self.vocab_size))
        runs = self._runs(gap)
        weights = self._weights(gap / runs)
        rows = series.of_tokens(tokens, weights)
        stay = torch.exp(-gap[:, None] / runs * self._exits.to(gap.device)[tokens])
        rows = rows.scatter_add(-1, tokens[..., None], stay[..., None])
        for _ in range(runs - 1):
            rows = self._run(series, rows, gap / runs, weights)
        return rows

    def _forward(self, series: LowRankSeries, rows: Tensor, gap: Tensor) -> Tensor:
        """Rows (N, n, V) times exp(τ·Q), or its transpose, for τ (N,)."""
        runs = self._runs(gap)
        weights = self._weights(gap / runs)
        for _ in range(runs):
            rows = self._run(series, rows, gap / runs, weights)
        return rows

    def _inverse(self, series: LowRankSeries, rows: Tensor, gap: Tensor) -> Tensor:
        """Rows (N, n, V) times exp(−τ·Q), or its transpose, for τ (N,)."""
        longest = self.speed * float(gap.max()) if gap.numel() else 0.0
        runs = max(1, math.ceil(longest / _INVERSE_JUMPS))
        weights = _poisson(self.speed * gap / runs, _INVERSE_TERMS, torch.ones_like(gap))
        for _ in range(runs):
            rows = self._run(series, rows, -gap / runs, weights)
        return rows

    def _run(self, series: LowRankSeries, rows: Tensor, gap: Tensor, weights: Tensor) -> Tensor:
        alone = torch.exp(-gap[:, None] * self._exits.to(gap.device))[:, None]
        return series.of_rows(rows, weights).addcmul_(rows, alone)

    def _runs(self, gap: Tensor) -> int:
        longest = self.speed * float(gap.max()) if gap.numel() else 0.0
        return max(1, math.ceil(longest / _JUMPS))

    def _weights(self, gap: Tensor) -> Tensor:
        """Poisson weights of the numbers of jumps, to where 1e-20 of them is left: (N, J + 1)."""
        theta = self.speed * gap
        largest = float(theta.max()) if theta.numel() else 0.0
        terms = rounded_terms(math.ceil(largest + 9.5 * math.sqrt(largest)) + 16)
        return _poisson(theta, terms, torch.exp(-theta))

    def _flatten(self, rows: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Rows (..., V) as (N, n, V) float64 with N noise gaps."""
        gap = self._gap(s, t, rows[..., 0]).reshape(-1)
        return rows.double().reshape(max(1, gap.numel()), -1, self.vocab_size), gap

    def _gap(self, s: Time, t: Time, x: Tensor | None = None) -> Tensor:
        check_times(s, t)
        device = None if x is None else x.device
        return self.schedule.between(as_time(s, device), as_time(t, device)).double()


def _poisson(theta: Tensor, terms: int, first: Tensor) -> Tensor:
    """first·θʲ/j! for j = 0 … J, without a logarithm: (N,) → (N, J + 1)."""
    count = torch.arange(1, terms + 1, dtype=torch.float64, device=theta.device)
    return torch.cat([first[:, None], theta[:, None] / count], 1).cumprod(1)
