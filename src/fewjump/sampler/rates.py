"""What rates are to a move: a bound for every position, and details for the few that need them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fewjump.inversion import block_sums, invert_rows, rows_per_chunk
from fewjump.law import Ratios
from fewjump.process.bridge import RatioCoefficients


class OpenRows(ABC):
    """The rates out of N chosen positions, ready to be drawn from.

    Attributes:
        total: (N,) float64, the sum of the rates.
        negative: (N,) float64, total of the rates that came out below zero and were set to 0;
            None where that cannot happen.
    """

    total: Tensor
    negative: Tensor | None = None

    @abstractmethod
    def draw(self, which: Tensor, u: Tensor) -> Tensor:
        """Targets in proportion to their rates.

        Args:
            which: (K,) int64, numbers in {0..N−1}, of positions with ``total`` > 0.
            u: (K,) float64 in (0, 1).

        Returns:
            (K,) int64 tokens, never the current one.
        """


class Rates(ABC):
    """Rates x → y for every position of a batch.

    Attributes:
        bound: (B, L) float64, at least the total rate out of each position.
        vocab_size: number of states V.
        values_at_once: how many positions :meth:`values` should at least be asked for together,
            where the rows are there for the taking 1.
    """

    values_at_once: int = 1

    bound: Tensor
    vocab_size: int

    @abstractmethod
    def values(self, index: Tensor) -> Tensor:
        """The rates of the positions ``index`` (N,), counted row-major over (B, L): (N, V).

        The entry at the current token is 0.
        """

    def open(self, index: Tensor) -> OpenRows:
        """The same positions, to be drawn from."""
        return _TableRows(self.values(index))

    def rows_at_once(self) -> int:
        """How many positions to open together."""
        return max(self.values_at_once, rows_per_chunk(self.vocab_size, self.bound.device))


class RatesByRow(Rates):
    """Rates of one kind in some rows of a batch, and of others in the others.

    Args:
        parts: each for the whole batch, though read in its own rows alone.
        part: (B,) int64, which of them is a row's.
    """

    def __init__(self, parts: Sequence[Rates], part: Tensor) -> None:
        self.parts, self.vocab_size = parts, parts[0].vocab_size
        self.values_at_once = max(one.values_at_once for one in parts)
        bounds = torch.stack([one.bound for one in parts])
        self.bound = bounds[part, torch.arange(len(part), device=part.device)]
        self.part = part[:, None].expand_as(self.bound).reshape(-1)

    def values(self, index: Tensor) -> Tensor:
        part = self.part[index]
        out = None
        for number, one in enumerate(self.parts):
            (mine,) = (part == number).nonzero(as_tuple=True)
            found = one.values(index[mine])
            out = found.new_empty(len(index), self.vocab_size) if out is None else out
            out[mine] = found.to(out.dtype)
        assert out is not None
        return out

    def open(self, index: Tensor) -> OpenRows:
        return _RowsByRow(self, index)


class _RowsByRow(OpenRows):
    def __init__(self, rates: RatesByRow, index: Tensor) -> None:
        self.part = rates.part[index]
        self.total = torch.empty(len(index), dtype=torch.float64, device=index.device)
        # Where each position is among those of its part.
        self.place = torch.empty_like(index)
        self.opened = []
        for number, one in enumerate(rates.parts):
            (mine,) = (self.part == number).nonzero(as_tuple=True)
            self.opened.append(one.open(index[mine]))
            self.total[mine] = self.opened[-1].total
            self.place[mine] = torch.arange(len(mine), device=index.device)

    def draw(self, which: Tensor, u: Tensor) -> Tensor:
        out, part = torch.empty_like(which), self.part[which]
        for number, rows in enumerate(self.opened):
            (mine,) = (part == number).nonzero(as_tuple=True)
            out[mine] = rows.draw(self.place[which[mine]], u[mine])
        return out


class _TableRows(OpenRows):
    """Rates as a table (N, V)."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.cumulative = block_sums(table).double().cumsum_(-1)
        self.total = self.cumulative[:, -1]

    def draw(self, which: Tensor, u: Tensor) -> Tensor:
        return invert_rows(self.table, self.cumulative, which, u)


class DenseRates(Rates):
    """Rates given as a table, for processes without a closed form.

    Args:
        table: (B, L, V); the entry at the current token is ignored.
        x: (B, L) int64.
    """

    def __init__(self, table: Tensor, x: Tensor) -> None:
        table = table.scatter(-1, x[..., None], 0.0)
        self.bound = table.sum(-1).double()
        self.vocab_size = table.shape[-1]
        self.table = table.reshape(-1, table.shape[-1])

    def values(self, index: Tensor) -> Tensor:
        return self.table[index]


class RatioRates(Rates):
    """Rates, or the probabilities of an exact reverse step, by ratios, in O(V) for rows read.

    Nothing bounds the ratios of a network, so that every row is read, once.

    Args:
        ratios: (B, L, V).
        coefficients: of the step.

    Raises:
        ValueError: when rows are opened that do not sum to a number.
    """

    def __init__(self, ratios: Ratios, coefficients: RatioCoefficients) -> None:
        self.ratios, self.coefficients = ratios, coefficients
        self.vocab_size = ratios.source.vocab_size
        if ratios.source.deferred:
            self.values_at_once = ratios.source.rows_at_once()
        scale = coefficients.scale.expand(ratios.x.shape)
        self.bound = torch.zeros_like(scale).masked_fill_(scale != 0, torch.inf)

    def values(self, index: Tensor) -> Tensor:
        def weigh(rows: Tensor, part: slice) -> None:
            self.coefficients.weigh(rows, self.ratios.x, index[part])

        return self.ratios.read(index, weigh)

    def open(self, index: Tensor) -> OpenRows:
        rows = super().open(index)
        if not bool(rows.total.isfinite().all()):
            raise ValueError(
                "the ratios of a position do not sum to a number; check the network's output for "
                "NaN and infinity, and that the noise at t = 1 leaves something of the data"
            )
        return rows


class CombinedRates(Rates):
    """(c₁·first + c₂·second)₊, entry by entry.

    Args:
        first, second: the rates combined.
        c1: number.
        c2: number, or (B, L) float64.
        x: (B, L) int64, the state the jumps start from: its entries become 0.
    """

    def __init__(
        self, first: Rates, c1: float, second: Rates, c2: float | Tensor, x: Tensor
    ) -> None:
        self.first, self.second, self.x = first, second, x.reshape(-1)
        self.vocab_size = first.vocab_size
        self.values_at_once = max(first.values_at_once, second.values_at_once)
        self.c1 = torch.full_like(first.bound, c1)
        self.c2 = torch.zeros_like(first.bound) + c2
        # A bound may be infinite.
        parts = [
            torch.where(c > 0, c * rates.bound, 0.0)
            for c, rates in ((self.c1, first), (self.c2, second))
        ]
        self.bound = parts[0] + parts[1]

    def _signed(self, index: Tensor) -> Tensor:
        rates = self.first.values(index)
        rates = rates.mul_(self.c1.reshape(-1)[index][:, None].to(rates.dtype))
        c2 = self.c2.reshape(-1)[index][:, None].to(rates.dtype)
        rates = rates.addcmul_(c2, self.second.values(index))
        return rates.scatter_(-1, self.x[index][:, None], 0.0)

    def values(self, index: Tensor) -> Tensor:
        return self._signed(index).clamp_(min=0)

    def open(self, index: Tensor) -> OpenRows:
        rates = self._signed(index)
        # Of the entries below zero alone: a difference of two sums would be their rounding.
        negative = -rates.clamp(max=0).sum(-1).double()
        rows = _TableRows(rates.clamp_(min=0))
        rows.negative = negative
        return rows
