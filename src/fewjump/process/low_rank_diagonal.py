"""Noise by cluster at a rate of each token's own: Q = U·W − diag(e).

U (V, r) says how fast a token is taken by each cluster, W (r, V) what a cluster draws. With equal
exit rates this is :class:`~fewjump.process.low_rank.LowRankRate`, which has a closed form;
with general ones diag(e) and U·W do not commute, and exp(τ·Q) is uniformization: with q = max e and
A = I + Q/q, which is diagonal plus low rank as well and non-negative,

    exp(τ·Q) = Σ_j e^{−qτ}·(qτ)ʲ/j!·Aʲ,

whose powers :mod:`fewjump.process.low_rank_series` sums without forming one. O(V·r·J) per position
for J ≈ qτ + 9·√(qτ) + 16 terms: the cost grows with the largest exit rate.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from fewjump.inversion import invert_cdf, row_chunks
from fewjump.process.base import Process, check_mask
from fewjump.process.exponential import stochastic
from fewjump.process.generators import stationary_law
from fewjump.process.kernel import (
    MOST_NOISE,
    ActionKernel,
    SingularKernelError,
    check_dense,
    checked_times,
    expand_time,
)
from fewjump.process.low_rank_series import LowRankSeries, rounded_terms
from fewjump.random import Generator, uniform
from fewjump.schedule import Schedule, Time, as_time

# Expected jumps of one run of the series; e^{−128} is far from the smallest float64.
_JUMPS = 128.0
# The inverse alternates: in runs of norm at most 4 little cancels, and 4^41/41! is below 1e-24.
_INVERSE_JUMPS, _INVERSE_TERMS = 2.0, 40
_CHUNK_ELEMENTS = 1 << 23
_ROW_SLACK = 1e-6


class _Uniformized:
    """The series that act as exp(τ·Q), its transpose, and the inverses of both."""

    def __init__(self, left: Tensor, right: Tensor, exits: Tensor) -> None:
        self.exits, self.speed = exits, float(exits.max())
        # tr(Q)/V = −decay.
        self.decay = float((exits - (left * right.mT).sum(-1)).mean())
        stay = (1 - exits / self.speed).clamp(min=0)
        self.push = LowRankSeries(stay, left / self.speed, right)
        self.pull = self.push.transposed()
        self.push_inverse = LowRankSeries(exits / self.speed, left / self.speed, -right)
        self.pull_inverse = self.push_inverse.transposed()


class LowRankDiagonalKernel(ActionKernel):
    """exp(τ·(U·W − diag(e))), as an action on rows.

    Args:
        gap: τ, () or (B,) float64.
        series: of Q.
    """

    def __init__(self, gap: Tensor, series: _Uniformized) -> None:
        super().__init__(len(series.exits), gap.shape)
        self.gap, self.series = gap, series

    def dense(self) -> Tensor:
        gap = self.gap
        check_dense(self.vocab_size, gap.numel())
        tokens = torch.arange(self.vocab_size, device=gap.device).expand(max(1, gap.numel()), -1)
        rows = stochastic(self._of_tokens(self.series.push, tokens, gap.reshape(-1)))
        return rows.reshape(*gap.shape, self.vocab_size, self.vocab_size)

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        gap = self.gap.to(x.device).reshape(-1)
        u = uniform(x.shape, generator, x.device).reshape(max(1, gap.numel()), -1)
        tokens = x.reshape(u.shape)
        out = torch.empty_like(tokens)
        # Rows for a part of the batch, or of one element of it, at a time.
        across = max(1, min(u.shape[1], _CHUNK_ELEMENTS // self.vocab_size))
        down = max(1, _CHUNK_ELEMENTS // (self.vocab_size * across))
        for elements in row_chunks(u.shape[0], 1, down):
            for positions in row_chunks(u.shape[1], 1, across):
                part = elements, positions
                rows = self._of_tokens(self.series.push, tokens[part], gap[part[0]])
                drawn = invert_cdf(rows.flatten(0, -2), u[part].reshape(-1))
                out[part] = drawn.reshape(u[part].shape)
        return out.reshape(x.shape)

    def rows(self, x: Tensor) -> Tensor:
        return self._tokens_times(self.series.push, x)

    def columns(self, x: Tensor) -> Tensor:
        return self._tokens_times(self.series.pull, x)

    def act(self, rows: Tensor, *, transpose: bool = False, inverse: bool = False) -> Tensor:
        gap = self.gap.to(rows.device).reshape(-1)
        if not inverse:
            series = self.series.pull if transpose else self.series.push
            runs = self._runs(gap)
            weights = self._weights(gap / runs)
            for _ in range(runs):
                rows = self._run(series, rows, gap / runs, weights)
            return rows
        series = self.series.pull_inverse if transpose else self.series.push_inverse
        longest = self.series.speed * float(gap.max()) if gap.numel() else 0.0
        runs = max(1, math.ceil(longest / _INVERSE_JUMPS))
        theta = self.series.speed * gap / runs
        weights = _poisson(theta, _INVERSE_TERMS, torch.ones_like(gap))
        for _ in range(runs):
            rows = self._run(series, rows, -gap / runs, weights)
        return rows

    def solve(self, rows: Tensor) -> Tensor:
        # σ_min(P) ≤ det(P)^{1/V} = e^{τ·tr(Q)/V}, and the norm of P is at least 1.
        fastest = float(self.gap.max()) if self.gap.numel() else 0.0
        if fastest * self.series.decay > MOST_NOISE or fastest * self.series.speed > 700:
            raise SingularKernelError("is singular in float64")
        return super().solve(rows)

    def _tokens_times(self, series: LowRankSeries, x: Tensor) -> Tensor:
        gap = self.gap.to(x.device).reshape(-1)
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
        stay = torch.exp(-gap[:, None] / runs * self.series.exits.to(gap.device)[tokens])
        rows = rows.scatter_add(-1, tokens[..., None], stay[..., None])
        for _ in range(runs - 1):
            rows = self._run(series, rows, gap / runs, weights)
        return rows

    def _run(self, series: LowRankSeries, rows: Tensor, gap: Tensor, weights: Tensor) -> Tensor:
        alone = torch.exp(-gap[:, None] * self.series.exits.to(gap.device))[:, None]
        return series.of_rows(rows, weights).addcmul_(rows, alone)

    def _runs(self, gap: Tensor) -> int:
        longest = self.series.speed * float(gap.max()) if gap.numel() else 0.0
        return max(1, math.ceil(longest / _JUMPS))

    def _weights(self, gap: Tensor) -> Tensor:
        """Poisson weights of the numbers of jumps, to where 1e-20 of them is left: (N, J + 1)."""
        theta = self.series.speed * gap
        largest = float(theta.max()) if theta.numel() else 0.0
        terms = rounded_terms(math.ceil(largest + 9.5 * math.sqrt(largest)) + 16)
        return _poisson(theta, terms, torch.exp(-theta))


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
        self._left, self._right = _factor_of(left, "left"), _factor_of(right, "right")
        if self._left.shape != self._right.mT.shape or self._left.shape[0] < 2:
            raise ValueError(
                f"left (V, r) and right (r, V) do not fit: {tuple(self._left.shape)} and "
                f"{tuple(self._right.shape)}"
            )
        self.vocab_size, self.rank = self._left.shape
        self.schedule, self.mask = schedule, check_mask(mask, self.vocab_size)
        mass = self._right.sum(-1)
        if bool((mass <= 0).any()):
            raise ValueError(
                f"row {int(mass.argmin())} of right has no positive entry: the cluster draws "
                "nothing; drop it, and its column of left"
            )
        self._exits = self._left @ mass
        if float(self._exits.max()) <= 0:
            raise ValueError("left has no positive rate: nothing would ever be noised")
        if diagonal is not None:
            _check_diagonal(diagonal, self._exits)
        self._limit = _limit_of_clusters(
            self._left * mass, self._right / mass[:, None], self._exits
        )
        self._uniformized = _Uniformized(self._left, self._right, self._exits)

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        left = [[1.5, 0.0], [0.3, 0.4], [0.0, 0.8], [0.2, 2.0]]
        right = [[0.4, 0.4, 0.2, 0.0], [0.0, 0.1, 0.3, 0.6]]
        return cls(torch.tensor(left), torch.tensor(right), schedule)

    def config(self) -> dict[str, Any]:
        return self._described(left=self._left.tolist(), right=self._right.tolist(), mask=self.mask)

    @property
    def exit_rates(self) -> Tensor:
        """e = −d, what the rows of U·W sum to: (V,) float64."""
        return self._exits

    def base_rate(self) -> Tensor:
        check_dense(self.vocab_size)
        return self._left @ self._right - torch.diag(self._exits)

    def kernel(self, s: Time, t: Time) -> LowRankDiagonalKernel:
        gap = self.schedule.between(*checked_times(s, t))
        return LowRankDiagonalKernel(gap, self._uniformized)

    def prior(self) -> Tensor:
        return self._limit

    def rate_columns(self, x: Tensor, t: Time) -> Tensor:
        sigma = expand_time(self.schedule.sigma(as_time(t, x.device)).double(), x)
        left, right = self._left.to(x.device), self._right.to(x.device)
        return (right.mT[x] @ left.mT) * sigma[..., None]


def _poisson(theta: Tensor, terms: int, first: Tensor) -> Tensor:
    """first·θʲ/j! for j = 0 … J, without a logarithm: (N,) → (N, J + 1)."""
    count = torch.arange(1, terms + 1, dtype=torch.float64, device=theta.device)
    return torch.cat([first[:, None], theta[:, None] / count], 1).cumprod(1)


def _factor_of(matrix: Tensor, name: str) -> Tensor:
    """A factor in float64 on the CPU; ValueError for entries that are negative or not finite."""
    entries = torch.as_tensor(matrix, dtype=torch.float64).detach().cpu()
    if entries.dim() != 2 or not bool(entries.isfinite().all()):
        raise ValueError(f"{name} must be a matrix of finite numbers, got {tuple(entries.shape)}")
    if bool((entries < 0).any()):
        row, column = (int(i) for i in (entries < 0).nonzero()[0])
        raise ValueError(
            f"{name} must not be negative, but entry [{row}, {column}] is "
            f"{float(entries[row, column]):.6g}; factor the rates between different states into "
            "non-negative parts and leave what is negative to the diagonal, or use FixedRate (up "
            "to a few thousand states)"
        )
    return entries


def _check_diagonal(diagonal: Tensor, exits: Tensor) -> None:
    """Raise ValueError where diag(d) does not close the rows, to 1e-6 of the largest exit rate."""
    given = torch.as_tensor(diagonal, dtype=torch.float64).detach().cpu()
    if given.shape != exits.shape:
        raise ValueError(f"diagonal must have shape {tuple(exits.shape)}, got {tuple(given.shape)}")
    error = given + exits
    worst = int(error.abs().nan_to_num(torch.inf).argmax())
    if not float(error[worst].abs()) <= _ROW_SLACK * float(exits.max()):
        raise ValueError(
            f"rows of diag(d) + left·right sum to 0, but row {worst} sums to "
            f"{float(error[worst]):.6g}; set diagonal[{worst}] to {-float(exits[worst]):.6g}, or "
            "leave diagonal out, which closes the rows"
        )


def _limit_of_clusters(rates: Tensor, priors: Tensor, exits: Tensor) -> Tensor:
    """The law that the chain ends in, from the chain of its clusters: (V,) float64.

    A visit to cluster k draws token b from W, which waits 1/e_b and goes to cluster j with
    probability U[b, j]/e_b; a token that never leaves is where the chain stays.

    Args:
        rates: U, (V, r), in units in which the rows of ``priors`` sum to 1.
        priors: W, (r, V).
        exits: e, (V,).

    Raises:
        ValueError: for more than one closed class of states.
    """
    stuck = (exits <= 0).nonzero()[:, 0]
    if stuck.numel() > 1:
        raise ValueError(
            f"tokens {int(stuck[0])} and {int(stuck[1])} never leave (their rows of left are 0), "
            "so that where the chain ends depends on where it starts; give all but one a rate"
        )
    wait = torch.where(exits > 0, 1 / torch.where(exits > 0, exits, 1.0), 0.0)
    rank, size = priors.shape[0], priors.shape[0] + stuck.numel()
    steps = torch.zeros(size, size, dtype=torch.float64)
    steps[:rank, :rank] = (priors * wait) @ rates
    steps[:rank, rank:] = priors[:, stuck]
    steps.fill_diagonal_(0)
    visits = (
        stationary_law(steps - torch.diag(steps.sum(-1))) if size > 1 else torch.ones(1).double()
    )
    law = (visits[:rank] @ priors) * wait
    law[stuck] += visits[rank:]
    return law / law.sum()
