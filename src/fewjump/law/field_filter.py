"""Sums over all paths of a chain whose one r×r matrix is shared by rows and positions.

The weight of a path z is Πᵢ exp(potentialᵢ(zⁱ)) Πᵢ exp(transition(zⁱ, zⁱ⁺¹)), not normalised. With
one matrix for all, a step of the recursion is a single matrix product over the whole batch and
nothing of size r² is kept for each position: hundreds of states cost little.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewjump.inversion import invert_cdf
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


def draw_field_paths(potential: Tensor, transition: Tensor, u: Tensor) -> Tensor:
    """Draw a path for each row, from left to right: (B, L) int64.

    What follows each position is summed up first, in weights and not in their logarithms: a step of
    that is a matrix product and three passes over the rows. Rows whose weights underflow as a whole
    are drawn in log space.

    Args:
        potential: (B, L, r), or (1, L, r) for rows that are alike: they are then summed up once.
        transition: (r, r); the last axis is the later state.
        u: (B, L) float64 in (0, 1).

    Raises:
        ValueError: if a row has no path of any weight, or holds NaN.
    """
    batch = u.shape[0]
    ahead, matrix, lost = _path_weights(potential, transition)
    lost = lost.expand(batch)
    if not bool(lost.any()):
        return _walk(ahead, matrix, u)
    path = torch.empty(u.shape, dtype=torch.int64, device=u.device)
    potential = potential.expand(batch, -1, -1)
    for row in lost.nonzero()[:, 0].tolist():
        path[row] = _log_space_path(potential[row], transition, u[row])
    path[~lost] = _walk(ahead.expand(-1, batch, -1)[:, ~lost], matrix, u[~lost])
    return path


def _path_weights(potential: Tensor, transition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a path is drawn by.

    Returns:
        (L, B, r) weight of a state and of all that follows it, up to a factor for each row and
        position; (r, r) weight of a step, up to a factor for each earlier state; (B,) rows in which
        weights may have been lost.
    """
    height = transition.amax(-1)
    height = torch.where(height.isfinite(), height, 0.0)
    # The largest step out of every state counts 1; what it lacks, the state itself is given.
    matrix = (transition - height[:, None]).exp()
    # Position first: every step then reads and writes contiguous memory.
    ahead = torch.empty_like(potential.transpose(0, 1), memory_format=torch.contiguous_format)
    ahead.copy_(potential.transpose(0, 1))[:-1] += height
    peak = ahead.amax(-1, keepdim=True)
    ahead = ahead.sub_(torch.where(peak.isfinite(), peak, 0.0)).exp_()
    tiny = torch.finfo(ahead.dtype).tiny
    least = torch.ones_like(ahead[0, :, :1])
    for i in range(ahead.shape[0] - 1, 0, -1):
        message = ahead[i] @ matrix.T
        top = message.amax(-1, keepdim=True)
        ahead[i - 1].mul_(message.div_(top.clamp(min=tiny)))
        least = torch.minimum(least, top)
    # What underflows beside the largest weight of its position is taken for nothing. A position at
    # which hardly anything is left has lost more than that.
    least = torch.minimum(least, ahead.amax(-1, keepdim=True).amin(0))
    return ahead, matrix, least[:, 0] < tiny**0.5


def _walk(ahead: Tensor, matrix: Tensor, u: Tensor) -> Tensor:
    """Paths by the weights of :func:`_path_weights`, whose rows may be one for all: (B, L)."""
    path = torch.empty((u.shape[1], u.shape[0]), dtype=torch.int64, device=u.device)
    path[0] = invert_cdf(ahead[0].expand(u.shape[0], -1), u[:, 0])
    for i in range(1, u.shape[1]):
        path[i] = invert_cdf(matrix[path[i - 1]].mul_(ahead[i]), u[:, i])
    return path.T.contiguous()


def _log_space_path(potential: Tensor, transition: Tensor, u: Tensor) -> Tensor:
    """The same for one row, (L, r) and (L,) → (L,): slow, and immune to underflow."""
    ahead = [potential[-1]]
    for local in potential[:-1].flip(0):
        ahead.append(safe_logsumexp(transition + ahead[-1]) + local)
    weights, path = ahead.pop(), []
    for each in u[:, None]:
        path.append(invert_cdf(weights.softmax(-1)[None], each))
        if ahead:
            weights = transition[path[-1][0]] + ahead.pop()
    return torch.cat(path)


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
