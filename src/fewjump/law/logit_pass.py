"""One pass over rows of logits, a chunk at a time, and the gradient it leaves behind.

Logits exist (:class:`DensePass`), or are a linear head's features times its weight and never exist
as a whole (:class:`LinearPass`); what sums over the vocabulary need not know which. Products run
in the precision of autocast, sums and softmax in at least float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.inversion import row_chunks

# Entries of one chunk of a linear head's logits. Fewer rows would read the whole weight too often:
# at a hidden width of 768 a chunk of 150 rows computes for ten times as long as it reads.
CHUNK_ELEMENTS = 1 << 23
# Entries of a chunk of logits that exist: about what a CPU's cache holds.
DENSE_CHUNK = 1 << 20


class Gain(NamedTuple):
    """Constants that are added to one logit of each row: tokens (N,) int64 and amounts (N,)."""

    tokens: Tensor
    amount: Tensor


class LinearHead(NamedTuple):
    """Rows of logits as features times a weight.

    Attributes:
        features: (N, D).
        weight, bias: (V, D) and (V,); −inf in ``bias`` marks impossible tokens.
        compute: dtype of the products.
        gain: added to the logits; None for none.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    compute: torch.dtype
    gain: Gain | None = None


def linear_rows(
    features: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """features·weightᵀ + bias, in ``dtype`` and in ``out`` if it is given; without gradients."""
    if out is None:
        return functional.linear(features, weight, bias).to(dtype)
    if features.dtype == dtype:
        return torch.addmm(bias, features, weight.T, out=out)
    return out.copy_(functional.linear(features, weight, bias))


def raise_logits(rows: Tensor, gain: Gain) -> None:
    """Add the gain to rows (N, V), in place."""
    rows.scatter_add_(1, gain.tokens[:, None], gain.amount[:, None].to(rows.dtype))


def _chunks(
    rows: int, width: int, elements: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Slices over the rows, and memory for three chunks of logits (3, n, V) to work in."""
    memory: Tensor | None = None
    for part in row_chunks(rows, width, elements):
        size = part.stop - part.start
        if memory is None:
            memory = torch.empty(3, size, width, dtype=dtype, device=device)
        yield part, memory[:, :size]


class DensePass:
    """A pass over logits that exist.

    Args:
        rows: (N,) int64, which rows; None for all of them.
        parameters: the logits (M, V), alone.
        needs: whether their gradient is to be summed up.

    Attributes:
        wide: dtype of sums and softmax.
    """

    def __init__(
        self, rows: Tensor | None, parameters: Sequence[Tensor], needs: Sequence[bool]
    ) -> None:
        (self.given,), (need,) = parameters, needs
        self.rows = rows
        self.wide = torch.promote_types(self.given.dtype, torch.float32)
        self.sum: Tensor | None = None
        if need:
            self.sum = (torch.empty_like if rows is None else torch.zeros_like)(self.given)

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        rows = self.given.shape[0] if self.rows is None else self.rows.shape[0]
        return _chunks(rows, self.given.shape[1], DENSE_CHUNK, self.wide, self.given.device)

    def logits(self, part: slice, scratch: Tensor) -> Tensor:
        """The chunk's logits, not to be overwritten; in ``scratch`` if they need memory."""
        if self.rows is None:
            return self.given[part].to(self.wide)
        if self.given.dtype == self.wide:
            return torch.index_select(self.given, 0, self.rows[part], out=scratch)
        return scratch.copy_(self.given[self.rows[part]])

    def impossible(self, log_probs: Tensor) -> Tensor:
        """Where the chunk's logits are −inf: a mask (n, V), or columns (k,)."""
        return log_probs == -torch.inf

    def add(self, part: slice, slope: Tensor) -> None:
        """Take in ∂loss/∂logits (n, V) of a chunk."""
        assert self.sum is not None
        self.sum[part if self.rows is None else self.rows[part]] = slope.to(self.sum.dtype)

    def gradients(self) -> list[Tensor | None]:
        return [self.sum]


class LinearPass:
    """A pass over the rows of a linear head.

    Args:
        compute: dtype of the products.
        gain: added to the logits.
        parameters: features (N, D), weight (V, D) and bias (V,).
        needs: which of the three gradients are to be summed up.

    Attributes:
        wide: dtype of logits, sums and softmax.
    """

    def __init__(
        self,
        compute: torch.dtype,
        gain: Gain | None,
        parameters: Sequence[Tensor],
        needs: Sequence[bool],
    ) -> None:
        self.given, self.gain, self.compute = parameters, gain, compute
        self.features, self.weight, self.bias = (value.to(compute) for value in parameters)
        self.wide = torch.promote_types(compute, torch.float32)
        self.sums = [
            torch.zeros_like(given, dtype=self.wide) if need else None
            for given, need in zip(parameters, needs)
        ]

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        shape = (self.features.shape[0], self.weight.shape[0])
        return _chunks(*shape, CHUNK_ELEMENTS, self.wide, self.features.device)

    def logits(self, part: slice, scratch: Tensor) -> Tensor:
        linear_rows(self.features[part], self.weight, self.bias, self.wide, scratch)
        if self.gain is not None:
            raise_logits(scratch, Gain(self.gain.tokens[part], self.gain.amount[part]))
        return scratch

    def impossible(self, log_probs: Tensor) -> Tensor:
        # A token that the head cannot produce has log-probability −inf everywhere.
        return (self.given[2] == -torch.inf).nonzero()[:, 0]

    def add(self, part: slice, slope: Tensor) -> None:
        by_features, by_weight, by_bias = self.sums
        if by_bias is not None:
            by_bias += slope.sum(0)
        slope = slope.to(self.compute)
        if by_features is not None:
            by_features[part] = (slope @ self.weight).to(self.wide)
        if by_weight is None:
            return
        if self.compute == self.wide:
            by_weight.addmm_(slope.T, self.features[part])
        else:
            by_weight += slope.T @ self.features[part]

    def gradients(self) -> list[Tensor | None]:
        return [
            None if total is None else total.to(given.dtype)
            for total, given in zip(self.sums, self.given)
        ]
