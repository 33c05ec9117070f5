"""Rates of a process that redraws positions, in O(V) for rows read and O(1) for the others.

For such a process the rate of x → y (y ≠ x) of the time-reversed chain, and the probability of
x → y of an exact reverse step, have one form (METHOD section 2.3):

    data·p(y) + (prior·(1 − p(x)) + prior_self·p(x))·m_y

with p the posterior of x₀ at that position and m the law of a redrawn one. Their sum over y is
decreasing in p(x), so its value at p(x) = 0 bounds it without reading a row of the network's
output. A row that is read is read in one pass, which leaves one sum per block of 64 tokens; a draw
inverts the block sums and then looks at one block. Nothing of the size of the logits is kept.
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
from fewjump.process.bridge import ReverseCoefficients
from fewjump.sampler.rates import OpenRows, Rates


class ResetRates(Rates):
    """The form above, from logits.

    Args:
        logits: (B, L, V) of p(x₀|x_t).
        x: (B, L) int64.
        coefficients: data, prior and prior_self, each (B, L) float64, and 0 at a token that
            cannot have been redrawn; and the law m of a redrawn position.
    """

    def __init__(
        self,
        logits: Logits,
        x: Tensor,
        coefficients: ReverseCoefficients,
    ) -> None:
        self.logits = logits
        if logits.deferred:
            self.values_at_once = logits.rows_at_once()
        self.vocab_size = logits.vocab_size
        self.x, self.length = x.reshape(-1), x.shape[-1]
        *numbers, redrawn = coefficients
        wide = torch.promote_types(logits.dtype, torch.float32)
        self.prior = redrawn.on(logits.device)
        self.prior_rows = redrawn.on(logits.device, wide)
        self.prior_x = redrawn.at(x).reshape(-1)
        self.data, self.toward, self.toward_self = (c.expand(x.shape).reshape(-1) for c in numbers)
        through_prior = self.toward * (1 - self.prior_x)
        # Under a mask none do: the only token drawn is the one that is there.
        self.spreads = bool(through_prior.any())
        self.bound = (self.data + through_prior).reshape(x.shape)

    def rows_at_once(self) -> int:
        return max(1, self.x.numel())

    def open(self, index: Tensor) -> OpenRows:
        return _ResetRows(self, index)

    def values(self, index: Tensor) -> Tensor:
        logits = self.logits.read(index)
        p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
        here = self.x[index][:, None]
        at = p.gather(-1, here)[:, 0].double()
        toward = self.toward[index] * (1 - at) + self.toward_self[index] * at
        p.mul_(self.data[index][:, None].to(p.dtype))
        if self.spreads:
            prior = self.prior_rows
            prior = prior if prior.dim() == 1 else prior[index // self.length]
            p.addcmul_(toward[:, None].to(p.dtype), prior)
        return p.scatter_(-1, here, 0.0)


class _ResetRows(OpenRows):
    """A jump goes through the data (a token of p) or through the prior (a token of m)."""

    def __init__(self, rates: ResetRates, index: Tensor) -> None:
        self.x = rates.x[index]
        self.prior, self.row = rates.prior, index // rates.length
        self.rows = LogitRows(rates.logits, index, self.x)
        mass = self.rows.total + self.rows.at
        away, same = self.rows.total / mass, self.rows.at / mass
        self.through_data = rates.data[index] * away
        toward = rates.toward[index] * away + rates.toward_self[index] * same
        self.through_prior = toward * (1 - rates.prior_x[index])
        self.total = self.through_data + self.through_prior

    def draw(self, which: Tensor, u: Tensor) -> Tensor:
        data, total = self.through_data[which], self.total[which]
        target = u * total
        # Where nothing goes through the prior, rounding of u·total must not say that it does.
        from_data = (target < data) | (self.through_prior[which] == 0)
        out = torch.empty_like(which)
        chosen = from_data.nonzero()[:, 0]
        share = (target[chosen] / data[chosen]).clamp(max=1 - 2.0**-53)
        out[chosen] = self.rows.draw(which[chosen], share)
        other = (~from_data).nonzero()[:, 0]
        share = (target[other] - data[other]) / (total[other] - data[other])
        chosen = which[other]
        out[other] = draw_other(self.prior, self.x[chosen], share, self.row[chosen])
        return out


class LogitRows:
    """Chosen rows of logits, exponentiated relative to their maximum and summed by blocks.

    Args:
        logits: of a product law.
        index: (N,) int64, the positions wanted, counted row-major.
        exclude: (N,) int64, a token of each row that is not to be drawn.

    Attributes:
        total: (N,) float64, Σ exp(logit − top) without the excluded token.
        at: (N,) float64, exp(logit − top) of the excluded token.

    Raises:
        ValueError: if a row holds NaN or +inf, or no possible token at all.

    Blocks are summed in float32 (or better), which is as exact as the exponentials, and
    accumulated in float64.
    """

    def __init__(self, logits: Logits, index: Tensor, exclude: Tensor) -> None:
        rows, vocab = logits.rows_at_once(), logits.vocab_size
        self.logits, self.index, self.exclude = logits, index, exclude
        self._elements = rows * vocab
        near = rows_per_chunk(vocab, logits.device)
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        self.top = torch.empty(index.shape[0], 1, dtype=self.dtype, device=logits.device)
        nothing = torch.empty(0, vocab, dtype=self.dtype, device=logits.device)
        sums = [block_sums(nothing)]
        at = torch.zeros_like(self.top)
        for part in row_chunks(index.shape[0], 1, rows):
            piece = logits.read(index[part]).to(self.dtype)
            # What was read in one go is worked through while it is near the processor.
            for few in row_chunks(piece.shape[0], 1, near):
                here = slice(part.start + few.start, part.start + few.stop)
                weights, token = piece[few], exclude[here, None]
                top = self.top[here] = weights.amax(-1, keepdim=True)
                weights.sub_(top).exp_()
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

    def draw(self, which: Tensor, u: Tensor) -> Tensor:
        """Invert the law of some rows.

        Args:
            which: (K,) int64, numbers in {0..N−1}, of rows with ``total`` > 0.
            u: (K,) float64 in (0, 1).

        Returns:
            (K,) int64 tokens, never an excluded or impossible one.
        """
        block, share = choose_block(self.cumulative.index_select(0, which), u)
        columns, past = block_columns(block, self.logits.vocab_size)
        out = torch.empty_like(which)
        for part in row_chunks(which.shape[0], columns.shape[1], self._elements):
            inside = self._within(columns[part], past[part], which[part], share[part])
            out[part] = columns[part, 0] + inside
        return out

    def _within(self, columns: Tensor, past: Tensor, which: Tensor, share: Tensor) -> Tensor:
        """Places (K,) among ``columns`` (K, C), at ``share`` (K,) of their weight."""
        inside = self.logits.entries(self.index[which], columns).to(self.dtype)
        inside = inside.sub_(self.top.index_select(0, which)).exp_()
        out = past | (columns == self.exclude[which, None])
        return invert_cdf(inside.masked_fill_(out, 0.0), share)


def draw_other(prior: Tensor, x: Tensor, u: Tensor, row: Tensor) -> Tensor:
    """Invert the prior restricted to tokens other than x.

    Args:
        prior: (V,) or (B, V) float64, of which every row holds at least two possible tokens.
        x: (K,) int64, the tokens left out.
        u: (K,) float64 in (0, 1).
        row: (K,) int64, the row of ``prior`` that each is drawn from.

    Returns:
        (K,) int64.
    """
    prior, row = (prior[None], torch.zeros_like(row)) if prior.dim() == 1 else (prior, row)
    cumulative = prior.cumsum(-1)
    at, upper = prior[row, x], cumulative[row, x]
    target = u * (cumulative[row, -1] - at)
    target = torch.where(target >= upper - at, target + at, target)
    out = _search_rows(cumulative, target, row)
    # An edge missed by rounding, once in 10¹⁵ draws, must not return x nor run off the end.
    likely = prior.topk(2, -1).indices[row]
    instead = torch.where(likely[:, 0] == x, likely[:, 1], likely[:, 0])
    return torch.where((out == x) | (out >= prior.shape[-1]), instead, out)


def _search_rows(cumulative: Tensor, target: Tensor, row: Tensor) -> Tensor:
    """The first entry above ``target`` (K,) in the rows ``row`` (K,) of (B, V), which stays one."""
    if cumulative.shape[0] == 1:
        return torch.searchsorted(cumulative[0], target, right=True)
    order = row.argsort(stable=True)
    counts = torch.bincount(row, minlength=cumulative.shape[0])
    place = torch.arange(row.shape[0], device=row.device)
    place = place - (counts.cumsum(0) - counts)[row[order]]
    # Targets side by side, as many columns as the row with the most of them has.
    table = target.new_zeros(cumulative.shape[0], int(counts.max()) if row.numel() else 0)
    table[row[order], place] = target[order]
    found = torch.searchsorted(cumulative, table, right=True)
    out = torch.empty_like(row)
    out[order] = found[row[order], place]
    return out
