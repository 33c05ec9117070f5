"""Categorical draws from given uniforms: where a cumulative distribution passes that share of it.

What draws the uniforms is :mod:`fewjump.random`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Chunks that stay in a core's cache; on an accelerator fewer, larger launches are faster.
_ROWS_PER_CHUNK_ELEMENTS = 1 << 18
_ACCELERATOR_CHUNK_ELEMENTS = 1 << 25
_BLOCK = 64
# Up to here all sums in float64 take less time than blocks, which are several calls.
_SMALL = 512


def rows_per_chunk(width: int, device: torch.device) -> int:
    """How many rows of ``width`` entries to handle at once, so that temporaries stay small."""
    on_cpu = device.type == "cpu"
    elements = _ROWS_PER_CHUNK_ELEMENTS if on_cpu else _ACCELERATOR_CHUNK_ELEMENTS
    return max(1, elements // width)


def row_chunks(rows: int, width: int, elements: int = 1 << 22) -> Iterator[slice]:
    """Slices over ``rows`` such that each covers about ``elements`` entries of a (rows, width).

    Of no rows it is one slice of none, so that results can be joined whatever their number.
    """
    step = max(1, elements // max(1, width))
    for start in range(0, max(1, rows), step):
        yield slice(start, min(rows, start + step))


def invert_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """Index k with Σ_{j<k} w_j ≤ u·Σw < Σ_{j≤k} w_j, for each row.

    Args:
        weights: (N, V) non-negative, need not be normalised.
        u: (N,) float64 in (0, 1).

    Returns:
        (N,) int64. An index of zero weight is never returned.

    Raises:
        ValueError: if a row's weights sum to zero, to NaN or to infinity, so that a network that
            diverged is not sampled from in silence.

    Beyond 512 columns no float64 copy of ``weights`` is made: blocks of 64 are summed in float32
    (or better) and accumulated in float64, and inside the block chosen the sums are float64. A
    token of probability 1e-12 keeps its probability.
    """
    n, v = weights.shape
    invert = _invert_small if v <= _SMALL else _invert_blocks
    rows = rows_per_chunk(v, weights.device)
    if n <= rows:
        return invert(weights, u)
    out = torch.empty(n, dtype=torch.int64, device=weights.device)
    for part in row_chunks(n, 1, rows):
        out[part] = invert(weights[part], u[part])
    return out


def invert_shared_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """:func:`invert_cdf` with one (V,) vector of weights for all ``u`` (...): O(V + N log V)."""
    cumulative = weights.cumsum(0, dtype=torch.float64)
    _check_total(cumulative[-1:])
    return search(cumulative, u)


def search(cumulative: Tensor, u: Tensor) -> Tensor:
    """Where cumulative weights (V,) or (N, V) pass the shares u, (...) or (N, K): of u's shape."""
    total = cumulative[..., -1:].contiguous()
    # Rounding can put a share on the last edge; the last index of positive weight is the answer.
    last = torch.searchsorted(cumulative, total)
    return torch.searchsorted(cumulative, u * total, right=True).minimum(last)


def _check_total(total: Tensor) -> None:
    if not total.numel():
        return
    # A NaN among many is what aminmax answers, and no comparison holds.
    few = total.numel() <= 8
    bounds = (total if few else torch.stack(total.detach().aminmax())).tolist()
    if not all(0 < bound < torch.inf for bound in bounds):
        raise ValueError(
            "cannot draw from weights whose sum is zero, NaN or infinite; check the network's "
            "output for NaN, and that some token is possible at every position"
        )


def _invert_small(weights: Tensor, u: Tensor) -> Tensor:
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    _check_total(cumulative[:, -1])
    return search(cumulative, u[:, None])[:, 0]


def block_sums(weights: Tensor) -> Tensor:
    """Sums over blocks of 64 columns, (N, V) → (N, ⌈V/64⌉), in float32 or better.

    That is as exact as the weights themselves, and summing float32 straight into float64 costs ten
    times as much: the sums of the blocks are what is to be accumulated in float64.
    """
    n, v = weights.shape
    dtype = torch.promote_types(weights.dtype, torch.float32)
    out = torch.empty(n, -(-v // _BLOCK), dtype=dtype, device=weights.device)
    full = v // _BLOCK
    if full:
        blocks = weights[:, : full * _BLOCK].unflatten(1, (full, _BLOCK))
        if weights.requires_grad and torch.is_grad_enabled():
            out[:, :full] = blocks.sum(-1, dtype=dtype)
        else:
            torch.sum(blocks, -1, dtype=dtype, out=out[:, :full])
    if full < out.shape[1]:
        out[:, full] = weights[:, full * _BLOCK :].sum(-1, dtype=dtype)
    return out


def choose_block(cumulative: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The block that a share of each row's weight falls into, and where in it.

    Args:
        cumulative: (K, blocks) float64, cumulative :func:`block_sums`.
        u: (K,) float64 in (0, 1).

    Returns:
        (K, 1) int64 numbers of blocks, and (K,) float64 shares of their weight in [0, 1].
    """
    target = u[:, None] * cumulative[:, -1:]
    block = search(cumulative, u[:, None])
    upper = cumulative.gather(1, block)
    lower = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    return block, ((target - lower) / (upper - lower))[:, 0].clamp(0.0, 1.0)


def block_columns(block: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """The columns (K, 64 or V) of blocks (K, 1), none past the last, and which are past it."""
    width = min(_BLOCK, vocab_size)
    columns = block * _BLOCK + torch.arange(width, device=block.device)
    return columns.clamp(max=vocab_size - 1), columns >= vocab_size


def invert_rows(weights: Tensor, cumulative: Tensor, which: Tensor, u: Tensor) -> Tensor:
    """:func:`invert_cdf` of some rows, of which one block is read.

    Args:
        weights: (N, V).
        cumulative: (N, blocks) float64, cumulative :func:`block_sums` of all rows.
        which: (K,) int64, the rows.
        u: (K,) float64 in (0, 1).

    Returns:
        (K,) int64.

    Raises:
        ValueError: as :func:`invert_cdf`.
    """
    chosen = cumulative.index_select(0, which)
    _check_total(chosen[:, -1])
    block, share = choose_block(chosen, u)
    columns, past = block_columns(block, weights.shape[1])
    inside = weights[which[:, None], columns].masked_fill_(past, 0.0)
    return block[:, 0] * _BLOCK + _invert_small(inside, share)


def _invert_blocks(weights: Tensor, u: Tensor) -> Tensor:
    cumulative = block_sums(weights).double().cumsum_(-1)
    return invert_rows(weights, cumulative, torch.arange(u.shape[0], device=u.device), u)


def invert_logits(logits: Tensor, u: Tensor) -> Tensor:
    """:func:`invert_cdf` of unnormalised log-probabilities (N, V)."""
    weights = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return invert_cdf((weights - weights.amax(-1, keepdim=True)).exp_(), u)
