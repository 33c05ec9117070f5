"""The forward algorithm of hidden chains, one position after another and as a parallel scan.

The weight of a path z is Πᵢ exp(potentialᵢ(zⁱ)) Πᵢ wᵢ(zⁱ, zⁱ⁺¹). The w are exp(transition); or, for
a chain of conditionals, the softmax of its rows. A transition is a
:class:`~fewjump.law.transition.Transition`, or a tensor (B, L−1, r, r) or (r, r) for a dense one.

Positions are counted with those between the tables of a transition: H = K·(L−1) + 1 of them.

Messages are weights, renormalised at every position (Rabiner 1989). Rows whose messages underflow
are computed again in log space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.inversion import invert_cdf, row_chunks
from fewjump.law.log_weights import exponentiated, outside_autocast, safe_log, safe_logsumexp
from fewjump.law.transition import (
    Transition,
    advance,
    arrived,
    landing,
    log_advance,
    log_retreat,
    retreat,
    table_at,
)


@outside_autocast
def log_total(
    potential: Tensor, transition: Tensor | Transition, conditional: bool = False, every: int = 1
) -> Tensor:
    """log of the summed weight of all paths: (B,); −inf where no path has weight.

    Args:
        potential: (B, N, r); −inf marks states that cannot be.
        transition: log-weights of the steps.
        conditional: whether the rows of ``transition`` are logits, to be normalised.
        every: potentials are of every so many of the H positions; 0 at the others.
    """
    transition = Transition.of(transition)
    value: Tensor = _LogTotal.apply(potential, conditional, every, *transition.tables)  # type: ignore[assignment]
    lost = (value == -torch.inf).nonzero()[:, 0]
    if lost.numel():
        rows = transition if transition.shared else transition.select(lost)
        again = log_space_total(potential[lost], rows, conditional, every)
        value = value.index_put((lost,), again)
    return value


@outside_autocast
def log_space_total(
    potential: Tensor, transition: Tensor | Transition, conditional: bool = False, every: int = 1
) -> Tensor:
    """The same number by logsumexp over whole tables: slow, and immune to underflow."""
    transition = Transition.of(transition)
    if conditional:
        transition = transition.log_softmax()
    tables, turns, out = transition.tables, transition.turns, []
    for rows in row_chunks(potential.shape[0], tables[0].shape[-3:].numel()):
        message = potential[rows, 0]
        for i in range(every * (potential.shape[1] - 1)):
            table = tables[i % turns]
            table = table if table.dim() == 3 else table[rows, i // turns]
            parts = message.unflatten(-1, table.shape[-3:-1])
            message = safe_logsumexp(parts[..., None] + table, 2).transpose(1, 2).flatten(1)
            if (i + 1) % every == 0:
                message = message + potential[rows, (i + 1) // every]
        out.append(safe_logsumexp(message))
    return torch.cat(out)


class _LogTotal(torch.autograd.Function):
    """The gradient is the backward pass of the same algorithm, fused with the transitions' softmax:
    nothing but the transitions' weights and (B, N, r) messages is kept."""

    @staticmethod
    def forward(
        ctx: Any, potential: Tensor, conditional: bool, every: int, *tables: Tensor
    ) -> Tensor:
        turns, (batch, count, states) = len(tables), potential.shape
        weights, heights = zip(*(_weights(table, conditional) for table in tables))
        peak = potential.amax(-1, keepdim=True)
        peak = torch.where(peak.isfinite(), peak, 0.0)
        # Position first, row last: every step then reads and writes contiguous memory.
        local = potential.new_empty(count, states, batch)
        messages, totals = torch.empty_like(local), potential.new_empty(count, 1, batch)
        # Where a step is less likely than this, what follows it may be beyond all numbers in the
        # backward pass: such rows are lost here, and computed in log space.
        tiny = torch.finfo(potential.dtype).tiny ** 0.25
        for i, message in enumerate(messages):
            torch.sub(potential[:, i].T, peak[:, i].T, out=local[i]).exp_()
            if i:
                moved = messages[i - 1]
                for j in range(every * (i - 1), every * i):
                    moved = advance(moved, table_at(weights[j % turns], j // turns))
                torch.mul(moved, local[i].view(moved.shape), out=message.view(moved.shape))
            else:
                message.copy_(local[0])
            total = torch.sum(message, 0, keepdim=True, out=totals[i])
            message.div_(total.clamp_(min=tiny))
        lost = (totals[:, 0] <= tiny).any(0)
        value = totals.log().sum((0, 1)) + peak.sum((1, 2))
        steps = every * (count - 1) // turns
        for height in heights:
            value += height * steps if height.dim() == 0 else height.sum(1)
        # Lost rows get no gradient here; 1 keeps their unused numbers finite.
        totals = totals.masked_fill(totals <= tiny, 1.0)
        ctx.save_for_backward(local, messages, totals, lost, *weights)
        ctx.conditional, ctx.every = conditional, every
        return value.masked_fill(lost, -torch.inf)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        local, messages, totals, lost, *weights = ctx.saved_tensors
        every, turns = ctx.every, len(weights)
        gradient = grads[0].masked_fill(lost, 0.0).to(local.dtype)
        pairs = [torch.zeros_like(weight) for weight in weights]
        grad_potential = torch.empty_like(messages)
        # after = weight of what follows i given zᵢ; reach = local·after/total. The pair (zᵢ, zᵢ₊₁)
        # has posterior message(z)·weight(z, z')·reach(z').
        after = torch.ones_like(messages[0])
        earlier = messages[-1] * gradient
        for i in range(len(messages) - 1, -1, -1):
            torch.mul(after, earlier, out=grad_potential[i])
            if i == 0:
                break
            reach = after.div_(totals[i]).mul_(local[i])
            earlier = messages[i - 1] * gradient
            steps = range(every * (i - 1), every * i)
            before = [earlier]
            for j in steps[:-1]:
                before.append(advance(before[-1], table_at(weights[j % turns], j // turns)))
            for j in reversed(steps):
                weight = table_at(weights[j % turns], j // turns)
                after = retreat(reach, weight)
                pair = table_at(pairs[j % turns], j // turns)
                _add_pairs(pair, before.pop(), reach, after if ctx.conditional else None)
                reach = after
            after = after.reshape(earlier.shape)
        pairs = [pair.mul_(weight) for pair, weight in zip(pairs, weights)]
        return grad_potential.permute(2, 0, 1), None, None, *pairs


def _add_pairs(pair: Tensor, before: Tensor, reach: Tensor, after: Tensor | None) -> None:
    """Add the gradient of a table's logarithms, less the factor w, from (r, B) on its both sides.

    Of a softmax, d/dlogit[s, t] = before(s)·w[s, t]·(reach(t) − after(s)).
    """
    parts, later = before.reshape(*pair.shape[-3:-1], -1), arrived(reach, pair)
    if pair.dim() == 4:
        pair.add_(later.permute(2, 0, 1)[..., None, :])
        if after is not None:
            pair.sub_(after.permute(2, 0, 1)[..., None])
        pair.mul_(parts.permute(2, 0, 1)[..., None])
        return
    pair.baddbmm_(parts, later.mT)
    if after is not None:
        pair.sub_((parts * after).sum(-1)[..., None])


def _weights(table: Tensor, conditional: bool) -> tuple[Tensor, Tensor]:
    """Weights of the steps, and the log of what they were divided by: () or (B, L−1)."""
    if conditional:
        return table.softmax(-1), table.new_zeros(())
    height = table.amax((-3, -2, -1))
    height = torch.where(height.isfinite(), height, 0.0)
    return (table - height[..., None, None, None]).exp(), height


@outside_autocast
def forward_messages(potential: Tensor, transition: Tensor | Transition) -> Tensor:
    """log of the summed weight of what stands before position i, given zⁱ: (B, H, r).

    Up to a constant for each row and position.
    """
    transition = Transition.of(transition)
    tables, turns = [table.mT for table in transition.tables], transition.turns
    shared = [exponentiated(table) for table in tables] if transition.shared else None
    message = torch.zeros_like(potential[:, 0])
    out = [message]
    for i in range(potential.shape[1] - 1):
        table = table_at(tables[i % turns], i // turns)
        weights = shared[i % turns] if shared else exponentiated(table)
        message = log_advance(table, weights, message + potential[:, i])
        out.append(message)
    return torch.stack(out, 1)


@outside_autocast
def backward_messages(potential: Tensor, transition: Tensor | Transition) -> Tensor:
    """log of the summed weight of everything after position i, given zⁱ: (B, H, r).

    Up to a constant for each row and position.
    """
    transition = Transition.of(transition)
    tables, turns = transition.tables, transition.turns
    shared = [exponentiated(table) for table in tables] if transition.shared else None
    message = torch.zeros_like(potential[:, 0])
    out = [message]
    for i in range(potential.shape[1] - 2, -1, -1):
        table = table_at(tables[i % turns], i // turns)
        weights = shared[i % turns] if shared else exponentiated(table)
        message = log_retreat(table, weights, message + potential[:, i + 1])
        out.append(message)
    return torch.stack(out[::-1], 1)


@outside_autocast
def state_marginals(start: Tensor, transition: Tensor | Transition) -> Tensor:
    """Pr(zⁱ = ·): (B, H, r). Of conditionals (B, L−1, ...), from initial logits (B, r); or of
    potentials (B, H, r)."""
    if start.dim() == 3:
        before, after = (f(start, transition) for f in (forward_messages, backward_messages))
        return (before + start + after).softmax(-1)
    kernels = [table.softmax(-1) for table in Transition.of(transition).tables]
    state = start.softmax(-1).T
    out = [state]
    for i in range(kernels[0].shape[1]):
        for kernel in kernels:
            state = advance(state, kernel[:, i]).flatten(0, 1)
            out.append(state)
    return torch.stack(out).permute(2, 0, 1)


# -- paths of shared tables -----------------------------------------------------------------


@outside_autocast
def draw_paths(potential: Tensor, transition: Tensor | Transition, u: Tensor) -> Tensor:
    """Draw a path for each row, from left to right: (B, H) int64.

    What follows each position is summed up first, in weights and not in their logarithms. Rows
    whose weights underflow as a whole are drawn in log space.

    Args:
        potential: (B, H, r), or (1, H, r) for rows that are alike: they are then summed up once.
        transition: log-weights that all rows and positions share.
        u: (B, H) float64 in (0, 1).

    Raises:
        ValueError: if a row has no path of any weight, or holds NaN.
    """
    transition, batch = Transition.of(transition), u.shape[0]
    ahead, weights, lost = _path_weights(potential, transition)
    lost = lost.expand(batch)
    if not bool(lost.any()):
        return _walk(ahead, weights, u)
    path = torch.empty(u.shape, dtype=torch.int64, device=u.device)
    potential = potential.expand(batch, -1, -1)
    for row in lost.nonzero()[:, 0].tolist():
        path[row] = _log_space_path(potential[row], transition, u[row])
    path[~lost] = _walk(ahead.expand(-1, -1, batch)[:, :, ~lost], weights, u[~lost])
    return path


def _path_weights(potential: Tensor, transition: Transition) -> tuple[Tensor, list[Tensor], Tensor]:
    """What a path is drawn by.

    Returns:
        (H, r, B) weight of a state and of all that follows it, up to a factor for each row and
        position; weights of a step, up to a factor for each earlier state; (B,) rows in which
        weights may have been lost.
    """
    turns, weights = transition.turns, []
    # Position first, row last: every step then reads and writes contiguous memory.
    ahead = potential.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    for k, table in enumerate(transition.tables):
        height = table.amax(-1, keepdim=True)
        height = torch.where(height.isfinite(), height, 0.0)
        # The largest step out of every state counts 1; what it lacks, the state itself is given.
        weights.append((table - height).exp())
        ahead[k:-1:turns] += height.flatten()[:, None]
    peak = ahead.amax(1, keepdim=True)
    ahead = ahead.sub_(torch.where(peak.isfinite(), peak, 0.0)).exp_()
    tiny = torch.finfo(ahead.dtype).tiny
    least = torch.ones_like(ahead[0, 0])
    for i in range(ahead.shape[0] - 1, 0, -1):
        message = retreat(ahead[i], weights[(i - 1) % turns]).flatten(0, 1)
        top = message.amax(0)
        ahead[i - 1].mul_(message.div_(top.clamp(min=tiny)))
        least = torch.minimum(least, top)
    # What underflows beside the largest weight of its position is taken for nothing. A position at
    # which hardly anything is left has lost more than that.
    least = torch.minimum(least, ahead.amax(1).amin(0))
    return ahead, weights, least < tiny**0.5


def _walk(ahead: Tensor, weights: list[Tensor], u: Tensor) -> Tensor:
    """Paths by the weights of :func:`_path_weights`, whose rows may be one for all: (B, H)."""
    path = torch.empty((u.shape[1], u.shape[0]), dtype=torch.int64, device=u.device)
    row = torch.arange(u.shape[0], device=u.device) % ahead.shape[2]
    path[0] = invert_cdf(ahead[0].T.expand(u.shape[0], -1), u[:, 0])
    for i in range(1, u.shape[1]):
        weight = weights[(i - 1) % len(weights)]
        groups, size, _ = weight.shape
        group = path[i - 1] // size
        # Of each row the block that it is in: (T, B).
        later = arrived(ahead[i], weight).transpose(0, 1)[:, group, row]
        steps = weight[group, path[i - 1] % size].mul_(later.T)
        path[i] = invert_cdf(steps, u[:, i]) * groups + group
    return path.T.contiguous()


def _log_space_path(potential: Tensor, transition: Transition, u: Tensor) -> Tensor:
    """The same for one row, (H, r) and (H,) → (H,): slow, and immune to underflow."""
    tables = [transition.tables[i % transition.turns] for i in range(len(potential) - 1)]
    ahead = [potential[-1]]
    for local, table in zip(potential[:-1].flip(0), tables[::-1]):
        follows = landing(ahead[-1], table)[:, None]
        ahead.append(safe_logsumexp(table + follows).flatten() + local)
    path = [invert_cdf(ahead.pop().softmax(-1)[None], u[:1])]
    for each, table in zip(u[1:, None], tables):
        groups, size, _ = table.shape
        group, member = path[-1] // size, path[-1] % size
        weights = table[group, member] + landing(ahead.pop(), table)[group]
        path.append(invert_cdf(weights.softmax(-1), each) * groups + group)
    return torch.cat(path)


# -- the same in logarithmic depth ----------------------------------------------------------
#
# The forward algorithm is a product of r×r matrices, and any bracketing gives the same number: a
# balanced tree needs log₂ L steps where the sequential form needs L (Särkkä & García-Fernández
# 2021). It costs r times more arithmetic and pays where one step does not fill the machine: long
# sequences on an accelerator.


@outside_autocast
def scan_log_total(potential: Tensor, transition: Tensor) -> Tensor:
    """Same value and arguments as a conditional :func:`log_total`."""
    peak = potential.detach().amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0.0)
    local = (potential - peak).exp()
    matrix = transition.softmax(-1) * local[:, 1:, None, :]
    # Each row of a product carries its own scale: states of tiny weight keep their precision.
    matrix, scale = _rescale(matrix, torch.zeros_like(matrix[..., 0]))
    while matrix.shape[1] > 1:
        if matrix.shape[1] % 2:
            matrix, scale = _append_identity(matrix, scale)
        matrix, scale = _combine(matrix[:, ::2], scale[:, ::2], matrix[:, 1::2], scale[:, 1::2])
    value = peak.sum((1, 2))
    path = safe_log(local[:, 0])
    if matrix.shape[1]:
        path = path + safe_log(matrix[:, 0].sum(-1)) + scale[:, 0]
    return value + safe_logsumexp(path)


@outside_autocast
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
