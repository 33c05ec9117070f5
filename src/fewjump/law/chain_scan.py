"""The chain's recursions in logarithmic depth: products of r×r matrices are associative.

The forward algorithm is a product of matrices M_i[a, b] = p(b|a)·e_i(b); any bracketing gives the
same number, so a balanced tree needs log₂ L steps where the sequential form needs L (Särkkä &
García-Fernández 2021). It costs r times more arithmetic and pays where one step does not fill the
machine: long sequences on an accelerator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.law.tokens import safe_logsumexp


def scan_log_likelihood(initial: Tensor, transition: Tensor, log_emission: Tensor) -> Tensor:
    """Same value and arguments as :func:`~fewjump.law.chain_filter.chain_log_likelihood`."""
    peak = log_emission.detach().amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0.0)
    emission = (log_emission - peak).exp()
    first = initial.softmax(-1) * emission[:, 0]
    matrix = transition.softmax(-1) * emission[:, 1:, None, :]
    # Each row of a product carries its own scale: states of tiny weight keep their precision.
    matrix, scale = _rescale(matrix, torch.zeros_like(matrix[..., 0]))
    while matrix.shape[1] > 1:
        if matrix.shape[1] % 2:
            matrix, scale = _append_identity(matrix, scale)
        matrix, scale = _combine(matrix[:, ::2], scale[:, ::2], matrix[:, 1::2], scale[:, 1::2])
    value = peak.sum((1, 2))
    path = _safe_log(first)
    if matrix.shape[1]:
        path = path + _safe_log(matrix[:, 0].sum(-1)) + scale[:, 0]
    return value + safe_logsumexp(path)


def scan_state_marginals(initial: Tensor, transition: Tensor) -> Tensor:
    """Pr(zᵢ = ·) with no observation, by a prefix scan (Hillis & Steele): (B, L, r)."""
    matrix = transition.softmax(-1)
    shift = 1
    while shift < matrix.shape[1]:
        later = matrix[:, :-shift] @ matrix[:, shift:]
        matrix = torch.cat([matrix[:, :shift], later], 1)
        shift *= 2
    start = initial.softmax(-1)[:, None]
    rest = (start[:, None] @ matrix)[:, :, 0]
    return torch.cat([start, rest], 1)


def scan_states(first: Tensor, following: Tensor) -> Tensor:
    """Follow a drawn path: z₁ = first, zᵢ₊₁ = following[:, i, zᵢ], by composing the maps.

    Args:
        first: (B,) int64.
        following: (B, L−1, r) int64, the successor of every state at every position.

    Returns:
        (B, L) int64.
    """
    shift = 1
    while shift < following.shape[1]:
        later = following[:, shift:].gather(-1, following[:, :-shift])
        following = torch.cat([following[:, :shift], later], 1)
        shift *= 2
    index = first[:, None, None].expand(-1, following.shape[1], 1)
    return torch.cat([first[:, None], following.gather(-1, index)[..., 0]], 1)


def _safe_log(values: Tensor) -> Tensor:
    """log, with −inf and no gradient at 0."""
    zero = values <= 0
    return values.masked_fill(zero, 1.0).log().masked_fill(zero, -torch.inf)


def _rescale(matrix: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    peak = matrix.detach().amax(-1)
    peak = torch.where(peak > 0, peak, 1.0)
    return matrix / peak[..., None], scale + peak.log()


def _combine(
    left: Tensor, left_scale: Tensor, right: Tensor, right_scale: Tensor
) -> tuple[Tensor, Tensor]:
    common = right_scale.amax(-1, keepdim=True)
    weighted = left * (right_scale - common).exp()[..., None, :]
    return _rescale(weighted @ right, left_scale + common)


def _append_identity(matrix: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    matrix = torch.cat([matrix, eye.expand(matrix.shape[0], 1, -1, -1)], 1)
    return matrix, functional.pad(scale, (0, 0, 0, 1))
