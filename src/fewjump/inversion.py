"""Categorical draws from given uniforms: where a cumulative distribution passes that share of it.

What decides is summed in float64, so that a rare token keeps its probability; a few rows at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Chunks that stay in a core's cache; on an accelerator fewer, larger launches are faster.
_ROWS_PER_CHUNK_ELEMENTS = 1 << 18
_ACCELERATOR_CHUNK_ELEMENTS = 1 << 25
_BLOCK = 256


def rows_per_chunk(width: int, device: torch.device) -> int:
    """How many rows of ``width`` entries to handle at once, so that temporaries stay small."""
    on_cpu = device.type == "cpu"
    elements = _ROWS_PER_CHUNK_ELEMENTS if on_cpu else _ACCELERATOR_CHUNK_ELEMENTS
    return max(1, elements // width)


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

    No float64 copy of ``weights`` is made: blocks of 256 are summed in float32 (or better), which
    is as exact as the weights themselves, and accumulated in float64; inside the block chosen the
    sums are float64. A token of probability 1e-12 keeps its probability.
    """
    n, v = weights.shape
    invert = _invert_small if v <= 2 * _BLOCK else _invert_blocks
    out = torch.empty(n, dtype=torch.int64, device=weights.device)
    rows = rows_per_chunk(v, weights.device)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        out[part] = invert(weights[part], u[part])
    return out


def invert_shared_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """:func:`invert_cdf` with one (V,) vector of weights for all ``u`` (...): O(V + N log V)."""
    cumulative = weights.cumsum(0, dtype=torch.float64)
    _check_total(cumulative[-1:])
    last = torch.searchsorted(cumulative, cumulative[-1:], right=False)
    return torch.searchsorted(cumulative, u * cumulative[-1], right=True).minimum(last)


def _check_total(total: Tensor) -> None:
    if not total.numel():
        return
    # A NaN among them is what aminmax answers, and no comparison holds.
    least, most = (float(bound) for bound in total.detach().aminmax())
    if not (least > 0 and most < torch.inf):
        raise ValueError(
            "cannot draw from weights whose sum is zero, NaN or infinite; check the network's "
            "output for NaN, and that some token is possible at every position"
        )


def _invert_small(weights: Tensor, u: Tensor) -> Tensor:
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    _check_total(cumulative[:, -1])
    target = u[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding can put the target on the last edge; the last index of positive weight is the answer.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous(), right=False)[:, 0]
    return torch.minimum(index, last)


def _invert_blocks(weights: Tensor, u: Tensor) -> Tensor:
    n, v = weights.shape
    full = v // _BLOCK * _BLOCK
    # Summing float32 straight into float64 costs ten times as much as summing it in float32.
    dtype = torch.promote_types(weights.dtype, torch.float32)
    sums = weights[:, :full].reshape(n, -1, _BLOCK).sum(-1, dtype=dtype)
    if full < v:
        sums = torch.cat([sums, weights[:, full:].sum(-1, dtype=dtype)[:, None]], -1)
    sums = sums.double()
    cumulative = sums.cumsum(-1)
    _check_total(cumulative[:, -1])
    target = u[:, None] * cumulative[:, -1:]
    block = torch.searchsorted(cumulative, target, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous(), right=False)
    block = torch.minimum(block, last)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = torch.where(columns < v, weights.gather(1, columns.clamp(max=v - 1)), 0.0)
    share = (target - before)[:, 0] / sums.gather(1, block)[:, 0]
    return block[:, 0] * _BLOCK + _invert_small(inside, share.clamp(0.0, 1.0))


def invert_logits(logits: Tensor, u: Tensor) -> Tensor:
    """:func:`invert_cdf` of unnormalised log-probabilities (N, V)."""
    weights = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return invert_cdf((weights - weights.amax(-1, keepdim=True)).exp_(), u)
