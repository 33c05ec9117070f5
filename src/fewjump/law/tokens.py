"""Log-probabilities of given tokens under a softmax, without a normalised copy of the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewjump.law.base import at_least_float32, row_chunks

# Entries of a temporary: about what a CPU's cache holds.
_CHUNK = 1 << 20


def token_log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[token], reading the logits once and keeping only them.

    The forward pass makes nothing of the size of ``logits``; the backward pass makes the gradient
    itself and nothing else.

    Args:
        logits: (..., V) floating point; −inf marks impossible tokens.
        tokens: int64, broadcastable to the leading shape of ``logits``.

    Returns:
        (...) in at least float32; −inf for an impossible token (whose gradient is finite).
    """
    return _TokenLogProb.apply(logits, tokens.expand(logits.shape[:-1]))  # type: ignore[no-any-return]


class _TokenLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        flat = logits.reshape(-1, logits.shape[-1])
        index = tokens.reshape(-1, 1)
        chosen = at_least_float32(flat.gather(1, index)[:, 0])
        normaliser = torch.empty_like(chosen)
        for rows in row_chunks(flat.shape[0], flat.shape[1], _CHUNK):
            # Twice as fast on a CPU as logsumexp, whose maximum over a short axis is slow.
            log_probs = at_least_float32(flat[rows]).log_softmax(-1)
            normaliser[rows] = chosen[rows] - log_probs.gather(1, index[rows])[:, 0]
        lost = normaliser.isnan().nonzero()[:, 0]
        if lost.numel():
            # −inf − (−inf), at an impossible token; and 0 for a row that allows no token at all.
            again = at_least_float32(flat[lost]).logsumexp(-1)
            normaliser[lost] = again.masked_fill(again == -torch.inf, 0.0)
        ctx.save_for_backward(logits, tokens, normaliser)
        return (chosen - normaliser).reshape(tokens.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, tokens, normaliser = ctx.saved_tensors
        flat = logits.reshape(-1, logits.shape[-1])
        index, gradient = tokens.reshape(-1, 1), grads[0].reshape(-1, 1)
        out = torch.empty_like(flat)
        for rows in row_chunks(flat.shape[0], flat.shape[1], _CHUNK):
            piece = at_least_float32(flat[rows]) - normaliser[rows, None]
            piece = piece.exp_().mul_(-gradient[rows])
            out[rows] = piece.scatter_add_(1, index[rows], gradient[rows])
        return out.reshape(logits.shape), None
