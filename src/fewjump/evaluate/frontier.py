"""Quality at matched entropy.

A sampler that repeats itself pleases every judge. So samplers are compared where their variety
is equal: each is run at several temperatures, and its NLL is read off the curve at the entropy of
the data (arXiv 2606.08417).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import Interval
from fewjump.evaluate.meter import as_result
from fewjump.evaluate.text import TextMeter
from fewjump.report import Row
from fewjump.sampler.base import Sampler
from fewjump.sampler.run import run
from fewjump.sampler.time_grid import GridSpec

TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2)


@dataclass(frozen=True)
class FrontierPoint:
    """One sampler at one temperature: its samples' entropy and quality."""

    temperature: float
    entropy: Interval
    quality: Interval


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


def text_frontier(
    denoiser: Denoiser,
    meter: TextMeter,
    steps: int,
    sampler: str | Sampler = "ancestral",
    num_samples: int | None = None,
    seed: int = 0,
    *,
    model: str = "student",
    grid: GridSpec | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    entropy: float | None = None,
) -> tuple[Row, list[FrontierPoint]]:
    """NLL at matched trigram entropy, from runs at several temperatures.

    Args:
        temperatures: of the runs; they must enclose the target.
        entropy: the target, joint trigram entropy in nats; the test part's by default.
        The others are those of :func:`fewjump.evaluate.quality`.

    Returns:
        The row ``nll_at_matched_entropy``, and the points.

    Raises:
        ValueError: if the target lies outside what the temperatures reach.
    """
    meter.check(denoiser)
    count = meter.num_samples if num_samples is None else num_samples
    if entropy is None:
        entropy = meter.measure(meter.dataset.all("test"))["entropy"].value
    given, runs, points = meter.given(denoiser, count), [], []
    for temperature in temperatures:
        options = {"temperature": temperature, **given}
        result = run(denoiser, count, steps, sampler, grid, seed, **options)
        scores = meter.measure(result.samples, seed)
        points.append(FrontierPoint(temperature, scores["entropy"], scores["nll"]))
        runs.append(result)
    value = quality_at_entropy(points, entropy)
    seconds = sum(result.seconds for result in runs) / len(runs)
    name, nfe = runs[0].sampler, runs[0].nfe
    return as_result(value, "nll_at_matched_entropy", model, name, steps, nfe, seconds), points
