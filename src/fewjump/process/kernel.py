"""Transition kernels P_{t|s} of one position, over which all formulas of a process are written.

A kernel is lazy: asking a process for one computes nothing of size V², and only what is used of it
is computed, once. It is one stochastic matrix for scalar times, and one for each element of the
batch for times (B,). Its forms are :class:`DenseKernel`, the identity plus rank one
(:mod:`fewjump.process.rank_one`), low rank (:mod:`fewjump.process.low_rank`), and an action on
vectors (:mod:`fewjump.process.flow`, :mod:`fewjump.process.low_rank_diagonal`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from fewjump.config import check_count
from fewjump.process.bridge import Bridge
from fewjump.random import Generator, categorical
from fewjump.schedule import Time, as_time

# Entries of the largest dense (…, V, V) tensor that is allowed: 2 GiB in float64, V = 16,384.
DENSE_LIMIT = 1 << 28
# Above this a matrix that is not at hand is slower to make than what it saves.
DENSE_STATES = 256
_SLACK = 1e-6
_POWER_STEPS, _SETTLED = 40, 1e-4

# σ̄ beyond which e^{−σ̄} is below the rounding of 1: what is left of the data is lost in float64.
MOST_NOISE = 34.5


class SingularKernelError(ValueError):
    """A kernel has no inverse in float64. The message goes on from "the kernel ..."."""


class Kernel(ABC):
    """P_{t|s}: ``[a, b]`` = Pr(x_t = b | x_s = a), so that rows are the earlier state.

    States are (B, ...) int64, and rows over the vocabulary (B, ..., V). What is returned lies on
    the device of the state or the rows.

    Attributes:
        least_dtype: the least precision in which products with rows are worth computing; rows of a
            narrower type are to be widened to it.
        dense_up_to: how many states V there may be for many products with the matrix itself to cost
            less than this form's.
    """

    least_dtype: torch.dtype = torch.float64
    dense_up_to: int = 1024

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """P[x, ·]: (..., V) float64."""

    @abstractmethod
    def columns(self, x: Tensor) -> Tensor:
        """P[·, x], the likelihood of every earlier state: (..., V) float64."""

    @abstractmethod
    def push(self, rows: Tensor) -> Tensor:
        """rows @ P: (..., V) in their dtype."""

    @abstractmethod
    def pull(self, rows: Tensor) -> Tensor:
        """rows @ Pᵀ, which is P applied to each row as a column: (..., V) in their dtype."""

    @abstractmethod
    def solve(self, rows: Tensor) -> Tensor:
        """rows @ P⁻¹, hence P⁻ᵀ r for each row r (paper Eq. 8): (..., V) float64.

        Raises:
            SingularKernelError: if P is singular in float64 (the noise left nothing of the data).
        """

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix itself, for small V: (V, V), or (B, V, V), float64.

        Raises:
            ValueError: if it would exceed :data:`DENSE_LIMIT` entries.
        """

    def condition_number(self) -> Tensor:
        """2-norm condition number: () or (B,) float64."""
        return torch.linalg.cond(self.dense())

    def row_entropies(self) -> Tensor:
        """Entropy of x_t given each x_s, in nats: (V,) or (B, V) float64."""
        return torch.special.entr(self.dense().clamp(min=0)).sum(-1)

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ P[x, ·]: same shape as ``x``."""
        return categorical(self.rows(x), generator)

    def times_columns(self, weights: Tensor, x: Tensor) -> Tensor:
        """weights·P[·, x], entry by entry, in float64: (..., V). May overwrite the weights."""
        columns = self.columns(x)
        return columns * weights if weights.requires_grad else columns.mul_(weights)

    def divide_columns(self, rows: Tensor, x: Tensor) -> Tensor:
        """rows/P[·, x], entry by entry, and 0 where P[·, x] is 0: (..., V) in their dtype."""
        columns = self.columns(x).to(rows.dtype)
        possible = columns > 0
        return torch.where(possible, rows / torch.where(possible, columns, 1), 0)

    def bridge(self, before: Kernel, whole: Kernel, x_t: Tensor) -> Bridge:
        """The bridge from 0 to x_t at s, with this kernel as P_{t|s}.

        Args:
            before: P_{s|0}.
            whole: P_{t|0}.
            x_t: (B, ...) int64.
        """
        return KernelBridge(before, self, whole, x_t)


class KernelBridge(Bridge):
    """A bridge from the kernels of any process.

    Args:
        before: P_{s|0}.
        between: P_{t|s}.
        whole: P_{t|0}.
        x_t: (B, ...) int64.
    """

    def __init__(self, before: Kernel, between: Kernel, whole: Kernel, x_t: Tensor) -> None:
        self.before, self.between, self.whole, self.x_t = before, between, whole, x_t

    def marginals(self, x0: Tensor) -> Tensor:
        forward = self.before.rows(x0)
        return _normalised(forward * self.between.columns(self.x_t), forward)

    def reverse_marginals(self, posterior: Tensor) -> Tensor:
        weights = self.whole.divide_columns(posterior.double(), self.x_t)
        pushed = self.before.push(weights)
        stay = torch.zeros_like(pushed).scatter(-1, self.x_t[..., None], 1.0)
        return _normalised(pushed * self.between.columns(self.x_t), stay).to(posterior.dtype)


class DenseKernel(Kernel):
    """A kernel that is a matrix.

    Args:
        matrix: (V, V) or (B, V, V) float64, rows summing to 1; or a function that gives it, called
            once, when it is first needed.
    """

    dense_up_to = DENSE_LIMIT

    def __init__(self, matrix: Tensor | Callable[[], Tensor]) -> None:
        self._given = matrix

    @cached_property
    def _matrix(self) -> Tensor:
        return self._given if isinstance(self._given, Tensor) else self._given()

    def dense(self) -> Tensor:
        return self._matrix

    def rows(self, x: Tensor) -> Tensor:
        return gather_rows(self.dense().to(x.device), x)

    def columns(self, x: Tensor) -> Tensor:
        return gather_rows(self.dense().to(x.device).mT, x)

    def push(self, rows: Tensor) -> Tensor:
        return multiply_rows(rows, self.dense())

    def pull(self, rows: Tensor) -> Tensor:
        return multiply_rows(rows, self.dense().mT)

    def solve(self, rows: Tensor) -> Tensor:
        kernel = self.dense().to(rows.device)
        columns = rows.double().reshape(*kernel.shape[:-2], -1, rows.shape[-1]).mT
        factors, pivots, _ = torch.linalg.lu_factor_ex(kernel.mT)
        diagonal = factors.diagonal(dim1=-2, dim2=-1).abs()
        if bool((diagonal.amin(-1) <= 1e-15 * diagonal.amax(-1)).any()):
            raise SingularKernelError("is singular in float64")
        return torch.linalg.lu_solve(factors, pivots, columns).mT.reshape(rows.shape)


class ActionKernel(Kernel):
    """A kernel that is known by what it does to rows, and makes nothing of size V².

    A subclass gives :meth:`act`, and rows and columns for states.

    Args:
        vocab_size: V.
        shape: () for one matrix, (B,) for several.
    """

    def __init__(self, vocab_size: int, shape: torch.Size) -> None:
        self.vocab_size, self.shape = vocab_size, shape

    @abstractmethod
    def act(self, rows: Tensor, *, transpose: bool = False, inverse: bool = False) -> Tensor:
        """Rows times each of N matrices, its transpose, its inverse, or that one's transpose.

        Args:
            rows: (N, n, V) float64.
        """

    def push(self, rows: Tensor) -> Tensor:
        return self.act(self._flatten(rows)).reshape(rows.shape).to(rows)

    def pull(self, rows: Tensor) -> Tensor:
        return self.act(self._flatten(rows), transpose=True).reshape(rows.shape).to(rows)

    def solve(self, rows: Tensor) -> Tensor:
        """By the inverse action, checked by multiplying back.

        Raises:
            SingularKernelError: if that does not give the rows to 1e-6.
        """
        flat = self._flatten(rows)
        weights = self.act(flat, inverse=True)
        flat = flat.detach()
        residual = self.act(weights.detach()).sub_(flat).abs_().amax(-1)
        if not bool((residual <= 1e-6 * flat.abs().amax(-1)).all()):
            worst = float(self.condition_number().max())
            raise SingularKernelError(f"has a condition number of about {worst:.1e}")
        return weights.reshape(rows.shape).to(rows.device)

    def condition_number(self) -> Tensor:
        """2-norm condition number; above 256 states an estimate from below, by power iterations."""
        if self.vocab_size <= DENSE_STATES:
            return super().condition_number()
        return (self._norm(inverse=False) * self._norm(inverse=True)).reshape(self.shape)

    def _norm(self, *, inverse: bool) -> Tensor:
        def square(v: Tensor) -> Tensor:
            moved = self.act(v[:, None], inverse=inverse)
            return self.act(moved, transpose=True, inverse=inverse)[:, 0]

        return largest_singular_value(square, self.shape.numel(), self.vocab_size)

    def _flatten(self, rows: Tensor) -> Tensor:
        """Rows (..., V) as (N, n, V) float64."""
        return rows.double().reshape(self.shape.numel(), -1, self.vocab_size)


# -- times and shapes ---------------------------------------------------------------------------


def check_states(vocab_size: int) -> None:
    """Raise ValueError for fewer than two states, or a number that is not whole."""
    check_count(vocab_size, "vocab_size")
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")


def check_dense(vocab_size: int, batch: int = 1) -> None:
    """Raise ValueError where a dense (batch, V, V) tensor would exceed :data:`DENSE_LIMIT`."""
    if batch * vocab_size**2 > DENSE_LIMIT:
        raise ValueError(
            f"a dense matrix of {batch} x {vocab_size} x {vocab_size} entries is too large "
            f"(limit {DENSE_LIMIT}); use what Uniform, Absorbing, ResetToPrior or TimeVaryingPrior "
            "do without it (corrupt, bridge, reverse_marginals, posterior_from_ratios, the "
            "kernel's rows, columns, push, ...), or a smaller vocabulary or batch"
        )


def checked_times(s: Time, t: Time) -> tuple[Tensor, Tensor]:
    """Both times in float64, on one device; ValueError unless 0 ≤ s ≤ t ≤ 1, up to 1e-6.

    Times that live on an accelerator are not read, since that would make it wait.
    """
    away = [v.device for v in (s, t) if isinstance(v, Tensor) and v.device.type != "cpu"]
    if not away:
        ordered = s <= t + _SLACK
        inside = (s >= -_SLACK, t <= 1 + _SLACK)
        if not all(bool(v.all()) if isinstance(v, Tensor) else v for v in (ordered, *inside)):
            raise ValueError(f"times must satisfy 0 <= s <= t <= 1, got s={s}, t={t}")
    device = away[0] if away else None
    return as_time(s, device).double(), as_time(t, device).double()


def expand_time(value: Tensor, x: Tensor) -> Tensor:
    """Reshape a () or (B,) coefficient to broadcast over a state ``x`` of shape (B, ...)."""
    value = value.to(x.device)
    return value.reshape(value.shape + (1,) * (x.dim() - value.dim())) if value.dim() else value


def gather_rows(table: Tensor, x: Tensor) -> Tensor:
    """Rows of (V, n), or of one table of (B, V, n) per element, at states (B, ...): (B, ..., n)."""
    if table.dim() == 2:
        return table[x]
    batch = torch.arange(x.shape[0], device=x.device)
    return table[batch.reshape(-1, *(1,) * (x.dim() - 1)), x]


def multiply_rows(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows (B, ..., n) @ matrix (n, m), or (B, n, m), in the dtype of the rows: (B, ..., m)."""
    matrix = matrix.to(rows.device, rows.dtype)
    if matrix.dim() == 2:
        return rows @ matrix
    flat = rows.reshape(rows.shape[0], -1, rows.shape[-1])
    return torch.bmm(flat, matrix).reshape(*rows.shape[:-1], matrix.shape[-1])


def largest_singular_value(square: Callable[[Tensor], Tensor], count: int, size: int) -> Tensor:
    """Largest singular value of A, approached from below by power iterations.

    Args:
        square: v ↦ v·A·Aᵀ for rows (N, V), or with the factors in the other order.
        count: N matrices at once.
        size: V.

    Returns:
        (N,) float64. At most 40 iterations, fewer once none changes by 1e-4 of itself.
    """
    source = torch.Generator().manual_seed(0)
    v = torch.rand(1, size, generator=source, dtype=torch.float64).expand(count, size) + 0.1
    length = torch.ones(count, dtype=torch.float64)
    for _ in range(_POWER_STEPS):
        v = square(v / v.norm(dim=-1, keepdim=True))
        before, length = length, v.norm(dim=-1)
        if bool(((length - before).abs() <= _SETTLED * length).all()):
            break
    return length.sqrt()


def _normalised(weights: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of ``weights`` divided by their sum; rows without mass become ``otherwise``."""
    total = weights.sum(-1, keepdim=True)
    possible = total > 0
    return torch.where(possible, weights / torch.where(possible, total, 1.0), otherwise)
