"""States of one noised sequence at several times: what joint conditional matching looks at.

Times are a (K, B) tensor, in any order within a column; the states that come back are in the same
order. However they are drawn, the states of one row are a draw of the whole path, so that a rule
may pick one of them by looking at those of later times (a stopping time of the reverse chain).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.objective.intermediate import roll_down
from fewjump.objective.known import Given
from fewjump.process import Process
from fewjump.random import Generator

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def forward_path(
    process: Process, x0: Tensor, times: Tensor, generator: Generator = None
) -> Tensor:
    """Noise (B, L) data up through the times: exact draws of the path, (K, B, L)."""
    order = times.argsort(dim=0, stable=True)

    def step(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return process.corrupt(x, before, after, generator)

    return _walk(step, x0, torch.zeros_like(times[0]), times, order)


def bridge_path(
    process: Process,
    law: Law,
    x_t: Tensor,
    t: Tensor,
    times: Tensor,
    generator: Generator = None,
) -> Tensor:
    """The law's own exact reverse path from x_t: one x₀ ~ law, then bridges: (K, B, L).

    Args:
        process: the forward process.
        law: p(x₀|x_t).
        x_t: (B, L) int64.
        t: (B,) its time.
        times: (K, B), none later than ``t``.
        generator: see :mod:`fewjump.random`.
    """
    x0 = law.sample(generator)

    def step(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return process.bridge(x, x0, after, before, generator)

    return _walk(step, x_t, t, times, times.argsort(dim=0, descending=True, stable=True))


def rollout_path(
    teacher: Denoiser,
    x_t: Tensor,
    t: Tensor,
    times: Tensor,
    steps: int,
    generator: Generator = None,
    given: Given | None = None,
) -> Tensor:
    """The teacher's ancestral path from x_t, ``steps`` equal steps to each next time: (K, B, L)."""

    def step(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return roll_down(teacher, x, before, after, steps, generator, given)

    return _walk(step, x_t, t, times, times.argsort(dim=0, descending=True, stable=True))


def _walk(step: Step, x: Tensor, start: Tensor, times: Tensor, order: Tensor) -> Tensor:
    ordered = times.gather(0, order)
    states = []
    for time in ordered:
        x = step(x, start, time)
        states.append(x)
        start = time
    back = order.argsort(0)[..., None].expand(-1, -1, x.shape[1])
    return torch.stack(states).gather(0, back)
