"""The forward algorithm, one position after another, with its gradient written by hand.

Messages are probabilities, renormalised at every position: a step is one batched vector–matrix
product instead of a logsumexp over r×r. The gradient is the backward pass of the same algorithm
(Rabiner 1989), fused with the softmax of the transitions: nothing but the transition
probabilities and (B, L, r) messages is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewjump.law.tokens import safe_logsumexp


def chain_log_likelihood(initial: Tensor, transition: Tensor, log_emission: Tensor) -> Tensor:
    """log Σ_z p(z₁)e₁(z₁) Πᵢ p(zᵢ₊₁|zᵢ)eᵢ₊₁(zᵢ₊₁), sequentially over positions.

    Args:
        initial: (B, r) logits of z₁.
        transition: (B, L−1, r, r) logits; the last axis is the later state.
        log_emission: (B, L, r) log-likelihood of position i's observation in each state; −inf
            allowed.

    Returns:
        (B,). Rows whose messages underflow are computed again in log space.
    """
    value: Tensor = _Filter.apply(initial, transition, log_emission)  # type: ignore[assignment]
    lost = (value == -torch.inf).nonzero()[:, 0]
    if lost.numel():
        again = log_space_log_likelihood(initial[lost], transition[lost], log_emission[lost])
        value = value.index_put((lost,), again)
    return value


def log_space_log_likelihood(initial: Tensor, transition: Tensor, log_emission: Tensor) -> Tensor:
    """The same number by logsumexp over (B, r, r): slow, and immune to underflow."""
    transition = transition.log_softmax(-1)
    message = initial.log_softmax(-1) + log_emission[:, 0]
    for i in range(transition.shape[1]):
        joint = message[:, :, None] + transition[:, i]
        message = safe_logsumexp(joint, 1) + log_emission[:, i + 1]
    return safe_logsumexp(message)


def backward_messages(transition: Tensor, log_emission: Tensor) -> Tensor:
    """log Pr(observations after i | zᵢ), (B, L, r), in log space."""
    transition = transition.log_softmax(-1)
    message = torch.zeros_like(log_emission[:, 0])
    out = [message]
    for i in range(transition.shape[1] - 1, -1, -1):
        ahead = log_emission[:, i + 1] + message
        message = safe_logsumexp(transition[:, i] + ahead[:, None, :])
        out.append(message)
    return torch.stack(out[::-1], 1)


def state_marginals(initial: Tensor, transition: Tensor) -> Tensor:
    """Pr(zᵢ = ·) with no observation: (B, L, r)."""
    kernel = transition.softmax(-1)
    state = initial.softmax(-1)[:, None]
    out = [state]
    for i in range(kernel.shape[1]):
        state = torch.bmm(state, kernel[:, i])
        out.append(state)
    return torch.cat(out, 1)


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, log_emission: Tensor) -> Tensor:
        kernel = transition.softmax(-1)
        start = initial.softmax(-1)
        peak = log_emission.amax(-1, keepdim=True)
        peak = torch.where(peak.isfinite(), peak, 0.0)
        emission = (log_emission - peak).exp_()
        # Position first: every step then reads and writes contiguous memory.
        emission = emission.transpose(0, 1).contiguous()
        messages, totals = torch.empty_like(emission), torch.empty_like(emission[..., :1])
        state = start
        for i in range(emission.shape[0]):
            if i:
                state = torch.bmm(messages[i - 1][:, None], kernel[:, i - 1])[:, 0]
            message = torch.mul(state, emission[i], out=messages[i])
            total = torch.sum(message, -1, keepdim=True, out=totals[i])
            message.div_(total.clamp_(min=torch.finfo(total.dtype).tiny))
        lost = (totals[..., 0] <= torch.finfo(totals.dtype).tiny).any(0)
        value = totals.log().sum((0, 2)) + peak.sum((1, 2))
        # Lost rows get no gradient here; 1 keeps their unused numbers finite.
        totals = totals.masked_fill(totals <= torch.finfo(totals.dtype).tiny, 1.0)
        ctx.save_for_backward(kernel, start, emission, messages, totals, lost)
        return value.masked_fill(lost, -torch.inf)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kernel, start, emission, messages, totals, lost = ctx.saved_tensors
        gradient = grads[0].masked_fill(lost, 0.0)[:, None]
        # ahead[i] = Pr(what follows i | zᵢ) and reach[i] = e·ahead/c, so that
        # messages·ahead is the posterior of zᵢ.
        ahead, reach = torch.empty_like(emission), emission / totals
        ahead[-1] = 1
        for i in range(emission.shape[0] - 1, 0, -1):
            reach[i].mul_(ahead[i])
            ahead[i - 1] = torch.bmm(kernel[:, i - 1], reach[i][:, :, None])[:, :, 0]
        posterior = messages * ahead
        # d/dlogit[a, b] = α(a)·K[a, b]·(reach(b) − Σ_b K[a, b]·reach(b)).
        earlier = (messages[:-1] * gradient).transpose(0, 1)[..., None]
        spread = reach[1:].transpose(0, 1)[..., None, :] - ahead[:-1].transpose(0, 1)[..., None]
        grad_transition = spread.mul_(kernel).mul_(earlier)
        grad_initial = gradient * (posterior[0] - start)
        return grad_initial, grad_transition, (posterior * gradient).transpose(0, 1)
