"""Categorical draws straight from rows of logits, in one pass over the vocabulary.

The pass leaves one sum per block of 256 tokens; a draw inverts the block sums and then looks at
one block. Nothing of the size of the logits is kept, and everything after the pass is small.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.law.base import row_chunks
from fewjump.law.logits import Logits
from fewjump.random import invert_cdf

_BLOCK = 256


class LogitRows:
    """Chosen rows of logits, exponentiated relative to their maximum and summed by blocks.

    Args:
        logits: of a product law.
        index: (N,) int64, the positions wanted, counted row-major; None for all of them.
        exclude: (N,) int64, a token of each row that is not to be drawn.

    Attributes:
        total: (N,) float64, Σ exp(logit − top) without the excluded token.
        at: (N,) float64, exp(logit − top) of the excluded token, 0 where there is none.

    Raises:
        ValueError: if a row holds NaN or +inf, or no possible token at all.

    Blocks are summed in float32 (or better), which is as exact as the exponentials, and
    accumulated in float64.
    """

    def __init__(
        self,
        logits: Logits,
        index: Tensor | None = None,
        exclude: Tensor | None = None,
    ) -> None:
        rows, vocab = logits.rows_at_once(), logits.vocab_size
        self.logits, self.index, self.exclude = logits, index, exclude
        self._elements = rows * vocab
        count = logits.batch_size * logits.length if index is None else index.shape[0]
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        blocks = -(-vocab // _BLOCK)
        self.top = torch.empty(count, 1, dtype=self.dtype, device=logits.device)
        sums = torch.empty(count, blocks, dtype=self.dtype, device=logits.device)
        at = torch.zeros(count, 1, dtype=self.dtype, device=logits.device)
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            piece = logits.read(part if index is None else index[part]).to(self.dtype)
            top = self.top[part] = piece.amax(-1, keepdim=True)
            weights = piece - top if index is None else piece.sub_(top)
            weights.exp_()
            if exclude is not None:
                token = exclude[part, None]
                at[part] = weights.gather(-1, token)
                weights.scatter_(-1, token, 0.0)
            _sum_blocks(weights, sums[part])
        self.cumulative = sums.double().cumsum_(-1)
        self.total, self.at = self.cumulative[:, -1], at[:, 0].double()
        if not bool((self.total + self.at).isfinite().all()):
            raise ValueError(
                "cannot draw from logits that hold NaN or +inf, or −inf for every token of a "
                "position; check the network's output"
            )

    def draw(self, which: Tensor | None, u: Tensor) -> Tensor:
        """Invert the law of some rows.

        Args:
            which: (K,) int64, numbers in {0..N−1}, of rows with ``total`` > 0; None for all.
            u: (K,) float64 in (0, 1).

        Returns:
            (K,) int64 tokens, never an excluded or impossible one.
        """
        if which is None:
            which = torch.arange(u.shape[0], device=u.device)
        cumulative = self.cumulative.index_select(0, which)
        target = u[:, None] * cumulative[:, -1:]
        block = torch.searchsorted(cumulative, target, right=True)
        # Rounding can put the target on the last edge, past which blocks may be empty.
        last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous(), right=False)
        block = torch.minimum(block, last)
        upper = cumulative.gather(1, block)
        lower = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
        share = ((target - lower) / (upper - lower))[:, 0].clamp(0.0, 1.0)
        out = torch.empty_like(which)
        width = min(_BLOCK, self.logits.vocab_size)
        for part in row_chunks(which.shape[0], width, self._elements):
            out[part] = self._within(block[part], which[part], share[part])
        return out

    def _within(self, block: Tensor, which: Tensor, share: Tensor) -> Tensor:
        """Tokens (K,) of one block (K, 1) of each row, at ``share`` (K,) of the block's weight."""
        vocab = self.logits.vocab_size
        column = block * _BLOCK + torch.arange(min(_BLOCK, vocab), device=block.device)
        row = which if self.index is None else self.index[which]
        inside = self.logits.entries(row, column.clamp(max=vocab - 1)).to(self.dtype)
        inside = inside.sub_(self.top.index_select(0, which)).exp_()
        impossible = column >= vocab
        if self.exclude is not None:
            impossible = impossible | (column == self.exclude[which, None])
        return block[:, 0] * _BLOCK + invert_cdf(inside.masked_fill_(impossible, 0.0), share)


def _sum_blocks(weights: Tensor, out: Tensor) -> None:
    """Sums over blocks of columns, (n, V) → (n, ⌈V/256⌉), into ``out``."""
    full = weights.shape[1] // _BLOCK
    if full:
        blocks = weights[:, : full * _BLOCK].unflatten(1, (full, _BLOCK))
        torch.sum(blocks, -1, out=out[:, :full])
    if full < out.shape[1]:
        out[:, full] = weights[:, full * _BLOCK :].sum(-1)
