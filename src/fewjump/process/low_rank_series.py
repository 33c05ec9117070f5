"""Power series of a diagonal plus a matrix of low rank, as products with rows.

With A = diag(s) + U·W, U (V, r) and W (r, V), the powers of a row v obey

    v·Aʲ = v·sʲ + Σ_{i<j} c_i·W·s^{j−1−i},   c_j = v·Aʲ·U = v·sʲ·U + Σ_{i<j} c_i·M_{j−1−i},

where M_m = W·sᵐ·U is r×r and belongs to A alone. A series Σ_j w_j·v·Aʲ of J terms is hence one
triangular system of J·r unknowns for each row, between two matrix products with sᵐ, m < J: O(V·r·J)
for a row, and nothing V×V. Where s, U, W and the weights are non-negative nothing is subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fewjump.inversion import row_chunks, rows_per_chunk

# So that one triangular system serves neighbouring numbers of terms.
_TERMS_STEP = 8
# Entries of the weights' (N, J, J) Hankel matrices, one for each time, at once.
_HANKEL_ELEMENTS = 1 << 24


class LowRankSeries:
    """Series of powers of A = diag(scale) + left·right.

    Args:
        scale: (V,) float64 with |s| ≤ 1.
        left: U, (V, r) float64.
        right: W, (r, V) float64.
    """

    def __init__(self, scale: Tensor, left: Tensor, right: Tensor) -> None:
        self.scale, self.left, self.right = scale, left, right
        self.rank = left.shape[1]
        self._moments = torch.empty(0, self.rank, self.rank, dtype=torch.float64)
        self._systems: dict[tuple[int, str], Tensor] = {}

    def transposed(self) -> LowRankSeries:
        """Series of powers of Aᵀ."""
        return LowRankSeries(self.scale, self.right.mT, self.left.mT)

    def of_rows(self, rows: Tensor, weights: Tensor) -> Tensor:
        """What the low-rank part adds: Σ_j w_j·(v·Aʲ − v·sʲ).

        Args:
            rows: v, (N, n, V) float64.
            weights: (N, J + 1) float64, w of the series for each of N.

        Returns:
            (N, n, V).
        """
        terms, device = weights.shape[1] - 1, rows.device
        left = self.left.to(device)
        inner = 0.0
        for part in self._parts(terms, device):
            powers = self._powers(part, terms, device)
            features = (powers[..., None] * left[part, None, :]).flatten(1)
            inner = inner + rows[..., part] @ features
        assert isinstance(inner, Tensor)
        return self._expand(inner, weights)

    def of_tokens(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """:meth:`of_rows` of the unit vectors of tokens (N, n): (N, n, V), without making them."""
        terms, device = weights.shape[1] - 1, tokens.device
        scale = self.scale.to(device)[tokens]
        inner = _powers_of(scale, terms)[..., None] * self.left.to(device)[tokens][..., None, :]
        return self._expand(inner.flatten(-2), weights)

    def _expand(self, inner: Tensor, weights: Tensor) -> Tensor:
        """From v·sʲ·U, (N, n, J·r), to the rows of length V."""
        count, width = inner.shape[:2]
        terms, device = weights.shape[1] - 1, inner.device
        system = self._system(terms, device)
        flat = inner.reshape(count * width, -1).mT
        solved = torch.linalg.solve_triangular(system, flat, upper=False, unitriangular=True)
        # (N, J, n·r): the terms beside the weights, which belong to each of N.
        visits = solved.reshape(terms, self.rank, count, width).permute(2, 0, 3, 1)
        visits = visits.reshape(count, terms, width * self.rank)
        ahead = torch.cat([weights[:, 1:], torch.zeros_like(weights[:, 1:])], 1)
        powers_of = torch.cat(
            [
                ahead[part].unfold(1, terms, 1)[:, :terms] @ visits[part]
                for part in row_chunks(count, terms**2, _HANKEL_ELEMENTS)
            ]
        )
        outer = powers_of.reshape(count, terms, width, self.rank).permute(0, 2, 1, 3)
        outer = outer.reshape(count, width, terms * self.rank)
        right = self.right.to(device)
        columns = []
        for part in self._parts(terms, device):
            columns.append(outer @ self._right_features(part, terms, right))
        return torch.cat(columns, -1)

    def _parts(self, terms: int, device: torch.device) -> Iterator[slice]:
        return row_chunks(self.scale.shape[0], 1, rows_per_chunk(terms * self.rank, device))

    def _powers(self, part: slice, terms: int, device: torch.device) -> Tensor:
        return _powers_of(self.scale[part].to(device), terms)

    def _right_features(self, part: slice, terms: int, right: Tensor) -> Tensor:
        """W·sᵐ for m < terms, the columns of some states: (J·r, n)."""
        powers = self._powers(part, terms, right.device).mT.contiguous()
        return (powers[:, None, :] * right[:, part]).flatten(0, 1)

    def _system(self, terms: int, device: torch.device) -> Tensor:
        """I − T with T the strictly lower block Toeplitz matrix of the moments: (J·r, J·r)."""
        key = (terms, str(device))
        if key not in self._systems:
            with torch.inference_mode(False):
                moments = self._moments_up_to(terms)
                index = torch.arange(terms)
                lag = index[:, None] - index - 1
                blocks = torch.where(
                    (lag >= 0)[..., None, None], moments[lag.clamp(min=0)], torch.zeros(())
                )
                # As a column system the blocks are those of c_i·M, transposed.
                lower = blocks.mT.permute(0, 2, 1, 3).reshape(terms * self.rank, -1)
                whole = torch.eye(terms * self.rank, dtype=torch.float64) - lower
                if len(self._systems) >= 4:
                    self._systems.pop(next(iter(self._systems)))
                self._systems[key] = whole.to(device)
        return self._systems[key]

    def _moments_up_to(self, terms: int) -> Tensor:
        """M_m = W·sᵐ·U for m < terms: (J, r, r)."""
        if self._moments.shape[0] < terms:
            total = torch.zeros(terms * self.rank, self.rank, dtype=torch.float64)
            for part in self._parts(terms, self.scale.device):
                features = self._right_features(part, terms, self.right)
                # The long side last: the other order takes twice as long.
                total += (self.left[part].mT @ features.mT).mT
            self._moments = total.reshape(terms, self.rank, self.rank)
        return self._moments[:terms]


def rounded_terms(terms: int) -> int:
    """A number of terms that neighbouring series share."""
    return -(-terms // _TERMS_STEP) * _TERMS_STEP


def _powers_of(scale: Tensor, terms: int) -> Tensor:
    """s⁰ … s^{J−1} along a new last axis."""
    steps = scale[..., None].expand(*scale.shape, terms - 1)
    return torch.cat([torch.ones_like(scale)[..., None], steps], -1).cumprod(-1)
