"""Categorical draws straight from rows of logits, in one pass over the vocabulary.

The pass leaves one sum per block of 64 tokens; a draw inverts the block sums and then looks at
one block. Nothing of the size of the logits is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.inversion import (
    block_columns,
    block_sums,
    choose_block,
    invert_cdf,
    row_chunks,
    rows_per_chunk,
)
from fewjump.law.logits import Logits


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
        near = rows_per_chunk(vocab, logits.device)
        count = logits.batch_size * logits.length if index is None else index.shape[0]
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        self.top = torch.empty(count, 1, dtype=self.dtype, device=logits.device)
        nothing = torch.empty(0, vocab, dtype=self.dtype, device=logits.device)
        sums = [block_sums(nothing)]
        at = torch.zeros(count, 1, dtype=self.dtype, device=logits.device)
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            piece = logits.read(part if index is None else index[part]).to(self.dtype)
            # What was read in one go is worked through while it is near the processor.
            for few in row_chunks(piece.shape[0], 1, near):
                here, weights = slice(start + few.start, start + few.stop), piece[few]
                top = self.top[here] = weights.amax(-1, keepdim=True)
                weights = weights - top if index is None else weights.sub_(top)
                weights.exp_()
                if exclude is not None:
                    token = exclude[here, None]
                    at[here] = weights.gather(-1, token)
                    weights.scatter_(-1, token, 0.0)
                sums.append(block_sums(weights))
        self.cumulative = torch.cat(sums).double().cumsum_(-1)
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
        block, share = choose_block(self.cumulative.index_select(0, which), u)
        columns, past = block_columns(block, self.logits.vocab_size)
        out = torch.empty_like(which)
        for part in row_chunks(which.shape[0], columns.shape[1], self._elements):
            inside = self._within(columns[part], past[part], which[part], share[part])
            out[part] = columns[part, 0] + inside
        return out

    def _within(self, columns: Tensor, past: Tensor, which: Tensor, share: Tensor) -> Tensor:
        """Places (K,) among ``columns`` (K, C), at ``share`` (K,) of their weight."""
        row = which if self.index is None else self.index[which]
        inside = self.logits.entries(row, columns).to(self.dtype)
        inside = inside.sub_(self.top.index_select(0, which)).exp_()
        if self.exclude is not None:
            past = past | (columns == self.exclude[which, None])
        return invert_cdf(inside.masked_fill_(past, 0.0), share)
