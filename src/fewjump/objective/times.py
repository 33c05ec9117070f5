"""How training draws its times: evenly spread over the batch, and the same for any batch split."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.options.objectives import Weighting
from fewjump.process import Process
from fewjump.random import Generator, SampleStreams, fold_seed, uniform

_GOLDEN = 0.6180339887498949


def spread_uniform(
    batch_size: int, generator: Generator, device: torch.device | str | None = None
) -> Tensor:
    """Float64 uniforms (B,) that cover (0, 1) evenly: frac(u + i·golden ratio), one shared u.

    Each is uniform on its own; together they have low discrepancy, which lowers the variance of
    an average over times (the purpose of antithetic times). With per-sample streams ``i`` is the
    sample's global index, so the draw does not depend on how a batch is split.
    """
    if isinstance(generator, SampleStreams):
        shared = SampleStreams(fold_seed(generator.seed, generator.calls), torch.zeros(1))
        generator.calls += 1
        start, index = shared.uniform((1,), device), generator.indices.to(device)
    else:
        start = uniform((1,), generator, device)
        index = torch.arange(batch_size, device=device)
    return ((start + index.double() * _GOLDEN) % 1.0).clamp_(min=2.0**-54)


def draw_time_pair(
    batch_size: int,
    generator: Generator,
    device: torch.device | str | None,
    grid: tuple[float, ...] | None,
    min_time: float,
    max_gap: float,
    first: Tensor | None = None,
    second: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Times (s, t), each (B,) float64, with min_time ≤ s < t ≤ 1.

    Without a grid: t uniform on (min_time, 1) and the gap t − s uniform (Algorithm 1). With one:
    t is a grid time other than the last, chosen uniformly, and s lies uniformly between the next
    grid time and t. Gaps never exceed ``max_gap``. ``first`` (B,) takes the place of the spread
    uniforms that t is made of, ``second`` (B,) of those that the gap is made of.
    """
    first = spread_uniform(batch_size, generator, device) if first is None else first
    second = uniform((batch_size,), generator, device) if second is None else second
    if grid is None:
        t = min_time + (1 - min_time) * first
        lowest = torch.full_like(t, min_time)
    else:
        times = torch.tensor(grid, dtype=torch.float64, device=device)
        interval = (first * (len(grid) - 1)).long().clamp_(max=len(grid) - 2)
        t = times[interval]
        lowest = torch.minimum(times[interval + 1].clamp(min=min_time), t)
    lowest = torch.maximum(lowest, t - max_gap)
    return t - (t - lowest) * second, t


def time_weight(weighting: Weighting, process: Process, t: Tensor) -> Tensor:
    """w(t), float64, in the shape of ``t``.

    ``uniform``: 1. ``elbo``: σ·α/(1−α), the rate at which the reverse chain puts data in place;
    for an absorbing process it turns cross-entropy into the ELBO (MDLM). ``sigma``: σ(t).
    """
    if callable(weighting):
        return weighting(t)
    if weighting == "uniform":
        return torch.ones_like(t)
    rate = process.schedule.sigma(t)
    if weighting == "sigma":
        return rate
    return rate * process.schedule.alpha(t) / process.schedule.one_minus_alpha(t)
