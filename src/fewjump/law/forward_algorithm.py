"""The forward algorithm of hidden chains, one position after another and as a parallel scan.

The weight of a path z is Πᵢ exp(potentialᵢ(zⁱ)) Πᵢ wᵢ(zⁱ, zⁱ⁺¹). The w are exp(transition); or, for
a chain of conditionals, the softmax of its rows. Transitions are (B, L−1, r, r), or one matrix
(r, r) for all rows and positions: a step is then a single matrix product over the whole batch and
nothing of size r² is kept for each position.

Messages are weights, renormalised at every position (Rabiner 1989): a step is a vector–matrix
product instead of a logsumexp over r×r. Rows whose messages underflow are computed again in log
space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.law.base import exponentiated, row_chunks, safe_log, safe_logsumexp
from fewjump.random import invert_cdf


def log_total(potential: Tensor, transition: Tensor, conditional: bool = False) -> Tensor:
    """log of the summed weight of all paths: (B,); −inf where no path has weight.

    Args:
        potential: (B, L, r); −inf marks states that cannot be.
        transition: (B, L−1, r, r) or (r, r); the last axis is the later state.
        conditional: whether the rows of ``transition`` are logits, to be normalised.
    """
    value: Tensor = _LogTotal.apply(potential, transition, conditional)  # type: ignore[assignment]
    lost = (value == -torch.inf).nonzero()[:, 0]
    if lost.numel():
        rows = transition if transition.dim() == 2 else transition[lost]
        value = value.index_put((lost,), log_space_total(potential[lost], rows, conditional))
    return value


def log_space_total(potential: Tensor, transition: Tensor, conditional: bool = False) -> Tensor:
    """The same number by logsumexp over (B, r, r): slow, and immune to underflow."""
    if conditional:
        transition = transition.log_softmax(-1)
    out = []
    for rows in row_chunks(potential.shape[0], potential.shape[2] ** 2):
        message = potential[rows, 0]
        for i in range(1, potential.shape[1]):
            step = transition if transition.dim() == 2 else transition[rows, i - 1]
            message = safe_logsumexp(message[:, :, None] + step, 1) + potential[rows, i]
        out.append(safe_logsumexp(message))
    return torch.cat(out)


class _LogTotal(torch.autograd.Function):
    """The gradient is the backward pass of the same algorithm, fused with the transitions' softmax:
    nothing but the transitions' weights and (B, L, r) messages is kept."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor, transition: Tensor, conditional: bool) -> Tensor:
        matrix, height = _weights(transition, conditional)
        peak = potential.amax(-1, keepdim=True)
        peak = torch.where(peak.isfinite(), peak, 0.0)
        # Position first: every step then reads and writes contiguous memory.
        local = (potential - peak).exp_().transpose(0, 1).contiguous()
        messages, totals = torch.empty_like(local), torch.empty_like(local[..., :1])
        tiny = torch.finfo(local.dtype).tiny
        messages[0] = local[0]
        for i in range(local.shape[0]):
            if i:
                _advance(messages[i - 1], matrix, i - 1, out=messages[i])
                messages[i].mul_(local[i])
            total = torch.sum(messages[i], -1, keepdim=True, out=totals[i])
            messages[i].div_(total.clamp_(min=tiny))
        lost = (totals[..., 0] <= tiny).any(0)
        height = height * (len(local) - 1) if height.dim() == 0 else height.sum(1)
        value = totals.log().sum((0, 2)) + peak.sum((1, 2)) + height
        # Lost rows get no gradient here; 1 keeps their unused numbers finite.
        totals = totals.masked_fill(totals <= tiny, 1.0)
        ctx.save_for_backward(matrix, local, messages, totals, lost)
        ctx.conditional = conditional
        return value.masked_fill(lost, -torch.inf)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        matrix, local, messages, totals, lost = ctx.saved_tensors
        gradient = grads[0].masked_fill(lost, 0.0)[:, None].to(local.dtype)
        # after[i] = weight of what follows i given zᵢ, reach[i] = local·after/total: the pair
        # (zᵢ, zᵢ₊₁) has posterior messages[i](z)·matrix(z, z')·reach[i+1](z').
        after, reach = torch.empty_like(local), local / totals
        after[-1] = 1
        for i in range(local.shape[0] - 1, 0, -1):
            reach[i].mul_(after[i])
            _advance(reach[i], matrix.mT, i - 1, out=after[i - 1])
        grad_potential = (after * messages).mul_(gradient).transpose(0, 1)
        earlier = messages[:-1] * gradient
        # Of a softmax: d/dlogit[a, b] = earlier(a)·w[a, b]·(reach(b) − Σ_b w[a, b]·reach(b)).
        if matrix.dim() == 2:
            pairs = earlier.flatten(0, 1).T @ reach[1:].flatten(0, 1)
            if ctx.conditional:
                pairs -= (earlier * after[:-1]).sum((0, 1))[:, None]
            return grad_potential, pairs.mul_(matrix), None
        later = reach[1:].transpose(0, 1)[..., None, :]
        if ctx.conditional:
            pairs = (later - after[:-1].transpose(0, 1)[..., None]).mul_(matrix)
        else:
            pairs = later * matrix
        return grad_potential, pairs.mul_(earlier.transpose(0, 1)[..., None]), None


def _weights(transition: Tensor, conditional: bool) -> tuple[Tensor, Tensor]:
    """Weights of the steps, and the log of what they were divided by: () or (B, L−1)."""
    if conditional:
        return transition.softmax(-1), transition.new_zeros(())
    height = transition.amax((-2, -1))
    height = torch.where(height.isfinite(), height, 0.0)
    return (transition - height[..., None, None]).exp(), height


def _advance(message: Tensor, matrix: Tensor, step: int, out: Tensor) -> None:
    """Σ_z message(z)·w(z, ·) of one step, (B, r), in ``out``."""
    if matrix.dim() == 2:
        torch.mm(message, matrix, out=out)
    else:
        torch.bmm(message[:, None], matrix[:, step], out=out[:, None])


def log_vector_product(transition: Tensor, vector: Tensor) -> Tensor:
    """log Σ_b exp(transition[a, b] + vector[b]): (r, r), (..., r) → (..., r), or a matrix a row."""
    value, top = _log_product(transition, exponentiated(transition), vector)
    return value + top


def _log_product(
    transition: Tensor, weights: tuple[Tensor, Tensor], vector: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`log_vector_product` less the vector's largest entry, and that: (..., r), (..., 1).

    ``weights`` are the exponentials of ``transition``.
    """
    matrix, height = weights
    share, top = exponentiated(vector)
    total = share @ matrix.mT if matrix.dim() == 2 else (matrix @ share[..., None])[..., 0]
    lost = total < torch.finfo(total.dtype).tiny
    if not bool(lost.any()):
        return total.log() + height[..., 0], top
    value = total.masked_fill(lost, 1.0).log() + height[..., 0]
    where = lost.nonzero(as_tuple=True)
    steps = transition[where[-1]] if matrix.dim() == 2 else transition[where]
    again = safe_logsumexp(steps + (vector - top)[where[:-1]])
    return value.index_put(where, again), top


def forward_messages(potential: Tensor, transition: Tensor) -> Tensor:
    """log of the summed weight of what stands before position i, given zⁱ: (B, L, r).

    Up to a constant for each row and position.
    """
    transition = transition.mT
    message = torch.zeros_like(potential[:, 0])
    out, shared = [message], exponentiated(transition) if transition.dim() == 2 else None
    for i in range(potential.shape[1] - 1):
        step = transition if shared else transition[:, i]
        message, _ = _log_product(step, shared or exponentiated(step), message + potential[:, i])
        out.append(message)
    return torch.stack(out, 1)


def backward_messages(potential: Tensor, transition: Tensor) -> Tensor:
    """log of the summed weight of everything after position i, given zⁱ: (B, L, r).

    Up to a constant for each row and position.
    """
    steps = transition.mT if transition.dim() == 2 else transition.flip(1).mT
    return forward_messages(potential.flip(1), steps).flip(1)


def state_marginals(start: Tensor, transition: Tensor) -> Tensor:
    """Pr(zⁱ = ·): (B, L, r). Of conditionals, from initial logits (B, r); or of potentials."""
    if start.dim() == 3:
        before, after = (f(start, transition) for f in (forward_messages, backward_messages))
        return (before + start + after).softmax(-1)
    kernel = transition.softmax(-1)
    state = start.softmax(-1)[:, None]
    out = [state]
    for i in range(kernel.shape[1]):
        state = torch.bmm(state, kernel[:, i])
        out.append(state)
    return torch.cat(out, 1)


# -- paths of one matrix --------------------------------------------------------------------


def draw_paths(potential: Tensor, transition: Tensor, u: Tensor) -> Tensor:
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


# -- the same in logarithmic depth ----------------------------------------------------------
#
# The forward algorithm is a product of r×r matrices, and any bracketing gives the same number: a
# balanced tree needs log₂ L steps where the sequential form needs L (Särkkä & García-Fernández
# 2021). It costs r times more arithmetic and pays where one step does not fill the machine: long
# sequences on an accelerator.


def scan_log_total(potential: Tensor, transition: Tensor, conditional: bool = False) -> Tensor:
    """Same value and arguments as :func:`log_total`."""
    peak = potential.detach().amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0.0)
    local = (potential - peak).exp()
    weights, height = _weights(transition, conditional)
    matrix = weights * local[:, 1:, None, :]
    # Each row of a product carries its own scale: states of tiny weight keep their precision.
    scale = torch.zeros_like(matrix[..., 0]) + height[..., None]
    matrix, scale = _rescale(matrix, scale)
    while matrix.shape[1] > 1:
        if matrix.shape[1] % 2:
            matrix, scale = _append_identity(matrix, scale)
        matrix, scale = _combine(matrix[:, ::2], scale[:, ::2], matrix[:, 1::2], scale[:, 1::2])
    value = peak.sum((1, 2))
    path = safe_log(local[:, 0])
    if matrix.shape[1]:
        path = path + safe_log(matrix[:, 0].sum(-1)) + scale[:, 0]
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
