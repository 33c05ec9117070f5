"""Confidence intervals: by resampling, for any functional of the empirical law, and over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewjump.random import Generator, integers

REPLICATES = 200
_CHUNK_ELEMENTS = 1 << 22
#: 97.5% quantiles of Student's t, by degrees of freedom; above 9 the last one is kept.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Interval:
    """A number with a confidence interval.

    Attributes:
        value: the statistic of the whole sample.
        low, high: ends of the interval.
        replicates: (R,) float64, its values on the resampled samples.
        confidence: of the interval.
    """

    value: float
    low: float
    high: float
    replicates: Tensor = field(repr=False, compare=False)
    confidence: float = 0.95

    @classmethod
    def exact(cls, value: float) -> Interval:
        """A number that is known: its interval has no width."""
        return cls(value, value, value, torch.full((REPLICATES,), value, dtype=torch.float64))

    @classmethod
    def from_replicates(
        cls, value: float, replicates: Tensor, confidence: float = 0.95
    ) -> Interval:
        """The centred percentile interval: value + quantiles of (replicate − mean replicate).

        Resampling doubles the bias by sample size of a Fréchet distance, an entropy or a total
        variation. Centring takes the second part away; the first is in ``value``.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
        tail = (1 - confidence) / 2
        at = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        low, high = torch.quantile(replicates - replicates.mean(), at).tolist()
        return cls(value, value + low, value + high, replicates, confidence)


def bootstrap(
    values: Tensor,
    statistic: Callable[[Tensor, Tensor], Tensor],
    generator: Generator = None,
    n: int = REPLICATES,
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap a statistic over the first axis of ``values`` (Efron 1979).

    Args:
        values: (N, ...) independent items.
        statistic: (values, weights (R, N) float64 with rows summing to 1) → (R,) float64. A
            resampled set is a set of weights; many are evaluated in one call.
        generator: source of the resampling; the same one gives the same interval.
        n: number of resampled sets R.
        confidence: of the interval.

    Returns:
        The statistic at equal weights, with its centred percentile interval.

    Raises:
        ValueError: for fewer than 2 items or 2 replicates.
    """
    items = values.shape[0]
    if items < 2 or n < 2:
        raise ValueError(f"a bootstrap needs at least 2 items and 2 replicates: {items}, {n}")
    equal = torch.full((1, items), 1 / items, dtype=torch.float64, device=values.device)
    value = float(statistic(values, equal)[0])
    rows = max(1, _CHUNK_ELEMENTS // items)
    parts = []
    for start in range(0, n, rows):
        drawn = integers(items, (min(rows, n - start), items), generator, values.device)
        counts = torch.zeros(drawn.shape, dtype=torch.float64, device=values.device)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        parts.append(statistic(values, counts / items).double().cpu())
    return Interval.from_replicates(value, torch.cat(parts), confidence)


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of (N,) values: the statistic of a plain average."""
    return weights @ values.double()


def ratio(values: Tensor, weights: Tensor) -> Tensor:
    """Σ numerator / Σ denominator of (N, 2) values; 0 where the denominator is 0."""
    sums = weights @ values.double()
    return torch.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1].clamp(min=1e-300), 0.0)


def combine(intervals: Sequence[Interval]) -> Interval:
    """The mean of independent runs' values, and its interval.

    Raises:
        ValueError: for no intervals, or different numbers of replicates.
    """
    if not intervals or len({i.replicates.shape for i in intervals}) != 1:
        raise ValueError("combine needs intervals with the same number of replicates, at least one")
    value = sum(i.value for i in intervals) / len(intervals)
    replicates = torch.stack([i.replicates for i in intervals]).mean(0)
    return Interval.from_replicates(value, replicates, intervals[0].confidence)


def over_seeds(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float, float]:
    """Mean of a metric over rows, one per seed, and the ends of its 95% interval.

    The interval is the wider of what the samples' own intervals (``<metric>_low`` and
    ``<metric>_high``) say and Student's t on the seeds.
    """
    values = [row[metric] for row in rows]
    mean = sum(values) / len(values)
    ends = [(row[f"{metric}_low"], row[f"{metric}_high"]) for row in rows]
    sampling = sum(((high - low) / 2) ** 2 for low, high in ends) ** 0.5 / len(values)
    half = max(sampling, half_width(values))
    return mean, mean - half, mean + half


def half_width(values: Sequence[float]) -> float:
    """Half-width of Student's 95% interval of the mean; 0 for a single value."""
    n = len(values)
    if n < 2:
        return 0.0
    mean = sum(values) / n
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return _T[min(n - 1, max(_T))] * (variance / n) ** 0.5
