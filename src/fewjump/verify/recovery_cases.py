"""What recovery is tried on: a process, a known law of one token, and ratios of some quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.process import (
    Absorbing,
    FixedRate,
    Process,
    RecoveryMethod,
    ResetToPrior,
    Uniform,
    discretised_gaussian_rate,
    rescale_to_gap,
)
from fewjump.random import generator_for
from fewjump.schedule import Linear, Time

METHODS: tuple[RecoveryMethod, ...] = ("exact", "clip", "project", "multiplicative")
#: α = e^−σ̄ at which recovery is tried.
ALPHAS = (
    0.9,
    0.7,
    0.5,
    0.3,
    0.2,
    0.1,
    0.05,
    0.02,
    0.01,
    3e-3,
    1e-3,
    1e-4,
    1e-6,
    1e-8,
    1e-11,
    1e-14,
)
#: Below it noisy ratios say nothing any more, and the iterations cost most.
NOISY_ALPHA = 1e-3
STRUCTURED = ("uniform", "absorbing", "random prior")
DENSE = ("discretised Gaussian", "random rate")


class Source(NamedTuple):
    """Where ratios come from: exact ones in a precision, or with log-normal noise."""

    name: str
    dtype: torch.dtype = torch.float64
    noise: float = 0.0
    iterated: bool = False


class RememberingRate(FixedRate):
    """A fixed rate that keeps its last kernel and condition number: tried many times at one t."""

    def kernel(self, s: Time, t: Time) -> Tensor:
        if getattr(self, "_kernel_at", None) != (s, t):
            self._kernel_at, self._kernel = (s, t), super().kernel(s, t)
        return self._kernel

    def condition_number(self, t: Time) -> Tensor:
        if getattr(self, "_condition_at", None) != t:
            self._condition_at, self._condition = t, super().condition_number(t)
        return self._condition


SOURCES = (
    Source("exact, float64", iterated=True),
    Source("exact, float32", torch.float32),
    Source("exact, bfloat16", torch.bfloat16),
    Source("noise 1%", noise=0.01, iterated=True),
    Source("noise 10%", noise=0.1, iterated=True),
)


@dataclass(frozen=True)
class Case:
    """One position of a process at every α.

    Attributes:
        process: whose schedule is σ̄(t) = 40·t, so that α reaches 4e-18.
        law0: (V,) law of the clean token.
        x_t: (N,) tokens that are conditioned on, drawn anew at each time.
    """

    process: Process
    law0: Tensor
    positions: int
    generator: torch.Generator

    def at(self, alpha: float) -> tuple[float, Tensor, Tensor, Tensor]:
        """t, x_t (1, N), exact posterior (1, N, V), exact ratios (1, N, V)."""
        process = self.process
        t = float(process.schedule.time_of_alpha(alpha))
        noised = process.push_weights(self.law0[None], t)[0]
        if isinstance(process, Absorbing):
            # A visible token is known without recovery.
            x_t = torch.full((1, self.positions), process.mask)
        else:
            x0 = torch.multinomial(self.law0, self.positions, True, generator=self.generator)
            x_t = process.corrupt(x0[None], 0.0, t, self.generator)
        weights = self.law0 * process.likelihood(x_t, t)
        return t, x_t, weights / weights.sum(-1, keepdim=True), noised / noised[x_t][..., None]


def make_process(family: str, vocab_size: int, generator: torch.Generator) -> Process:
    """A process of a family, with the schedule σ̄ = 40·t; rates have a spectral gap of 1.

    Raises:
        ValueError: for an unknown family, or a dense one that does not fit.
    """
    schedule = Linear(40.0)
    if family == "uniform":
        return Uniform(vocab_size, schedule)
    if family == "absorbing":
        return Absorbing(vocab_size, schedule)
    if family == "random prior":
        return ResetToPrior(peaked_law(vocab_size, generator, 0.7), schedule)
    if family == "discretised Gaussian":
        width = max(1.0, vocab_size / 8)
        return RememberingRate(
            rescale_to_gap(discretised_gaussian_rate(vocab_size, width)), schedule
        )
    if family == "random rate":
        rate = torch.rand(vocab_size, vocab_size, generator=generator, dtype=torch.float64) ** 2
        rate.fill_diagonal_(0)
        rate -= torch.diag(rate.sum(-1))
        return RememberingRate(rescale_to_gap(rate), schedule)
    raise ValueError(f"unknown family {family!r}; known: {', '.join(STRUCTURED + DENSE)}")


def peaked_law(vocab_size: int, generator: torch.Generator, exponent: float = 1.2) -> Tensor:
    """A Zipf law over a random order of the tokens: (V,) float64."""
    order = torch.randperm(vocab_size, generator=generator)
    weights = (order.double() + 1) ** -exponent
    return weights / weights.sum()


def make_case(family: str, vocab_size: int, seed: int) -> Case:
    """A process and a Zipf law over its clean tokens; fewer positions for more tokens."""
    generator = generator_for(seed, vocab_size)
    process = make_process(family, vocab_size, generator)
    law0 = peaked_law(vocab_size, generator)
    if isinstance(process, Absorbing):
        law0[process.mask] = 0
        law0 /= law0.sum()
    return Case(process, law0, max(4, min(64, (1 << 18) // vocab_size)), generator)
