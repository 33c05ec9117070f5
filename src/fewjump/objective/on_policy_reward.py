"""What on-policy refinement rewards a draw with, and its gradient with x₀ summed out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.law.product import ProductLaw
from fewjump.objective.score_function import (
    Draw,
    expected_reward,
    expected_surrogate,
    leave_one_out,
    own_posterior,
    score_surrogate,
)
from fewjump.process import Process


class Seen(NamedTuple):
    """Where the draws were made: x_t (B, L), t (B,), x_u (S, B, L), u (B,), scale of R (B,)."""

    x_t: Tensor
    t: Tensor
    x_u: Tensor
    u: Tensor
    scale: Tensor


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


def expected_gradient(
    drawn: list[Draw],
    fake: ProductLaw,
    real: ProductLaw,
    seen: Seen,
    process: Process,
    floor: float,
) -> Tensor:
    """Mean over S draws of the surrogates that sum x₀ out given x_u: (B,).

    Args:
        drawn: S draws, each with its law (of the component, for a mixture).
        fake, real: laws of x₀ given x_u, of ψ and of the teacher, draw by draw: (S·B) rows.
        seen: where the draws were made.
        process: the student's.
        floor: probabilities below it count as it.
    """
    size = seen.x_t.shape[0]
    tables, posteriors, means = [], [], []
    with torch.no_grad():
        for number, one in enumerate(drawn):
            assert one.law is not None
            rows = torch.arange(number * size, (number + 1) * size, device=seen.x_t.device)
            reward = table_reward(fake.select(rows), real.select(rows), floor)
            posterior = own_posterior(one.law, seen.x_u[number], seen.u, seen.x_t, seen.t, process)
            tables.append(reward)
            posteriors.append(posterior)
            means.append(expected_reward(posterior, reward).sum(-1))
        mean = torch.stack(means)
        advantage = leave_one_out(mean)
        baselines = mean - advantage
    surrogates = []
    for one, table, posterior, base, gain in zip(drawn, tables, posteriors, baselines, advantage):
        assert one.law is not None
        value = expected_surrogate(one.law, posterior, table, base, seen.scale)
        if one.log_choice is not None:
            value = value + score_surrogate(one.log_choice, gain * seen.scale)
        surrogates.append(value)
    return torch.stack(surrogates).mean(0)
