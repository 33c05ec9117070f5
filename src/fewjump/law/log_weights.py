"""Rows of log-weights: their nucleus, and sums and products in which impossible tokens are safe."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def outside_autocast(
    function: Callable[Concatenate[Tensor, Rest], Result],
) -> Callable[Concatenate[Tensor, Rest], Result]:
    """The function with its products in its tensors' own precision, whatever surrounds the call.

    Normalisers in bfloat16 are no normalisers: probabilities would not sum to one.
    """

    @wraps(function)
    def precise(first: Tensor, /, *args: Rest.args, **options: Rest.kwargs) -> Result:
        if not torch.is_autocast_enabled(first.device.type):
            return function(first, *args, **options)
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **options)

    return precise


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Log-weights after temperature and nucleus truncation, (..., V) → (..., V).

    ``temperature`` 0 keeps the (first) most likely token only.
    """
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature must be ≥ 0 and top_p in (0, 1]; got {temperature} and {top_p}"
        )
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    if temperature != 1:
        logits = logits / temperature
    if top_p == 1:
        return logits
    ordered, index = logits.sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, index, ordered)


def refuse_twice(temperature: float, top_p: float) -> None:
    """Raise ValueError where a law carries these already: they do not compose."""
    if (temperature, top_p) != (1, 1):
        raise ValueError("this law is already tempered; temper the original law instead")


def safe_logsumexp(values: Tensor, dim: int = -1) -> Tensor:
    """logsumexp whose gradient is 0, not NaN, where every term is −inf."""
    peak = values.detach().amax(dim, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0.0)
    total = (values - peak).exp().sum(dim)
    empty = total == 0
    finite = torch.where(empty, 1.0, total).log() + peak.squeeze(dim)
    return finite.masked_fill(empty, -torch.inf)


def safe_log(values: Tensor) -> Tensor:
    """log, with −inf and no gradient at 0."""
    zero = values <= 0
    return values.masked_fill(zero, 1.0).log().masked_fill(zero, -torch.inf)


def expectation(weights: Tensor, values: Tensor) -> Tensor:
    """Σ weights·values over the last axis with 0·(±inf) = 0 (in value and in gradient)."""
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(-1)


def at_least_float32(value: Tensor) -> Tensor:
    """Half-precision tensors as float32; others as they are."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def exponentiated(logits: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logits − row maximum) and the maximum (..., 1), a constant; a row of −inf gives zeros."""
    peak = logits.detach().amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0.0)
    return (logits - peak).exp_(), peak
