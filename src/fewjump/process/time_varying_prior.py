"""Noise whose prior moves: masks and uniform noise in changing proportions, or any π_t."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fewjump.process.kept import KeepsTokens
from fewjump.process.prior_path import (
    GIDDPriors,
    InterpolatedPriors,
    PriorPath,
    mask_and_uniform,
)
from fewjump.process.sampled_path import SampledPriors
from fewjump.schedule import Schedule, Time, as_time


class TimeVaryingPrior(KeepsTokens):
    """Redraw each position at rate σ(t) from a law π_t that changes with time.

    The generators σ(t)·(1π_tᵀ − I) of different times do not commute, so that the exponential of
    their integral is not the kernel; the kernel is α·I + 1βᵀ all the same, in closed form for the
    paths of :mod:`fewjump.process.prior_path`. Every operation costs O(V).

    Generation starts from :meth:`prior`, the law at t = 1 of a position that was redrawn at all.

    Args:
        path: a :class:`~fewjump.process.prior_path.PriorPath`, or a function that maps times (N,)
            float64 to laws (N, V), which is integrated to ``tolerance``; with a function the
            process works, but cannot be saved.
        schedule: the noise schedule.
        mask: a state that no clean sequence holds, if there is one: denoisers then give it no
            probability, and the last state as mask is not counted among the clean tokens.
        tolerance: of β_{t|s} in the sum of absolute differences; for a function only.
        kept: tokens that are never noised, such as padding; the path must give them nothing.

    Raises:
        ValueError: if the path does not yield laws, or gives some probability to a kept token, or
            the mask is no state.
    """

    def __init__(
        self,
        path: PriorPath | Callable[[Tensor], Tensor],
        schedule: Schedule,
        mask: int | None = None,
        tolerance: float = 1e-10,
        kept: Iterable[int] = (),
    ) -> None:
        if not isinstance(path, PriorPath):
            path = SampledPriors(path, schedule, tolerance)
        if mask is not None and not 0 <= mask < path.vocab_size:
            raise ValueError(f"mask must lie in [0, {path.vocab_size}), got {mask}")
        self.path, self.schedule, self.mask = path, schedule, mask
        self.vocab_size = path.vocab_size
        self._keep_tokens(kept)
        self._limits: dict[torch.device, Tensor] = {}
        if bool((self.prior()[list(self.kept)] > 0).any()):
            raise ValueError(f"the path must give no probability to the kept tokens {self.kept}")

    def __repr__(self) -> str:
        return (
            f"TimeVaryingPrior({type(self.path).__name__}, vocab_size={self.vocab_size}, "
            f"schedule={self.schedule})"
        )

    def config(self) -> dict[str, Any]:
        return {
            "name": "TimeVaryingPrior",
            "path": self.path.config(),
            "mask": self.mask,
            "kept": list(self.kept),
            "schedule": self.schedule.config(),
        }

    def prior_on(self, device: torch.device | str | None = None) -> Tensor:
        where = torch.device("cpu" if device is None else device)
        if where not in self._limits:
            with torch.inference_mode(False):
                self._limits[where] = self.redrawn(0.0, 1.0, where)
        return self._limits[where]

    def redrawn(
        self,
        s: Time,
        t: Time,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        s, t = as_time(s, device).double(), as_time(t, device).double()
        level = self.schedule.level
        return self.path.redrawn(level(s), level(t), self.schedule.between(s, t)).to(dtype)

    def redraws_from(self, t: Time, device: torch.device | str | None = None) -> Tensor:
        return self.path.at(self.schedule.level(as_time(t, device).double()))


def mask_to_uniform(
    vocab_size: int, schedule: Schedule, mask: int | None = None, kept: Iterable[int] = ()
) -> TimeVaryingPrior:
    """Masks near the data, uniform noise over the other tokens later, a straight line between.

    Args:
        vocab_size: number of states V, the mask included.
        schedule: the noise schedule.
        mask: index of the mask; the last state by default.
        kept: tokens that are never noised.
    """
    kept = tuple(kept)
    laws = torch.stack(mask_and_uniform(vocab_size, mask, kept))
    path = InterpolatedPriors(laws)
    return TimeVaryingPrior(path, schedule, _or_last(mask, vocab_size), kept=kept)


def uniform_to_mask(
    vocab_size: int, schedule: Schedule, mask: int | None = None, kept: Iterable[int] = ()
) -> TimeVaryingPrior:
    """Uniform noise over the tokens near the data, masks later; see :func:`mask_to_uniform`."""
    kept = tuple(kept)
    laws = torch.stack(mask_and_uniform(vocab_size, mask, kept)).flip(0)
    path = InterpolatedPriors(laws)
    return TimeVaryingPrior(path, schedule, _or_last(mask, vocab_size), kept=kept)


def gidd(
    vocab_size: int,
    schedule: Schedule,
    peak: float = 0.1,
    mask: int | None = None,
    kept: Iterable[int] = (),
) -> TimeVaryingPrior:
    """GIDD's hybrid: see :class:`~fewjump.process.prior_path.GIDDPriors`."""
    kept = tuple(kept)
    path = GIDDPriors(vocab_size, peak, mask, kept)
    return TimeVaryingPrior(path, schedule, path.mask, kept=kept)


def _or_last(mask: int | None, vocab_size: int) -> int:
    return vocab_size - 1 if mask is None else mask
