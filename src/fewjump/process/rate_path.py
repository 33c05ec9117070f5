"""Generators that change with time: a weighted sum of fixed ones, or any function.

R(t) is a generator in units of the noise rate: the chain's is Q_t = σ(t)·R(t). Matrices may be
dense or sparse; nothing here turns a sparse one into a dense one, except :meth:`RatePath.dense`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewjump.process.generators import (
    check_rate,
    check_sparse_rate,
    exit_rates,
    for_left,
    for_right,
    from_plain,
    is_sparse,
    rows_times,
    to_plain,
)
from fewjump.process.kernel import check_dense


class RateOperator(ABC):
    """h·(u·R(t₁) + v·R(t₂)) for each of N rows, as something that multiplies.

    Attributes:
        speed: (N,) a bound of the largest rate out of a state.
    """

    speed: Tensor

    @abstractmethod
    def left(self, rows: Tensor) -> Tensor:
        """Row n times the matrix of row n: (N, V) → (N, V)."""

    @abstractmethod
    def right(self, rows: Tensor) -> Tensor:
        """The matrix of row n times row n as a column: (N, V) → (N, V)."""


class RatePath(ABC):
    """R(t), for times (N,) float64 on the CPU.

    Attributes:
        vocab_size: number of states V.
        sparse: whether the matrices are.
        kinks: times inside (0, 1) where R is not smooth.
        constant: whether R is known to be the same at all times.
    """

    vocab_size: int
    sparse: bool
    constant: bool = False
    kinks: Sequence[float] = ()

    @abstractmethod
    def dense(self, t: Tensor) -> Tensor:
        """R(t_n): (N, V, V)."""

    @abstractmethod
    def operator(
        self, times: Sequence[Tensor], factors: Sequence[float], width: Tensor
    ) -> RateOperator:
        """width·Σ_j factor_j·R(times_j), for times and widths (N,), to be multiplied with."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data from which :func:`rate_path_from_config` rebuilds this."""


class SummedRates(RatePath):
    """R(t) = Σ_k c_k(t)·Q_k.

    Args:
        matrices: K generators (V, V), dense or sparse, ``[a, b]`` the rate a → b.
        times: M increasing times from 0 to 1, the knots of the weights.
        weights: (M, K) non-negative, c_k at the knots, linear between them; or, with ``times``
            None, a function from times (N,) to (N, K), which cannot be saved.

    Raises:
        ValueError: if a matrix is not a generator, or the weights are not as said.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        times: Sequence[float] | None,
        weights: Sequence[Sequence[float]] | Tensor | Callable[[Tensor], Tensor],
    ) -> None:
        if not matrices:
            raise ValueError("give at least one rate matrix")
        self.sparse = any(is_sparse(m) for m in matrices)
        self.matrices = [check_sparse_rate(m) if self.sparse else check_rate(m) for m in matrices]
        shapes = {tuple(m.shape) for m in self.matrices}
        if len(shapes) > 1:
            raise ValueError(f"rate matrices must be of one size, got {sorted(shapes)}")
        self.vocab_size = self.matrices[0].shape[0]
        self._exits = torch.stack([exit_rates(m).max() for m in self.matrices])
        self._left = [for_left(m) for m in self.matrices]
        self._right = [for_right(m) for m in self.matrices]
        self._function: Callable[[Tensor], Tensor] | None = None
        if times is None:
            if not callable(weights):
                raise ValueError("without times, weights must be a function of time")
            self._function = weights
            self.weights(torch.linspace(0, 1, 5, dtype=torch.float64))
            return
        if callable(weights):
            raise ValueError("weights given as a function need times=None")
        self.times, self.table = _check_table(times, weights, len(self.matrices))
        self.constant = bool((self.table == self.table[0]).all())
        self.kinks = [] if self.constant else self.times[1:-1].tolist()

    def weights(self, t: Tensor) -> Tensor:
        """c(t): (N,) → (N, K).

        Raises:
            ValueError: if a function of time gave something else, or a negative weight.
        """
        if self._function is not None:
            out = self._function(t)
            if out.shape != (*t.shape, len(self.matrices)) or not bool((out >= 0).all()):
                raise ValueError(
                    f"the weights must be {len(self.matrices)} non-negative numbers for each time; "
                    f"for times of shape {tuple(t.shape)} got shape {tuple(out.shape)}, smallest "
                    f"{float(out.min()):.3g}"
                )
            return out.double()
        after = torch.searchsorted(self.times, t.clamp(0, 1)).clamp(1, self.times.shape[0] - 1)
        start, end = self.times[after - 1], self.times[after]
        share = ((t - start) / (end - start)).clamp(0, 1)[:, None]
        return (1 - share) * self.table[after - 1] + share * self.table[after]

    def dense(self, t: Tensor) -> Tensor:
        check_dense(self.vocab_size, t.numel())
        full = torch.stack([m.to_dense() if self.sparse else m for m in self.matrices])
        return torch.einsum("nk,kab->nab", self.weights(t), full)

    def operator(
        self, times: Sequence[Tensor], factors: Sequence[float], width: Tensor
    ) -> RateOperator:
        weights = torch.zeros(width.shape[0], len(self.matrices), dtype=torch.float64)
        for t, factor in zip(times, factors, strict=True):
            weights += factor * self.weights(t)
        weights = weights * width[:, None]
        return _Sum(self._left, self._right, weights, weights.abs() @ self._exits)

    def config(self) -> dict[str, Any]:
        if self._function is not None:
            raise ValueError(
                "weights given as a Python function cannot be written to a file; give their values "
                "at enough times: SummedRates(matrices, times, weights)"
            )
        return {
            "name": "SummedRates",
            "matrices": [to_plain(m) for m in self.matrices],
            "times": self.times.tolist(),
            "weights": self.table.tolist(),
        }


class SampledRates(RatePath):
    """R(t) from any function of one time.

    Args:
        function: float → (V, V), dense or sparse, ``[a, b]`` the rate a → b. It should be smooth;
            short steps are taken where it is not.

    Raises:
        ValueError: if what it gives at t = 0 is not a generator (what it gives later is checked
            when it is asked for).
    """

    def __init__(self, function: Callable[[float], Tensor]) -> None:
        self.function = function
        first = function(0.0)
        self.sparse = is_sparse(first)
        self.vocab_size = int(first.shape[0])
        self._matrix(0.0)

    def _matrix(self, t: float) -> Tensor:
        found = self.function(t)
        try:
            found = check_sparse_rate(found) if self.sparse else check_rate(found)
        except ValueError as error:
            raise ValueError(f"the rate function at t = {t:.6g}: {error}") from error
        if found.shape[0] != self.vocab_size:
            raise ValueError(
                f"the rate function gave {self.vocab_size} states at t = 0 but {found.shape[0]} "
                f"at t = {t:.6g}"
            )
        return found

    def dense(self, t: Tensor) -> Tensor:
        check_dense(self.vocab_size, t.numel())
        return torch.stack([self._matrix(float(u)).to_dense() for u in t])

    def operator(
        self, times: Sequence[Tensor], factors: Sequence[float], width: Tensor
    ) -> RateOperator:
        distinct, index = torch.stack([*times, width]).unique(dim=1, return_inverse=True)
        matrices = []
        for *when, h in distinct.mT.tolist():
            parts = [h * f * self._matrix(t) for t, f in zip(when, factors, strict=True)]
            matrices.append(sum(parts[1:], start=parts[0]))
        speeds = torch.stack([exit_rates(m).abs().max() for m in matrices])
        return _Each(matrices, index, speeds[index])

    def config(self) -> dict[str, Any]:
        raise ValueError(
            "a rate given as a Python function cannot be written to a file; write it as "
            "SummedRates(matrices, times, weights), which can"
        )


class _Sum(RateOperator):
    def __init__(
        self, left: list[Tensor], right: list[Tensor], weights: Tensor, speed: Tensor
    ) -> None:
        self._left, self._right, self.weights, self.speed = left, right, weights, speed

    def left(self, rows: Tensor) -> Tensor:
        return self._apply(self._left, rows)

    def right(self, rows: Tensor) -> Tensor:
        return self._apply(self._right, rows)

    def _apply(self, matrices: list[Tensor], rows: Tensor) -> Tensor:
        out: Tensor | None = None
        for matrix, weight in zip(matrices, self.weights.mT, strict=True):
            if bool(weight.any()):
                product = rows_times(rows, matrix)
                # In place: at V = 100,000 each pass over the rows counts.
                if out is None:
                    out = product.mul_(weight[:, None])
                else:
                    out.addcmul_(weight[:, None], product)
        return torch.zeros_like(rows) if out is None else out


class _Each(RateOperator):
    def __init__(self, matrices: list[Tensor], index: Tensor, speed: Tensor) -> None:
        self.matrices, self.index, self.speed = matrices, index, speed

    @cached_property
    def _left(self) -> list[Tensor]:
        return [for_left(m) for m in self.matrices]

    @cached_property
    def _right(self) -> list[Tensor]:
        return [for_right(m) for m in self.matrices]

    def left(self, rows: Tensor) -> Tensor:
        return self._apply(rows, self._left)

    def right(self, rows: Tensor) -> Tensor:
        return self._apply(rows, self._right)

    def _apply(self, rows: Tensor, matrices: list[Tensor]) -> Tensor:
        if len(matrices) == 1:
            return rows_times(rows, matrices[0])
        out = torch.empty_like(rows)
        for k, matrix in enumerate(matrices):
            mine = (self.index == k).nonzero()[:, 0]
            out[mine] = rows_times(rows[mine], matrix)
        return out


def _check_table(
    times: Sequence[float], weights: Sequence[Sequence[float]] | Tensor, count: int
) -> tuple[Tensor, Tensor]:
    knots = torch.as_tensor(times, dtype=torch.float64)
    table = torch.as_tensor(weights, dtype=torch.float64)
    if knots.dim() != 1 or knots.numel() < 2 or bool((knots.diff() <= 0).any()):
        raise ValueError(f"times must be at least 2 increasing numbers, got {list(times)}")
    if float(knots[0]) != 0 or float(knots[-1]) != 1:
        raise ValueError(f"times must go from 0 to 1, got {list(times)}")
    if table.shape != (knots.numel(), count) or not bool((table >= 0).all()):
        raise ValueError(
            f"weights must be non-negative, one row for each of {knots.numel()} times and one "
            f"column for each of {count} matrices; got shape {tuple(table.shape)}"
        )
    return knots, table


def rate_path_from_config(config: dict[str, Any]) -> RatePath:
    """Rebuild a path from :meth:`RatePath.config`.

    Raises:
        ValueError: for anything but a described sum.
    """
    if config.get("name") != "SummedRates" or not {"matrices", "times", "weights"} <= set(config):
        raise ValueError(
            f"a saved rate is SummedRates with matrices, times and weights; got "
            f"{config.get('name')!r} with {', '.join(sorted(set(config) - {'name'})) or 'nothing'}"
        )
    return SummedRates(
        [from_plain(m) for m in config["matrices"]], config["times"], config["weights"]
    )
