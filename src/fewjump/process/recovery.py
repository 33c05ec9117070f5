"""From concrete scores to posteriors (paper Eq. 8), with the damage reported.

r = P_{t|0}ᵀ w and p(a) = P_{t|0}[a, x]·w(a). Inverting P_{t|0}ᵀ amplifies an error of the scores by
about 1/α(t): with V = 1000 and 1% noise the L1 error of p is about 0.02 at α = 0.5, 0.08 at 0.1
and 0.8 at 0.01 (METHOD section 3). Below α ≈ 0.05 the closed form is not to be trusted with a
trained score; prefer a teacher that gives posteriors, or a non-negative method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fewjump.schedule import Time

if TYPE_CHECKING:
    from fewjump.process.base import Process

RecoveryMethod = Literal["exact", "clip", "project", "multiplicative"]
MULTIPLICATIVE_ITERATIONS = 200


class Recovery(NamedTuple):
    """Result of :func:`recover`.

    Attributes:
        posterior: (B, L, V). Method ``exact`` returns the closed form as it is: it sums to 1 for
            exact scores, and may hold negative entries otherwise.
        clipped_mass: (B, L) probability that the closed form put below zero.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    posterior: Tensor
    clipped_mass: Tensor
    condition_number: Tensor


def recover(
    process: Process,
    ratios: Tensor,
    x_t: Tensor,
    t: Time,
    method: RecoveryMethod = "exact",
    iterations: int = MULTIPLICATIVE_ITERATIONS,
) -> Recovery:
    """p(x₀|x_t) from concrete scores.

    Args:
        process: the forward process.
        ratios: (B, L, V) concrete scores, 1 at the current token.
        x_t: (B, L) int64.
        t: float or (B,).
        method: ``exact`` (closed form), ``clip`` (negative entries to 0, renormalised),
            ``project`` (Euclidean projection on the simplex), ``multiplicative``
            (Richardson–Lucy iterations, w ≥ 0 throughout).
        iterations: of the multiplicative method.

    Returns:
        The posterior in the dtype of ``ratios`` (computed in float64) and diagnostics.

    Raises:
        ValueError: for an unknown method.
    """
    if method not in get_args(RecoveryMethod):
        raise ValueError(f"unknown method {method!r}; known: {', '.join(get_args(RecoveryMethod))}")
    likelihood = process.likelihood(x_t, t).double()
    closed = likelihood * process.weights_from_ratios(ratios, t)
    clipped = -closed.clamp(max=0).sum(-1)
    if method == "clip":
        closed = normalise(closed.clamp(min=0), likelihood)
    elif method == "project":
        closed = project_to_simplex(closed)
    elif method == "multiplicative":
        start = normalise(closed.clamp(min=0), likelihood)
        closed = _richardson_lucy(process, ratios.double(), start, likelihood, t, iterations)
    return Recovery(closed.to(ratios.dtype), clipped, process.condition_number(t))


def normalise(weights: Tensor, fallback: Tensor) -> Tensor:
    """Rows of ``weights`` divided by their sum; rows of zeros become the normalised fallback."""
    total = weights.sum(-1, keepdim=True)
    empty = total <= 0
    other = fallback / fallback.sum(-1, keepdim=True)
    return torch.where(empty, other, weights / torch.where(empty, 1.0, total))


def project_to_simplex(values: Tensor) -> Tensor:
    """Euclidean projection of the last axis on the probability simplex (Duchi et al. 2008)."""
    ordered = values.sort(-1, descending=True).values
    rank = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    excess = ordered.cumsum(-1) - 1
    support = (ordered * rank > excess).sum(-1, keepdim=True)
    shift = excess.gather(-1, support - 1) / support
    return (values - shift).clamp(min=0)


def _richardson_lucy(
    process: Process,
    ratios: Tensor,
    start: Tensor,
    likelihood: Tensor,
    t: Time,
    iterations: int,
) -> Tensor:
    """Maximise Σ r·log(Pᵀw) − Σ Pᵀw over w ≥ 0; rows of P sum to 1, so no further divisor."""
    possible = likelihood > 0
    # A touch of mass everywhere: a zero could never grow again.
    share = possible / possible.sum(-1, keepdim=True)
    start = 0.99 * start + 0.01 * share
    weights = torch.where(possible, start / torch.where(possible, likelihood, 1.0), 0.0)
    for _ in range(iterations):
        fitted = process.push_weights(weights, t)
        quotient = torch.where(fitted > 0, ratios.clamp(min=0) / fitted.clamp(min=1e-300), 0.0)
        weights = weights * process.pull_weights(quotient, t)
    return normalise(weights * likelihood, likelihood)
