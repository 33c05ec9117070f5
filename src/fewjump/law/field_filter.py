"""Sums over all paths of a chain whose one r×r matrix is shared by rows and positions.

The weight of a path z is Πᵢ exp(potentialᵢ(zⁱ)) Πᵢ exp(transition(zⁱ, zⁱ⁺¹)), not normalised. With
one matrix for all, a step of the recursion is a single matrix product over the whole batch and
nothing of size r² is kept for each position: hundreds of states cost little.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewjump.law.tokens import safe_logsumexp


def field_log_total(potential: Tensor, transition: Tensor) -> Tensor:
    """log of the summed weight of all paths, by the forward recursion: (B,).

    Args:
        potential: (B, L, r); −inf marks states that cannot be.
        transition: (r, r); the last axis is the later state.

    Returns:
        (B,), −inf where no path has weight. Rows whose messages underflow are computed again in
        log space.
    """
    value: Tensor = _Total.apply(potential, transition)  # type: ignore[assignment]
    lost = (value == -torch.inf).nonzero()[:, 0]
    if lost.numel():
        again = [_log_space_total(potential[row], transition) for row in lost.tolist()]
        value = value.index_put((lost,), torch.stack(again).to(value.dtype))
    return value


def _log_space_total(potential: Tensor, transition: Tensor) -> Tensor:
    """The same number for one row (L, r), immune to underflow."""
    message = potential[0]
    for local in potential[1:]:
        message = safe_logsumexp(message[:, None] + transition, 0) + local
    return safe_logsumexp(message)


def field_messages(potential: Tensor, transition: Tensor) -> Tensor:
    """log of the summed weight of everything after position i, given zⁱ: (B, L, r).

    Up to a constant for each row and position.
    """
    matrix, _ = _matrix(transition)
    message = torch.zeros_like(potential[:, 0])
    out = [message]
    for i in range(potential.shape[1] - 1, 0, -1):
        ahead = potential[:, i] + message
        message = _log_product(ahead, matrix.T, transition.T)
        out.append(message)
    return torch.stack(out[::-1], 1)


def field_marginals(potential: Tensor, transition: Tensor) -> Tensor:
    """Pr(zⁱ = ·): (B, L, r), rows sum to 1."""
    matrix, _ = _matrix(transition)
    after = field_messages(potential, transition)
    message = potential[:, 0]
    out = [message]
    for i in range(1, potential.shape[1]):
        message = _log_product(message, matrix, transition) + potential[:, i]
        out.append(message)
    return (torch.stack(out, 1) + after).softmax(-1)


def _log_product(message: Tensor, matrix: Tensor, transition: Tensor) -> Tensor:
    """log Σ_z exp(message(z))·exp(transition(z, ·)), shifted so that its largest entry is ≤ 0."""
    peak = message.amax(-1, keepdim=True)
    share = (message - torch.where(peak.isfinite(), peak, 0.0)).exp()
    value = (share @ matrix).log()
    lost = (value == -torch.inf).all(-1).nonzero()[:, 0]
    for row in lost.tolist():
        value[row] = safe_logsumexp(message[row][:, None] + transition, 0)
    top = value.amax(-1, keepdim=True)
    return value - torch.where(top.isfinite(), top, 0.0)


def _matrix(transition: Tensor) -> tuple[Tensor, Tensor]:
    """exp(transition − its maximum), and the maximum."""
    peak = transition.amax()
    peak = torch.where(peak.isfinite(), peak, 0.0)
    return (transition - peak).exp(), peak


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, potential: Tensor, transition: Tensor) -> Tensor:
        matrix, height = _matrix(transition)
        peak = potential.amax(-1, keepdim=True)
        peak = torch.where(peak.isfinite(), peak, 0.0)
        # Position first: every step then reads and writes contiguous memory.
        local = (potential - peak).exp_().transpose(0, 1).contiguous()
        messages, totals = torch.empty_like(local), torch.empty_like(local[..., :1])
        tiny = torch.finfo(local.dtype).tiny
        for i in range(local.shape[0]):
            if i:
                torch.mm(messages[i - 1], matrix, out=messages[i])
                message = messages[i].mul_(local[i])
            else:
                message = messages[0].copy_(local[0])
            total = torch.sum(message, -1, keepdim=True, out=totals[i])
            message.div_(total.clamp_(min=tiny))
        lost = (totals[..., 0] <= tiny).any(0)
        value = totals.log().sum((0, 2)) + peak.sum((1, 2)) + (local.shape[0] - 1) * height
        # Lost rows get no gradient here; 1 keeps their unused numbers finite.
        totals = totals.masked_fill(totals <= tiny, 1.0)
        ctx.save_for_backward(matrix, local, messages, totals, lost)
        return value.masked_fill(lost, -torch.inf)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        matrix, local, messages, totals, lost = ctx.saved_tensors
        gradient = grads[0].masked_fill(lost, 0.0)[:, None].to(local.dtype)
        # after[i] = weight of what follows i given zᵢ, reach[i] = local·after/total: the pair
        # (zᵢ, zᵢ₊₁) has posterior messages[i](z)·matrix(z, z')·reach[i+1](z').
        after, reach = torch.empty_like(local), local / totals
        after[-1] = 1
        for i in range(local.shape[0] - 1, 0, -1):
            reach[i].mul_(after[i])
            torch.mm(reach[i], matrix.T, out=after[i - 1])
        grad_potential = after.mul_(messages).mul_(gradient).transpose(0, 1)
        earlier = (messages[:-1] * gradient).flatten(0, 1)
        grad_transition = (earlier.T @ reach[1:].flatten(0, 1)).mul_(matrix)
        return grad_potential, grad_transition
