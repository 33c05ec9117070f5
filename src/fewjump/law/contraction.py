"""Small linear algebra shared by the exact joint laws.

Both hold a *table* (a joint, or a transition matrix) that is common to the batch, or one of a few
that rows of the batch choose from, and per-row *factors* that multiply it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.law.base import row_chunks


def contract(tables: Tensor, which: Tensor, vectors: Tensor) -> Tensor:
    """Σ_c tables[which[b], r, c]·vectors[b, c], without a copy of a shared table per row.

    Args:
        tables: (T, R, C).
        which: (B,) int64, the table of each row.
        vectors: (B, C).

    Returns:
        (B, R).
    """
    if tables.shape[0] == 1:
        return vectors @ tables[0].mT
    if tables.shape[0] == 2:
        second = (which == 1)[:, None]
        return torch.where(second, vectors @ tables[1].mT, vectors @ tables[0].mT)
    out = vectors.new_empty(vectors.shape[0], tables.shape[1])
    for rows in row_chunks(vectors.shape[0], tables.shape[1] * tables.shape[2]):
        picked = tables[which[rows]]
        out[rows] = torch.bmm(picked, vectors[rows, :, None])[..., 0]
    return out


def outer(factors: Tensor) -> Tensor:
    """Products Πᵢ factors[b, i, xⁱ] over all x, the last position fastest: (B, n, v) → (B, vⁿ)."""
    product = factors.new_ones(factors.shape[0], 1)
    for i in range(factors.shape[1]):
        product = (product[:, :, None] * factors[:, i, None, :]).flatten(1)
    return product


def scaled(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Factors divided by their largest entry at each position, and the log of what was taken out.

    (B, L, v) → ((B, L, v), (B,)). A position of zeros stays as it is.
    """
    peak = factors.amax(-1, keepdim=True)
    peak = torch.where(peak > 0, peak, 1.0)
    return factors / peak, peak.log().sum((1, 2))


def normalised(weights: Tensor) -> Tensor:
    """The last axis divided by its sum; rows of zeros stay zero."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def pinned(factors: Tensor, x0: Tensor, known: Tensor) -> Tensor:
    """Factors that exclude every token but ``x0`` at the known positions: (B, L, v) → (B, L, v).

    Raises:
        ValueError: if a known token lies outside {0..v−1}.
    """
    size = factors.shape[-1]
    outside = known & ((x0 < 0) | (x0 >= size))
    if bool(outside.any()):
        raise ValueError(
            f"a known position holds a token outside 0..{size - 1}; only clean tokens can be given"
        )
    tokens = torch.arange(size, device=factors.device)
    return torch.where(known[..., None] & (tokens != x0[..., None]), 0.0, factors)


def certain(marginals: Tensor, x0: Tensor, known: Tensor) -> Tensor:
    """Marginals with the known positions replaced by certainty at ``x0``: (B, L, v)."""
    tokens = torch.arange(marginals.shape[-1], device=marginals.device)
    hot = (tokens == x0[..., None]).to(marginals.dtype)
    return torch.where(known[..., None], hot, marginals)


def padded(probabilities: Tensor, vocab_size: int) -> Tensor:
    """Zero columns appended up to ``vocab_size`` tokens: (..., v) → (..., vocab_size)."""
    missing = vocab_size - probabilities.shape[-1]
    return torch.nn.functional.pad(probabilities, (0, missing)) if missing else probabilities


def position_entropy(marginals: Tensor) -> Tensor:
    """Σᵢ entropy of position i, in nats: (B, L, v) → (B,)."""
    return -torch.xlogy(marginals, marginals).sum((1, 2))
