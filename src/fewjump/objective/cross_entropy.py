"""Cross-entropies of logits that allocate nothing of size (B, L, V) but the gradient itself.

Rows are taken in chunks; the backward pass recomputes each chunk's softmax from the logits that
the networks emitted and the saved normalisers. A product 0·(−inf) counts as 0 in value and in
gradient: impossible tokens that the target does not ask for cost nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.law.base import row_chunks
from fewjump.law.linear import LinearLaw, rows_of
from fewjump.law.linear_table import LinearTable
from fewjump.law.product import ProductLaw


class SoftCrossEntropy(NamedTuple):
    """Result of :func:`soft_cross_entropy`; each is (N,), in nats. Only the first has gradients."""

    cross_entropy: Tensor
    target_entropy: Tensor
    entropy: Tensor


class LawCrossEntropy(NamedTuple):
    """Result of :func:`law_cross_entropy`.

    Attributes:
        total: () Σ row_weight·cross_entropy in nats, with gradients.
        rows: the terms; no gradients to rely on.
    """

    total: Tensor
    rows: SoftCrossEntropy


def law_cross_entropy(
    law: ProductLaw, target: ProductLaw, rows: Tensor, row_weight: Tensor
) -> LawCrossEntropy:
    """Weighted cross-entropy of a student's law against a teacher's at the chosen positions.

    Deferred laws (:class:`~fewjump.law.linear.LinearLaw`) stay deferred.

    Args:
        law: the student's, with gradients.
        target: the teacher's, without.
        rows: (N,) int64 positions, counted row-major over (B, L).
        row_weight: (N,) constants.
    """
    if isinstance(law, LinearLaw) and law.is_linear_at(rows):
        result = law.soft_cross_entropy(target, rows, row_weight)
        return LawCrossEntropy(result.total, SoftCrossEntropy(*result[1:]))
    flat = law.logits.reshape(-1, law.vocab_size)
    terms = soft_cross_entropy(flat, rows_of(target), rows)
    weight = row_weight.to(terms.cross_entropy.dtype)
    return LawCrossEntropy((weight * terms.cross_entropy).sum(), terms)


def law_token_cross_entropy(law: ProductLaw, tokens: Tensor, rows: Tensor) -> Tensor:
    """−log p(token) of a law at the chosen positions: (B, L) and (N,) int64 → (N,) nats."""
    flat = tokens.reshape(-1)
    if isinstance(law, LinearLaw) and law.is_linear_at(rows):
        return law.token_cross_entropy(flat, rows)
    return token_cross_entropy(law.logits.reshape(-1, law.vocab_size), flat, rows)


def soft_cross_entropy(
    logits: Tensor, target: Tensor | LinearTable, rows: Tensor
) -> SoftCrossEntropy:
    """−Σ_a softmax(target)(a)·log softmax(logits)(a) for the chosen rows.

    Args:
        logits: (M, V) student logits; −inf marks impossible tokens.
        target: (M, V) teacher logits, or what computes rows of them; no gradient flows to them.
        rows: (N,) int64, which rows to compare.

    Returns:
        Cross-entropy, entropy of the target and entropy of the student, (N,) each.
    """
    if isinstance(target, Tensor):
        target = target.detach()
    return SoftCrossEntropy(*_SoftCrossEntropy.apply(logits, target, rows))


def token_cross_entropy(logits: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
    """−log softmax(logits)(token) for the chosen rows: (M, V), (M,), (N,) → (N,)."""
    return _TokenCrossEntropy.apply(logits, tokens, rows)


def _working(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def expectation(weights: Tensor, values: Tensor) -> Tensor:
    """Σ weights·values over the last axis, where 0·(±inf) = 0."""
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(-1)


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor | LinearTable, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = _working(logits)
        out = torch.empty(3, rows.shape[0], dtype=dtype, device=logits.device)
        normalisers = torch.empty(2, rows.shape[0], dtype=dtype, device=logits.device)
        for part in row_chunks(rows.shape[0], logits.shape[-1]):
            log_q = logits[rows[part]].to(dtype)
            log_p = target.index_select(0, rows[part]).to(dtype)
            normalisers[0, part] = log_q.logsumexp(-1)
            normalisers[1, part] = log_p.logsumexp(-1)
            log_q -= normalisers[0, part, None]
            log_p -= normalisers[1, part, None]
            weights = log_p.exp()
            out[0, part] = -expectation(weights, log_q)
            out[1, part] = -expectation(weights, log_p)
            torch.exp(log_q, out=weights)
            out[2, part] = -expectation(weights, log_q)
        dense = isinstance(target, Tensor)
        ctx.save_for_backward(logits, target if dense else None, rows, normalisers)
        ctx.table = None if dense else target
        result = (out[0].clone(), out[1].clone(), out[2].clone())
        ctx.mark_non_differentiable(result[1], result[2])
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, target, rows, normalisers = ctx.saved_tensors
        target = target if ctx.table is None else ctx.table
        out = torch.zeros_like(logits)
        dtype = normalisers.dtype
        for part in row_chunks(rows.shape[0], logits.shape[-1]):
            chosen = rows[part]
            slope = logits[chosen].to(dtype).sub_(normalisers[0, part, None]).exp_()
            other = target.index_select(0, chosen).to(dtype)
            slope -= other.sub_(normalisers[1, part, None]).exp_()
            out[chosen] = slope.mul_(grads[0][part, None]).to(out.dtype)
        return out, None, None


class _TokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        dtype = _working(logits)
        normaliser = torch.empty(rows.shape[0], dtype=dtype, device=logits.device)
        for part in row_chunks(rows.shape[0], logits.shape[-1]):
            normaliser[part] = logits[rows[part]].to(dtype).logsumexp(-1)
        ctx.save_for_backward(logits, tokens, rows, normaliser)
        return normaliser - logits[rows, tokens[rows]].to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, tokens, rows, normaliser = ctx.saved_tensors
        out = torch.zeros_like(logits)
        for part in row_chunks(rows.shape[0], logits.shape[-1]):
            chosen = rows[part]
            slope = logits[chosen].to(normaliser.dtype).sub_(normaliser[part, None]).exp_()
            at = torch.arange(chosen.shape[0], device=logits.device)
            slope[at, tokens[chosen]] -= 1
            out[chosen] = slope.mul_(grads[0][part, None]).to(out.dtype)
        return out, None, None
