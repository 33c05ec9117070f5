"""Gradients of E_{x₀~p^φ}[R(x₀, x_u)] for discrete draws: surrogates whose gradient is unbiased.

A surrogate is a tensor whose *gradient* is the estimate; its value means nothing. Rewards are
constants: nothing flows through them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.law.base import Draw
from fewjump.law.log_weights import expectation
from fewjump.law.product import ProductLaw, as_product
from fewjump.process import Process


def leave_one_out(reward: Tensor) -> Tensor:
    """Reward minus the mean of the other draws': (S, B) → (S, B), S ≥ 2.

    The other draws are independent of a draw given x_t, so that the baseline costs no bias.
    """
    draws = reward.shape[0]
    return (reward - reward.mean(0)) * (draws / (draws - 1))


def score_surrogate(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """advantage·log p^φ(x₀): ∇ is the score-function estimate (Williams 1992). Any shape."""
    return advantage.detach() * log_prob


def own_posterior(
    law: ProductLaw, x_u: Tensor, u: Tensor, x_t: Tensor, t: Tensor, process: Process
) -> Tensor:
    """p^φ(x₀ⁱ | x_u, x_t) of a product student with its bridge: (B, L, V), a product as well.

    ∝ p^φ(a|x_t)·q(x_u|x_t, a) ∝ p^φ(a|x_t)·P_{u|0}[a, x_u] / P_{t|0}[a, x_t], for each position.
    """
    early, late = process.likelihood(x_u, u), process.likelihood(x_t, t)
    possible = late > 0
    weights = law.marginals().detach() * torch.where(
        possible, early / torch.where(possible, late, 1.0), 0.0
    )
    return weights / weights.sum(-1, keepdim=True)


def expected_surrogate(
    law: ProductLaw, posterior: Tensor, reward: Tensor, baseline: Tensor, scale: Tensor
) -> Tensor:
    """The score-function estimate with x₀ summed out given x_u (Rao–Blackwell): (B,).

    With rewards that add up over positions, R = Σⱼ rⱼ(x₀ʲ, x_u), and x₀|x_u, x_t a product p̃,

      E[∇log p^φ(x₀)·(R − b) | x_u, x_t]
        = Σᵢ Σ_a p̃ᵢ(a)·∇log p^φᵢ(a)·(rᵢ(a) + Σ_{j≠i} E_p̃[rⱼ] − b).

    Args:
        law: p^φ(·|x_t) with gradient.
        posterior: p̃ (B, L, V), see :func:`own_posterior`.
        reward: r (B, L, V).
        baseline: b (B,), independent of x_u given x_t.
        scale: (B,) factor of reward and baseline.
    """
    own = expectation(posterior, reward)
    others = own.sum(-1, keepdim=True) - own - baseline[:, None]
    weight = posterior * (reward + others[..., None]) * scale[:, None, None]
    weight = torch.where(posterior > 0, weight, 0.0).detach()
    log_probs = law.log_probs().masked_fill(weight == 0, 0.0)
    return (weight * log_probs).sum((-1, -2))


class DrawnAt(NamedTuple):
    """Where draws were made: x_t (B, L), t (B,), x_u (S, B, L), u (B,), scale of R (B,), noise."""

    x_t: Tensor
    t: Tensor
    x_u: Tensor
    u: Tensor
    scale: Tensor
    process: Process


@torch.no_grad()
def token_reward(fake: ProductLaw, real: ProductLaw, x0: Tensor, floor: float) -> Tensor:
    """log p^ψ(x₀ⁱ|x_u) − log p^θ(x₀ⁱ|x_u), both floored, constant: (B, L)."""
    low = math.log(floor)
    return fake.token_log_prob(x0).clamp(min=low) - real.token_log_prob(x0).clamp(min=low)


@torch.no_grad()
def table_reward(fake: ProductLaw, real: ProductLaw, floor: float) -> Tensor:
    """:func:`token_reward` of every token: (B, L, V)."""
    low = math.log(floor)
    return fake.log_probs().clamp(min=low) - real.log_probs().clamp(min=low)


def summed_gradient(
    drawn: list[Draw],
    rewards: list[Tensor],
    posteriors: list[Tensor],
    scale: Tensor,
    held: bool = False,
) -> Tensor:
    """Mean over S draws of the surrogates that sum x₀ out given x_u: (B,).

    Args:
        drawn: S draws, each with its law (of the component, for a mixture).
        rewards: r of every token at each draw's x_u, (B, L, V).
        posteriors: p̃ by which tokens are summed out at each draw's x_u, (B, L, V).
        scale: (B,) factor of the rewards.
        held: hold x_u fixed, so that a token earns its own position's reward only. The baseline
            is then what is expected at that x_u, which costs a bias.
    """
    with torch.no_grad():
        mean = torch.stack(
            [expectation(p, r).sum(-1) for p, r in zip(posteriors, rewards, strict=True)]
        )
        advantage = leave_one_out(mean)
        baselines = mean if held else mean - advantage
    surrogates = []
    for one, reward, posterior, base, gain in zip(drawn, rewards, posteriors, baselines, advantage):
        assert one.law is not None
        value = expected_surrogate(as_product(one.law), posterior, reward, base, scale)
        if one.log_choice is not None:
            value = value + score_surrogate(one.log_choice, gain * scale)
        surrogates.append(value)
    return torch.stack(surrogates).mean(0)
