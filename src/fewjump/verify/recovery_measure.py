"""How exact recovery from ratios is: every process, vocabulary, precision and method, against α.

One position with a known law p(x₀): its ratios p_t(y)/p_t(x) are exact, so that whatever recovery
returns can be compared with the posterior by Bayes' rule. No network is in it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewjump.process import Process
from fewjump.schedule import LogLinear
from fewjump.verify.recovery_cases import (
    ALPHAS,
    DENSE,
    METHODS,
    NOISY_ALPHA,
    SOURCES,
    Case,
    Source,
    make_case,
)
from fewjump.verify.verdicts import half_width

# Vocabularies above these are measured at the first seed alone.
_DEAR_DENSE, _DEAR_STRUCTURED = 512, 1 << 14
_SPREAD = math.sqrt(2 / math.pi)  # E|z| of a standard normal z.


def measure(
    families: Sequence[str],
    vocab_sizes: Sequence[int],
    seeds: Sequence[int],
    threshold: float,
    dense_limit: int,
) -> list[dict[str, Any]]:
    """One row for each family, vocabulary, source and method.

    ``l1`` holds E‖p̂ − p‖₁ at each of ``alpha`` (None where recovery was refused because the kernel
    is singular in float64), ``condition`` the condition number, ``predicted`` what 1/α predicts,
    ``break_alpha`` where the error passes ``threshold`` (mean over seeds; None if it never does).
    """
    rows = []
    for family in families:
        for vocab_size in vocab_sizes:
            if family in DENSE and vocab_size > dense_limit:
                continue
            dear = vocab_size > (_DEAR_DENSE if family in DENSE else _DEAR_STRUCTURED)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cases = [
                    make_case(family, vocab_size, seed) for seed in (seeds[:1] if dear else seeds)
                ]
            tables = [_curves(case) for case in cases]
            for key in tables[0]:
                rows.append(
                    {"family": family, "vocab_size": vocab_size}
                    | _summary(key, [table[key] for table in tables], threshold)
                )
    return rows


@dataclass
class _Curve:
    """One source and method at one seed."""

    alpha: list[float]
    l1: list[float | None]
    clipped: list[float | None]
    condition: list[float]
    predicted: list[float]


def _curves(case: Case) -> dict[tuple[str, str], _Curve]:
    curves: dict[tuple[str, str], _Curve] = {}
    for alpha in ALPHAS:
        t, x_t, posterior, ratios = case.at(alpha)
        condition = float(case.process.condition_number(t))
        for source in SOURCES:
            if source.noise and alpha < NOISY_ALPHA:
                continue
            given = degrade(ratios, x_t, source, case.generator)
            predicted = predict(case.process, ratios, x_t, t, alpha, relative_error(source))
            iterate = source.iterated and alpha >= NOISY_ALPHA
            for method, l1, clipped in _tries(case.process, given, x_t, t, posterior, iterate):
                curve = curves.setdefault((source.name, method), _Curve([], [], [], [], []))
                curve.alpha.append(alpha)
                curve.l1.append(l1)
                curve.clipped.append(clipped)
                curve.condition.append(condition)
                curve.predicted.append(predicted)
    return curves


def _tries(
    process: Process, ratios: Tensor, x_t: Tensor, t: float, posterior: Tensor, iterate: bool
) -> Iterator[tuple[str, float | None, float | None]]:
    for method in METHODS:
        # Its 200 rounds converge to what the others give where those are right, and are dear.
        if method == "multiplicative" and not iterate:
            continue
        try:
            found = process.recover(ratios, x_t, t, method)
        except ValueError:
            # The kernel is singular in float64.
            yield method, None, None
            continue
        error = (found.posterior.double() - posterior).abs().sum(-1).mean()
        yield method, float(error), float(found.clipped_mass.double().mean())


def degrade(ratios: Tensor, x_t: Tensor, source: Source, generator: torch.Generator) -> Tensor:
    """Ratios as a source gives them; the entry at the current token stays 1."""
    if source.noise:
        error = torch.randn(ratios.shape, generator=generator, dtype=torch.float64)
        ratios = (ratios * (source.noise * error).exp()).scatter(-1, x_t[..., None], 1.0)
    return ratios.to(source.dtype)


def relative_error(source: Source) -> float:
    """Standard deviation of a source's relative error; rounding is uniform in half a unit."""
    if source.noise:
        return source.noise
    return torch.finfo(source.dtype).eps / 2 / math.sqrt(3)


def predict(
    process: Process, ratios: Tensor, x_t: Tensor, t: float, alpha: float, error: float
) -> float:
    """E‖p̂ − p‖₁ if each ratio's relative error is amplified by exactly 1/α: mean over positions.

    p(a) = P[a, x]·w(a) with w ≈ r/α + (what all entries share), so each p(a) moves by
    P[a, x]·r_a·z/α, z the ratio's relative error; the ratio at x itself is 1 by definition.
    """
    weights = process.likelihood(x_t, t) * ratios
    weights = weights.scatter(-1, x_t[..., None], 0.0)
    return _SPREAD * error * float(weights.sum(-1).mean()) / alpha


def break_point(
    alphas: Sequence[float], l1: Sequence[float | None], threshold: float
) -> float | None:
    """The largest α at which the error reaches the threshold, by log-linear interpolation.

    A refusal counts as an error above it. None if every error is below.
    """
    before: tuple[float, float] | None = None
    for alpha, error in zip(alphas, l1):
        if error is None or error >= threshold:
            if before is None or error is None or before[1] <= 0:
                return alpha
            a, e = before
            share = math.log(threshold / e) / math.log(error / e)
            return math.exp(math.log(a) + share * math.log(alpha / a))
        before = (alpha, error)
    return None


def _summary(key: tuple[str, str], curves: Sequence[_Curve], threshold: float) -> dict[str, Any]:
    first = curves[0]
    breaks = [break_point(c.alpha, c.l1, threshold) for c in curves]
    found = [math.log(b) for b in breaks if b is not None]
    whole = len(found) == len(breaks)
    centre, half = sum(found) / max(1, len(found)), half_width(found) if found else 0.0
    at = math.exp(centre) if whole else None
    return {
        "source": key[0],
        "method": key[1],
        "alpha": first.alpha,
        "l1": _mean([c.l1 for c in curves]),
        "clipped": _mean([c.clipped for c in curves]),
        "condition": _mean([c.condition for c in curves]),
        "predicted": _mean([c.predicted for c in curves]),
        "break_alpha": _short(at),
        "break_low": _short(math.exp(centre - half)) if whole else None,
        "break_high": _short(math.exp(centre + half)) if whole else None,
        "break_time": None if at is None else _short(_log_linear_time(at)),
        "seeds": len(curves),
    }


def _log_linear_time(alpha: float) -> float:
    """Where the usual schedule, α = 1 − (1 − 1e-3)·t, has this α; above 1 it never has."""
    return (1 - alpha) / (1 - LogLinear().eps)


def _mean(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
    out: list[float | None] = []
    for values in zip(*columns):
        known = [v for v in values if v is not None]
        out.append(_short(sum(known) / len(known)) if len(known) == len(values) else None)
    return out


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
