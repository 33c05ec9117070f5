"""A linear head's rows in chunks: logits a few rows at a time, and gradients that add up.

Products run in the precision of autocast, sums and softmax in at least float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.law.base import row_chunks
from fewjump.law.linear_table import CHUNK_ELEMENTS, linear_rows, raise_logits


class Gain(NamedTuple):
    """Constants that are added to one logit of each row: tokens (N,) int64 and amounts (N,)."""

    tokens: Tensor
    amount: Tensor


class HeadPass:
    """One pass over the rows of a head with gradients.

    Args:
        features, weight, bias: (N, D), (V, D) and (V,).
        compute: dtype of the products.
        needs: which of the three gradients are to be summed up.
        gain: added to the logits.

    Attributes:
        wide: dtype of logits, sums and softmax.
    """

    def __init__(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        compute: torch.dtype,
        needs: list[bool],
        gain: Gain | None = None,
    ) -> None:
        self.given, self.gain = (features, weight, bias), gain
        self.features, self.weight = features.to(compute), weight.to(compute)
        self.bias, self.compute, self.needs = bias.to(compute), compute, needs
        self.wide = torch.promote_types(compute, torch.float32)
        self.sums = [
            torch.zeros_like(given, dtype=self.wide) if need else None
            for given, need in zip(self.given, needs)
        ]

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices over the rows, and memory for three chunks of logits (3, n, V) to work in."""
        shape = (self.features.shape[0], self.weight.shape[0])
        memory: Tensor | None = None
        for part in row_chunks(*shape, CHUNK_ELEMENTS):
            size = part.stop - part.start
            if memory is None:
                memory = torch.empty(
                    3, size, shape[1], dtype=self.wide, device=self.features.device
                )
            yield part, memory[:, :size]

    def log_probs(self, part: slice, scratch: Tensor, out: Tensor) -> Tensor:
        """log softmax of the chunk's logits, in ``out``."""
        linear_rows(self.features[part], self.weight, self.bias, self.wide, scratch)
        if self.gain is not None:
            raise_logits(scratch, self.gain.tokens[part], self.gain.amount[part])
        return torch.log_softmax(scratch, -1, out=out)

    def add(self, part: slice, slope: Tensor) -> None:
        """Take in ∂loss/∂logits (n, V) of a chunk."""
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
