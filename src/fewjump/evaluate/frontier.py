"""Rows of results, and quality at matched entropy.

A sampler that repeats itself pleases every judge. So samplers are compared where their variety
is equal: each is run at several temperatures, and its NLL is read off the curve at the entropy of
the data (arXiv 2606.08417).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fewjump.evaluate.bootstrap import Interval, bootstrap, combine
from fewjump.report import Row, read_results, write_results

__all__ = [
    "FrontierPoint",
    "Row",
    "as_result",
    "bootstrap",
    "combine",
    "quality_at_entropy",
    "read_results",
    "sweep",
    "write_results",
]

TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2)


@dataclass(frozen=True)
class FrontierPoint:
    """One sampler at one temperature: its samples' entropy and quality."""

    temperature: float
    entropy: Interval
    quality: Interval


def sweep(
    measure: Callable[[float], tuple[Interval, Interval]],
    temperatures: Sequence[float] = TEMPERATURES,
) -> list[FrontierPoint]:
    """Points of a frontier: ``measure(temperature)`` gives (entropy, quality)."""
    return [FrontierPoint(t, *measure(t)) for t in temperatures]


def quality_at_entropy(points: Sequence[FrontierPoint], entropy: float) -> Interval:
    """Quality where the frontier has the given entropy, by linear interpolation.

    Between the two neighbours in entropy. Each replicate is weighted as the values are and then
    brought to the entropy along the slope of the values, so that the interval holds the uncertainty
    of both quantities. (A replicate's own slope is a ratio of noise where two temperatures have
    nearly the same entropy; that the slope is not known exactly matters to second order.)

    Args:
        points: at least two temperatures, with equal numbers of replicates.
        entropy: in the unit of the points.

    Raises:
        ValueError: for fewer than two points, or an entropy outside of theirs, naming the range.
    """
    if len(points) < 2:
        raise ValueError("a frontier needs runs at two temperatures at least")
    ordered = sorted(points, key=lambda p: p.entropy.value)
    low, high = ordered[0].entropy.value, ordered[-1].entropy.value
    if not low <= entropy <= high:
        raise ValueError(
            f"entropy {entropy:.4g} is outside the frontier's {low:.4g}..{high:.4g}: add "
            f"{'lower' if entropy < low else 'higher'} temperatures"
        )
    above = next(i for i, p in enumerate(ordered) if p.entropy.value >= entropy and i > 0)
    left, right = ordered[above - 1], ordered[above]
    gap = right.entropy.value - left.entropy.value
    # Two temperatures of equal entropy: their mean.
    share = (entropy - left.entropy.value) / gap if gap else 0.5
    slope = (right.quality.value - left.quality.value) / gap if gap else 0.0

    def between(start: Interval, end: Interval) -> tuple[float, Tensor]:
        replicates = (1 - share) * start.replicates + share * end.replicates
        return (1 - share) * start.value + share * end.value, replicates

    value, qualities = between(left.quality, right.quality)
    _, entropies = between(left.entropy, right.entropy)
    replicates = qualities - slope * (entropies - entropy)
    return Interval.from_replicates(value, replicates, left.quality.confidence)


def as_result(
    interval: Interval,
    metric: str,
    model: str,
    sampler: str = "",
    steps: int | None = None,
    nfe: float | None = None,
    seconds: float | None = None,
) -> Row:
    """An interval as a row of ``results.json``; without ``nfe`` it is a reference."""
    return Row(
        model=model,
        sampler=sampler,
        steps=steps,
        nfe=nfe,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        seconds=seconds,
    )
