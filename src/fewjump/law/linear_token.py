"""Cross-entropy of tokens straight from features and a head's weight, by the best way there is.

On CUDA that is Liger's fused kernel, where it is installed (``fewjump[liger]``); else torch's own
chunked function, where this torch has one and the precision is the features' own; else ours.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.law.linear_pass import Gain, HeadPass
from fewjump.law.linear_table import CHUNK_ELEMENTS

#: The first version whose gradients of single rows are known to be right.
LIGER_VERSION = (0, 8, 5)
# Liger skips rows of this token; no token is negative.
_NO_TOKEN = -100


def linear_token_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    compute: torch.dtype | None = None,
    gain: Gain | None = None,
) -> Tensor:
    """−log softmax(features·weightᵀ + bias)(token): (N, D), (V, D), (V,), (N,) → (N,).

    Args:
        features, weight, bias: of the head; −inf in ``bias`` marks impossible tokens.
        tokens: int64.
        compute: dtype of the matrix products; the features' own by default.
        gain: added to the logits.
    """
    compute = compute or features.dtype
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
        return _LinearToken.apply(features, weight, bias, tokens, compute, gain)


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


class _LinearToken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        tokens: Tensor,
        compute: torch.dtype,
        gain: Gain | None,
    ) -> Tensor:
        student = HeadPass(features, weight, bias, compute, [False] * 3, gain)
        out = torch.empty(features.shape[0], dtype=student.wide, device=features.device)
        for part, (scratch, log_q, _) in student.chunks():
            student.log_probs(part, scratch, log_q)
            out[part] = -log_q.gather(1, tokens[part, None])[:, 0]
        ctx.save_for_backward(features, weight, bias, tokens)
        ctx.compute, ctx.gain = compute, gain
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, tokens = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:3])
        student = HeadPass(features, weight, bias, ctx.compute, needs, ctx.gain)
        for part, (scratch, slope, _) in student.chunks():
            student.log_probs(part, scratch, slope).exp_()
            at = torch.arange(slope.shape[0], device=slope.device)
            slope[at, tokens[part]] -= 1
            student.add(part, slope.mul_(grads[0][part, None].to(slope.dtype)))
        return (*student.gradients(), None, None, None)
