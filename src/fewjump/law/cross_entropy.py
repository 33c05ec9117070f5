"""Cross-entropies over the vocabulary in chunks: nothing of the size of the logits is allocated
but their own gradient, where they exist, and nothing at all of that size where they do not.

A product 0·(−inf) counts as 0 in value and in gradient: impossible tokens that the target does not
ask for cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.inversion import row_chunks
from fewjump.law.logit_pass import CHUNK_ELEMENTS, DensePass, LinearHead, LinearPass
from fewjump.law.logits import Logits

#: The first version whose gradients of single rows are known to be right.
LIGER_VERSION = (0, 8, 5)
# Liger skips rows of this token; no token is negative.
_NO_TOKEN = -100
# Entries of a product that is summed at once: what a CPU's cache holds.
_DOT_ELEMENTS = 1 << 19

Pass: TypeAlias = DensePass | LinearPass
Source: TypeAlias = Callable[[Sequence[Tensor], Sequence[bool]], Pass]


class SoftCrossEntropy(NamedTuple):
    """Cross-entropy of chosen rows against a target's, in nats.

    Attributes:
        total: () Σ row_weight·cross_entropy, with gradients; 0 without weights.
        cross_entropy: (N,), with gradients.
        target_entropy, entropy: (N,), without.
    """

    total: Tensor
    cross_entropy: Tensor
    target_entropy: Tensor
    entropy: Tensor


# -- hard labels ----------------------------------------------------------------------------


def token_log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[token], reading the logits once and keeping only them.

    Args:
        logits: (..., V) floating point; −inf marks impossible tokens.
        tokens: int64, broadcastable to the leading shape of ``logits``.

    Returns:
        (...) in at least float32; −inf for an impossible token (whose gradient is finite).
    """
    tokens = tokens.expand(logits.shape[:-1])
    flat = logits.reshape(-1, logits.shape[-1])
    every: Source = partial(DensePass, None)
    return -_TokenCrossEntropy.apply(every, tokens.reshape(-1), flat).reshape(tokens.shape)


def token_cross_entropy(student: Logits, tokens: Tensor, rows: Tensor) -> Tensor:
    """−log p(token) at chosen positions, counted row-major: (B·L,), (N,) int64 → (N,)."""
    head = student.head_at(rows)
    if head is not None:
        return linear_token_cross_entropy(head, tokens[rows])
    logits = student.dense().flatten(0, 1)
    return _TokenCrossEntropy.apply(partial(DensePass, rows), tokens[rows], logits)


def linear_token_cross_entropy(head: LinearHead, tokens: Tensor) -> Tensor:
    """−log softmax(features·weightᵀ + bias)(token) of a head's rows: (N,) int64 → (N,).

    On CUDA by Liger's fused kernel, where it is installed (``fewjump[liger]``); else by torch's own
    chunked function, where this torch has one and the precision is the features' own; else by ours.
    """
    features, weight, bias, compute, gain = head
    if features.shape[0] and gain is None:
        if features.device.type == "cuda" and compute.itemsize <= 4 and has_liger():
            return liger_token_cross_entropy(features, weight, bias, tokens, compute)
        options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
        own = features.dtype == weight.dtype == compute
        if options is not None and own and compute in (torch.float32, torch.float64):
            rows = max(1, min(features.shape[0], CHUNK_ELEMENTS // weight.shape[0]))
            with torch.autocast(features.device.type, enabled=False):
                return functional.linear_cross_entropy(  # type: ignore[attr-defined]
                    features,
                    weight,
                    tokens,
                    linear_bias=bias,
                    reduction="none",
                    options=options(batch_chunk_size=rows, chunking_method=None),
                )
    with torch.autocast(features.device.type, enabled=False):
        source: Source = partial(LinearPass, compute, gain)
        return _TokenCrossEntropy.apply(source, tokens, features, weight, bias)


@cache
def has_liger() -> bool:
    """Whether a Liger kernel of :data:`LIGER_VERSION` or later is installed, and Triton with it."""
    if find_spec("liger_kernel") is None or find_spec("triton") is None:
        return False
    try:
        found = metadata.version("liger-kernel").split(".")[:3]
        return tuple(int(part) for part in found) >= LIGER_VERSION
    except (metadata.PackageNotFoundError, ValueError):
        return False


def liger_token_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor, compute: torch.dtype
) -> Tensor:
    """As :func:`linear_token_cross_entropy`, by Liger's fused kernel; its sums are in float32.

    Raises:
        ImportError: without ``fewjump[liger]``.
    """
    from liger_kernel.ops.fused_linear_cross_entropy import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearCrossEntropyFunction,
    )

    # Under autocast the weight stays as it is and so does the precision of its gradient.
    low = compute in (torch.bfloat16, torch.float16)
    with torch.autocast(features.device.type, compute if low else None, enabled=low):
        return LigerFusedLinearCrossEntropyFunction.apply(
            features if low else features.to(compute),
            weight if low else weight.to(compute),
            tokens,
            bias,
            None,  # weights of the classes
            _NO_TOKEN,
            0.0,  # scale of the squared normaliser
            0.0,  # label smoothing
            "none",
            None,  # cap of the logits
            False,  # no separate loss of the normaliser
            torch.float32,
        )[0]


class _TokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Source, tokens: Tensor, *parameters: Tensor) -> Tensor:
        student = source(parameters, [False] * len(parameters))
        chosen, normaliser = torch.empty(
            2, tokens.shape[0], dtype=student.wide, device=tokens.device
        )
        for part, (scratch, log_q, _) in student.chunks():
            logits, at = student.logits(part, scratch), tokens[part, None]
            # Twice as fast on a CPU as logsumexp, whose maximum over a short axis is slow.
            torch.log_softmax(logits, -1, out=log_q)
            chosen[part] = logits.gather(1, at)[:, 0]
            found = chosen[part] - log_q.gather(1, at)[:, 0]
            lost = found.isnan().nonzero()[:, 0]
            if lost.numel():
                # −inf − (−inf), at an impossible token; 0 for a row that allows no token at all.
                again = logits[lost].logsumexp(-1)
                found[lost] = again.masked_fill(again == -torch.inf, 0.0)
            normaliser[part] = found
        ctx.save_for_backward(tokens, normaliser, *parameters)
        ctx.source = source
        return normaliser - chosen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tokens, normaliser, *parameters = ctx.saved_tensors
        student = ctx.source(parameters, ctx.needs_input_grad[2:])
        for part, (scratch, slope, _) in student.chunks():
            gradient = grads[0][part, None].to(slope.dtype)
            logits = student.logits(part, scratch)
            torch.sub(logits, normaliser[part, None], out=slope).exp_().mul_(gradient)
            student.add(part, slope.scatter_add_(1, tokens[part, None], -gradient))
        return (None, None, *student.gradients())


# -- soft labels ----------------------------------------------------------------------------


def soft_cross_entropy(
    student: Logits, target: Logits, rows: Tensor, row_weight: Tensor | None = None
) -> SoftCrossEntropy:
    """−Σ_a softmax(target)(a)·log softmax(student)(a) at chosen positions.

    Of a linear head, where the weights of the rows in the loss are known, each chunk's gradient is
    computed while its logits are there, so that a training step costs the same matrix products as
    the plain formula. Otherwise the backward pass computes the logits again.

    Args:
        student: with gradients.
        target: no gradient flows to it.
        rows: (N,) int64, counted row-major over (B, L).
        row_weight: (N,) constants; given, the gradient of ``total`` costs a head no second pass.
    """
    source, parameters, deferred = _inputs(student, rows)
    early = deferred and torch.is_grad_enabled() and row_weight is not None
    with torch.autocast(rows.device.type, enabled=False):
        return SoftCrossEntropy(
            *_SoftCrossEntropy.apply(source, target, rows, row_weight, early, *parameters)
        )


def _inputs(student: Logits, rows: Tensor) -> tuple[Source, tuple[Tensor, ...], bool]:
    """A pass over chosen rows, the tensors that it differentiates, and whether it is a head's."""
    head = student.head_at(rows)
    if head is None:
        return partial(DensePass, rows), (student.dense().flatten(0, 1),), False
    parameters = head.features, head.weight, head.bias
    return partial(LinearPass, head.compute, head.gain), parameters, True


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        source: Source,
        target: Logits,
        rows: Tensor,
        row_weight: Tensor | None,
        early: bool,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        needs = list(ctx.needs_input_grad[5:])
        early = early and any(needs)
        student = source(parameters, needs if early else [False] * len(needs))
        dtype = student.wide
        out = torch.empty(3, rows.shape[0], dtype=dtype, device=rows.device)
        for part, (scratch, log_q, log_p) in student.chunks():
            torch.log_softmax(student.logits(part, scratch), -1, out=log_q)
            never = student.impossible(log_q)
            _fill(log_q, never, 0.0)
            _target_log_probs(target, rows[part], scratch, log_p)
            p = torch.exp(log_p, out=scratch)
            out[0, part] = -_dot(p, log_q).masked_fill_(_any_positive(p, never), -torch.inf)
            out[1, part] = -_dot(p, log_p)
            q = torch.exp(log_q, out=log_p)
            out[2, part] = -_dot(q, log_q)
            if early:
                assert row_weight is not None
                _fill(q, never, 0.0)
                student.add(part, q.sub_(p).mul_(row_weight[part, None].to(dtype)))
        ctx.save_for_backward(rows, row_weight, *parameters)
        ctx.source, ctx.target = source, target
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
        rest = (None,) * 5
        if by_row is None and by_total is None:
            return (*rest, *(None for _ in ctx.needs_input_grad[5:]))
        if by_row is None and ctx.early is not None:
            assert by_total is not None
            early, ctx.early = ctx.early, None
            return (*rest, *(None if g is None else g.mul_(by_total.to(g.dtype)) for g in early))
        rows, row_weight, *parameters = ctx.saved_tensors
        student = ctx.source(parameters, ctx.needs_input_grad[5:])
        slope_weight = torch.zeros(rows.shape[0], dtype=student.wide, device=rows.device)
        if by_row is not None:
            slope_weight += by_row
        if by_total is not None and row_weight is not None:
            slope_weight += by_total * row_weight.to(slope_weight.dtype)
        for part, (scratch, slope, p) in student.chunks():
            torch.log_softmax(student.logits(part, scratch), -1, out=slope).exp_()
            slope -= _target_log_probs(ctx.target, rows[part], scratch, p).exp_()
            student.add(part, slope.mul_(slope_weight[part, None]))
        return (*rest, *student.gradients())


# -- the other direction --------------------------------------------------------------------


def reverse_divergence(
    student: Logits, target: Logits, rows: Tensor, floor: float, row_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(softmax(student) ‖ softmax(target)) at chosen positions, in chunks.

    Each chunk's gradient is computed while its logits are there.

    Args:
        student: with gradients.
        target: no gradient flows to it.
        rows: (N,) int64, counted row-major over (B, L).
        floor: probabilities of the target below it count as it.
        row_weight: (N,) constants.

    Returns:
        () Σ row_weight·KL in nats, with gradients, and (N,) each KL, without.
    """
    source, parameters, _ = _inputs(student, rows)
    with torch.autocast(rows.device.type, enabled=False):
        return _ReverseDivergence.apply(source, target, rows, floor, row_weight, *parameters)


class _ReverseDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        source: Source,
        target: Logits,
        rows: Tensor,
        floor: float,
        row_weight: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        needs = list(ctx.needs_input_grad[5:])
        student = source(parameters, needs)
        found = torch.empty(rows.shape[0], dtype=student.wide, device=rows.device)
        for part, (scratch, log_q, log_p) in student.chunks():
            torch.log_softmax(student.logits(part, scratch), -1, out=log_q)
            never = student.impossible(log_q)
            _fill(log_q, never, 0.0)
            _target_log_probs(target, rows[part], scratch, log_p).clamp_(min=math.log(floor))
            q = torch.exp(log_q, out=scratch)
            _fill(q, never, 0.0)
            log_q -= log_p
            found[part] = _dot(q, log_q)
            if any(needs):
                slope = log_q.sub_(found[part, None]).mul_(q)
                student.add(part, slope.mul_(row_weight[part, None].to(student.wide)))
        ctx.gradients = student.gradients() if any(needs) else None
        ctx.mark_non_differentiable(found)
        return (found * row_weight.to(found.dtype)).sum(), found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            return (None,) * len(ctx.needs_input_grad)
        by_total = (None if g is None else g.mul_(grads[0].to(g.dtype)) for g in gradients)
        return (None,) * 5 + tuple(by_total)


def _target_log_probs(target: Logits, rows: Tensor, scratch: Tensor, out: Tensor) -> Tensor:
    """Log-probabilities of some rows in ``out``, −inf replaced by the least finite number."""
    if target.dtype == scratch.dtype:
        logits = target.read(rows, out=scratch)
    else:
        logits = target.read(rows).to(scratch.dtype)
    return torch.log_softmax(logits, -1, out=out).clamp_(min=torch.finfo(out.dtype).min)


def _fill(values: Tensor, where: Tensor, value: float) -> None:
    """Write ``value`` into (n, V) where a mask holds, or into columns (k,)."""
    if where.dim() == 2:
        values.masked_fill_(where, value)
    else:
        values[:, where] = value


def _any_positive(values: Tensor, where: Tensor) -> Tensor:
    """Which rows (n,) of (n, V) hold something positive there."""
    inside = (values > 0) & where if where.dim() == 2 else values[:, where] > 0
    return inside.any(-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b over the last axis, without a product of their size: (N, V), (N, V) → (N,)."""
    out = a.new_empty(a.shape[0])
    # An accelerator prefers one launch, and has no cache to stay in.
    elements = _DOT_ELEMENTS if a.device.type == "cpu" else a.numel()
    for part in row_chunks(a.shape[0], a.shape[1], elements):
        torch.sum(a[part] * b[part], -1, out=out[part])
    return out
