"""Normalisers of factored emissions over the vocabulary, with hand-written gradients, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fewjump.law.base import row_chunks
from fewjump.law.tokens import at_least_float32, exponentiated

# Entries of a temporary: small enough to stay in a CPU's cache hierarchy, large enough for matmuls.
CHUNK = 1 << 20


def log_matmul_exp(base: Tensor, log_factor: Tensor) -> Tensor:
    """log Σ_x exp(base[n, x] + log_factor[z, x]): (N, V), (r, V) → (N, r), chunked over N.

    Entries whose products all underflow are computed again in log space, without a gradient; an
    empty sum becomes 0.
    """
    return _LogMatmulExp.apply(base, log_factor)  # type: ignore[no-any-return]


class _LogMatmulExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, log_factor: Tensor) -> Tensor:
        factor, peak = exponentiated(log_factor)
        out = base.new_empty(base.shape[0], factor.shape[0], dtype=factor.dtype)
        for rows in row_chunks(base.shape[0], base.shape[1], CHUNK):
            share, top = exponentiated(base[rows].to(factor.dtype))
            out[rows] = (share @ factor.T).log() + top + peak.T
        _recompute_lost(out, base, log_factor)
        ctx.save_for_backward(base, log_factor, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        base, log_factor, out = ctx.saved_tensors
        factor, peak = exponentiated(log_factor)
        grad_base, grad_factor = torch.empty_like(base), torch.zeros_like(factor)
        for rows in row_chunks(base.shape[0], base.shape[1], CHUNK):
            share, top = exponentiated(base[rows].to(factor.dtype))
            total = (out[rows] - top - peak.T).exp()
            weight = torch.where(total > 0, grads[0][rows] / total, 0.0)
            grad_factor.addmm_(weight.T, share)
            grad_base[rows] = share.mul_(weight @ factor)
        return grad_base, grad_factor.mul_(factor)


def _recompute_lost(out: Tensor, base: Tensor, log_factor: Tensor) -> None:
    row, state = (out == -torch.inf).nonzero(as_tuple=True)
    for part in row_chunks(row.shape[0], base.shape[1], CHUNK):
        logits = base[row[part]].to(out.dtype) + log_factor[state[part]]
        value = logits.logsumexp(-1)
        out[row[part], state[part]] = value.masked_fill(value == -torch.inf, 0.0)


def low_rank_normaliser(base: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
    """log Σ_x exp(base[n, x] + features[n, z]·tokens[x]): → (N, r).

    Args:
        base: (N, V); features: (N, r, d); tokens: (V, d).

    Nothing larger than the inputs and one chunk of about a million entries is allocated.
    """
    return _LowRankNormaliser.apply(base, features, tokens)  # type: ignore[no-any-return]


class _LowRankNormaliser(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
        dtype = torch.promote_types(features.dtype, torch.float32)
        out = base.new_empty(features.shape[:2], dtype=dtype)
        for rows, columns in _tiles(base, features.shape[1]):
            part = _tile(base, features, tokens, rows, columns).logsumexp(-1)
            out[rows] = part if columns.start == 0 else torch.logaddexp(out[rows], part)
        ctx.save_for_backward(base, features, tokens, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        base, features, tokens, out = ctx.saved_tensors
        grad_base = torch.empty_like(base)
        grad_features = torch.zeros_like(features, dtype=out.dtype)
        grad_tokens = torch.zeros_like(tokens, dtype=out.dtype)
        for rows, columns in _tiles(base, features.shape[1]):
            weight = _tile(base, features, tokens, rows, columns)
            weight = weight.sub_(out[rows, :, None]).exp_().mul_(grads[0][rows, :, None])
            grad_base[rows, columns] = weight.sum(1).to(base.dtype)
            flat = weight.flatten(0, 1)
            inner = features[rows].flatten(0, 1).to(out.dtype)
            grad_features[rows] += (flat @ tokens[columns].to(out.dtype)).reshape(
                -1, *features.shape[1:]
            )
            grad_tokens[columns] += flat.T @ inner
        return grad_base, grad_features.to(features.dtype), grad_tokens.to(tokens.dtype)


def _tiles(base: Tensor, states: int) -> Iterator[tuple[slice, slice]]:
    """Rows × vocabulary tiles of about ``CHUNK`` entries once multiplied by the states."""
    width = min(base.shape[1], max(1, CHUNK // (8 * states)))
    for rows in row_chunks(base.shape[0], states * width, CHUNK):
        for start in range(0, base.shape[1], width):
            yield rows, slice(start, min(base.shape[1], start + width))


def _tile(base: Tensor, features: Tensor, tokens: Tensor, rows: slice, columns: slice) -> Tensor:
    part = features[rows]
    scores = (part.flatten(0, 1) @ tokens[columns].T).reshape(*part.shape[:2], -1)
    return at_least_float32(scores).add_(base[rows, None, columns])
