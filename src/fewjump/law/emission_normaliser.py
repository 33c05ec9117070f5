"""Normalisers of factored emissions over the vocabulary, with hand-written gradients, in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fewjump.inversion import row_chunks
from fewjump.law.log_weights import at_least_float32, exponentiated, outside_autocast

# Entries of a temporary: small enough to stay in a CPU's cache hierarchy, large enough for matmuls.
CHUNK = 1 << 20


@outside_autocast
def log_matmul_exp(base: Tensor, log_factor: Tensor) -> Tensor:
    """log Σ_x exp(base[g, n, x] + log_factor[g, z, x]): (G, N, V), (G, r, V) → (G, N, r).

    A chunk at a time, by products of exponentials; sums that underflow are computed again in log
    space. An empty sum becomes 0.
    """
    return _LogMatmulExp.apply(base, log_factor)  # type: ignore[no-any-return]


class _LogMatmulExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, log_factor: Tensor) -> Tensor:
        factor, peak = exponentiated(log_factor)
        out = base.new_empty(*base.shape[:2], factor.shape[1], dtype=factor.dtype)
        limits = torch.finfo(out.dtype)
        for groups, rows in tiles(*base.shape):
            share, top = exponentiated(base[groups, rows].to(factor.dtype))
            total = share @ factor[groups].mT
            # Terms below ``tiny`` are not exact, and might have counted.
            total.masked_fill_(total < limits.tiny / limits.eps, 0.0)
            out[groups, rows] = total.log_() + top + peak[groups].mT
        lost = (out == -torch.inf).nonzero(as_tuple=True)
        for part, logits in _lost_logits(lost, base, log_factor):
            value = logits.logsumexp(-1)
            out[part] = value.masked_fill(value == -torch.inf, 0.0)
        ctx.save_for_backward(base, log_factor, out, *lost)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        base, log_factor, out, *lost = ctx.saved_tensors
        factor, peak = exponentiated(log_factor)
        grad_base, grad_factor = torch.empty_like(base), torch.zeros_like(factor)
        slope = grads[0].clone()
        slope[tuple(lost)] = 0.0
        for groups, rows in tiles(*base.shape):
            share, top = exponentiated(base[groups, rows].to(factor.dtype))
            weight = slope[groups, rows] / (out[groups, rows] - top - peak[groups].mT).exp()
            weight = weight.masked_fill_(slope[groups, rows] == 0, 0.0)
            grad_factor[groups] += weight.mT @ share
            grad_base[groups, rows] = share.mul_(weight @ factor[groups])
        grad_factor.mul_(factor)
        for part, logits in _lost_logits(lost, base, log_factor):
            share = (logits - out[part][:, None]).exp_().mul_(grads[0][part][:, None])
            group, row, state = part
            grad_base.index_put_((group, row), share.to(base.dtype), accumulate=True)
            grad_factor.index_put_((group, state), share, accumulate=True)
        return grad_base, grad_factor


def _lost_logits(
    lost: Sequence[Tensor], base: Tensor, log_factor: Tensor
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Of sums (group, row, state): some of them, and the logits (n, V) that they are over."""
    for part in row_chunks(len(lost[0]), base.shape[-1], CHUNK):
        group, row, state = (index[part] for index in lost)
        logits = base[group, row].to(log_factor.dtype) + log_factor[group, state]
        yield (group, row, state), logits


def tiles(groups: int, rows: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Groups × rows of about ``CHUNK`` entries of a (G, N, V); whole groups where they fit."""
    for some in row_chunks(groups, rows * width, CHUNK):
        for part in row_chunks(rows, (some.stop - some.start) * width, CHUNK):
            yield some, part


@outside_autocast
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
        for columns in row_chunks(base.shape[1], 1, width):
            yield rows, columns


def _tile(base: Tensor, features: Tensor, tokens: Tensor, rows: slice, columns: slice) -> Tensor:
    part = features[rows]
    scores = (part.flatten(0, 1) @ tokens[columns].T).unflatten(0, part.shape[:2])
    return at_least_float32(scores).add_(base[rows, None, columns])
