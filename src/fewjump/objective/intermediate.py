"""Draws of the intermediate state x_s of conditional matching, and of whole paths of states.

Every step here is a sampler's (:meth:`fewjump.sampler.Sampler.moves`) with times of each row's own.

Of a **path** the times are a (K, B) tensor, in any order within a column; the states that come back
are in the same order, and those of one row are a draw of the whole path. So a rule may pick one of
them by looking at those of later times (a stopping time of the reverse chain).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.objective.base import Given
from fewjump.process import Process
from fewjump.random import Generator
from fewjump.sampler import Ancestral, Sampler
from fewjump.sampler.base import Move, draw_step


class Evaluated(Denoiser):
    """A denoiser whose law at a first state is there already: it answers once without evaluating.

    Args:
        denoiser: evaluated at later states.
        law: its law at the first.
    """

    def __init__(self, denoiser: Denoiser, law: Law) -> None:
        super().__init__(denoiser.process, denoiser.length, denoiser.clean_vocab_size)
        self._laws = [law]
        # Not a submodule: this one owns no parameters.
        self._denoiser = (denoiser,)
        self.take_after(denoiser)

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return self._laws.pop() if self._laws else self._denoiser[0](x_t, t)


@torch.no_grad()
def draw_earlier(
    sampler: Sampler,
    denoiser: Denoiser,
    x_t: Tensor,
    s: Tensor,
    t: Tensor,
    generator: Generator = None,
    law: Law | None = None,
    given: Given | None = None,
) -> tuple[Tensor, Tensor]:
    """x_s by one step of a sampler from x_t.

    Args:
        sampler: whose step it is.
        denoiser: evaluated as often as the sampler says, once less where ``law`` is given.
        x_t: (B, L) int64.
        s, t: (B,) float64, s ≤ t.
        generator: see :mod:`fewjump.random`.
        law: the denoiser's law at x_t, without gradients.
        given: positions that stay clean.

    Returns:
        x_s (B, L), and the probability that the step's formula asked for and could not have, ()
        float64, a mean over positions: totals above 1, negative rates.
    """
    clamped = torch.zeros((), dtype=torch.float64, device=x_t.device)

    def watch(move: Move) -> None:
        if move.clamped is not None:
            clamped.add_(move.clamped)

    model = denoiser if law is None else Evaluated(denoiser, law)
    pin = None if given is None else given.pin
    return draw_step(sampler.moves(model, x_t, t, s), generator, pin, watch), clamped


def roll_down(
    denoiser: Denoiser,
    x: Tensor,
    start: Tensor,
    end: Tensor,
    steps: int,
    generator: Generator,
    given: Given | None = None,
) -> Tensor:
    """Run a denoiser from times ``start`` to ``end`` (B,) in equal ancestral steps: (B, L).

    ``given`` positions are clean in every state.
    """
    for k in range(steps):
        later = start + (end - start) * (k / steps)
        earlier = start + (end - start) * ((k + 1) / steps)
        x, _ = draw_earlier(Ancestral(), denoiser, x, earlier, later, generator, given=given)
    return x


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
