"""Soft cross-entropy straight from features and a head's weight: no (N, V) tensor but one chunk.

Where the weights of the rows in the loss are known, each chunk's gradient is computed while its
logits are there (as Liger and torch's own linear cross-entropy do), so that a training step costs
the same matrix products as the plain formula. Otherwise the backward pass computes the logits
again. A product 0·(−inf) counts as 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fewjump.law.base import row_chunks
from fewjump.law.linear_pass import Gain, HeadPass
from fewjump.law.linear_table import LinearTable

# Entries of a product that is summed at once: what a CPU's cache holds.
_DOT_ELEMENTS = 1 << 19

Rows: TypeAlias = Tensor | LinearTable


class LinearSoftCrossEntropy(NamedTuple):
    """Result of :func:`linear_soft_cross_entropy`, in nats.

    Attributes:
        total: () Σ row_weight·cross_entropy, with gradients; 0 without weights.
        cross_entropy: (N,), with gradients.
        target_entropy, entropy: (N,), without.
    """

    total: Tensor
    cross_entropy: Tensor
    target_entropy: Tensor
    entropy: Tensor


def linear_soft_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Rows,
    rows: Tensor,
    row_weight: Tensor | None = None,
    compute: torch.dtype | None = None,
    gain: Gain | None = None,
) -> LinearSoftCrossEntropy:
    """−Σ_a softmax(target)(a)·log softmax(features·weightᵀ + bias)(a) for each row.

    Args:
        features: (N, D) of the student.
        weight, bias: (V, D) and (V,) of the student; −inf in ``bias`` marks impossible tokens.
        target: (M, V) logits of the teacher, or what computes them.
        rows: (N,) int64, the target's row for each row of ``features``.
        row_weight: (N,) constants; given, the gradient of ``total`` costs no second pass.
        compute: dtype of the matrix products; the features' own by default.
        gain: added to the student's logits.
    """
    compute = compute or features.dtype
    early = torch.is_grad_enabled() and row_weight is not None
    with torch.autocast(features.device.type, enabled=False):
        out = _LinearSoft.apply(
            features, weight, bias, target, rows, row_weight, compute, early, gain
        )
    return LinearSoftCrossEntropy(*out)


def _target_log_probs(target: Rows, rows: Tensor, scratch: Tensor, out: Tensor) -> Tensor:
    """Log-probabilities of some rows in ``out``, −inf replaced by the least finite number."""
    if isinstance(target, LinearTable) and target.dtype == scratch.dtype:
        logits = target.index_select(0, rows, out=scratch)
    else:
        logits = target.index_select(0, rows).to(scratch.dtype)
    return torch.log_softmax(logits, -1, out=out).clamp_(min=torch.finfo(out.dtype).min)


class _LinearSoft(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        target: Rows,
        rows: Tensor,
        row_weight: Tensor | None,
        compute: torch.dtype,
        early: bool,
        gain: Gain | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        needs = list(ctx.needs_input_grad[:3])
        early = early and any(needs)
        adding = needs if early else [False] * 3
        student = HeadPass(features, weight, bias, compute, adding, gain)
        dtype = student.wide
        # A token that the student cannot produce has log-probability −inf everywhere.
        never = (bias == -torch.inf).nonzero()[:, 0]
        out = torch.empty(3, features.shape[0], dtype=dtype, device=features.device)
        for part, (scratch, log_q, log_p) in student.chunks():
            student.log_probs(part, scratch, log_q)
            log_q[:, never] = 0.0
            _target_log_probs(target, rows[part], scratch, log_p)
            p = torch.exp(log_p, out=scratch)
            lost = (p[:, never] > 0).any(-1)
            out[0, part] = -_dot(p, log_q).masked_fill_(lost, -torch.inf)
            out[1, part] = -_dot(p, log_p)
            q = torch.exp(log_q, out=log_p)
            q[:, never] = 0.0
            out[2, part] = -_dot(q, log_q)
            if early:
                assert row_weight is not None
                slope = q.sub_(p).mul_(row_weight[part, None].to(dtype))
                student.add(part, slope)
        ctx.save_for_backward(features, weight, bias, rows, row_weight)
        ctx.target, ctx.compute, ctx.needs, ctx.gain = target, compute, needs, gain
        ctx.early = student.gradients() if early else None
        ctx.set_materialize_grads(False)
        total = out.new_zeros(())
        if row_weight is not None:
            # A row of weight 0 costs nothing, be it infinite.
            used = out[0].masked_fill(row_weight == 0, 0.0)
            total = (used * row_weight.to(dtype)).sum()
        result = (total, out[0].clone(), out[1].clone(), out[2].clone())
        ctx.mark_non_differentiable(result[2], result[3])
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        by_total, by_row = grads[0], grads[1]
        rest = (None,) * 6
        if by_row is None and by_total is None:
            return (None, None, None, *rest)
        if by_row is None and ctx.early is not None:
            assert by_total is not None
            early, ctx.early = ctx.early, None
            return (*(None if g is None else g.mul_(by_total.to(g.dtype)) for g in early), *rest)
        features, weight, bias, rows, row_weight = ctx.saved_tensors
        student = HeadPass(features, weight, bias, ctx.compute, ctx.needs, ctx.gain)
        slope_weight = torch.zeros(rows.shape[0], dtype=student.wide, device=rows.device)
        if by_row is not None:
            slope_weight += by_row
        if by_total is not None and row_weight is not None:
            slope_weight += by_total * row_weight.to(slope_weight.dtype)
        for part, (scratch, slope, p) in student.chunks():
            student.log_probs(part, scratch, slope).exp_()
            slope -= _target_log_probs(ctx.target, rows[part], scratch, p).exp_()
            student.add(part, slope.mul_(slope_weight[part, None]))
        return (*student.gradients(), *rest)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b over the last axis, without a product of their size: (N, V), (N, V) → (N,)."""
    out = a.new_empty(a.shape[0])
    # An accelerator prefers one launch, and has no cache to stay in.
    elements = _DOT_ELEMENTS if a.device.type == "cpu" else a.numel()
    for part in row_chunks(a.shape[0], a.shape[1], elements):
        torch.sum(a[part] * b[part], -1, out=out[part])
    return out
