"""Samplers by name."""

from __future__ import annotations

from typing import Any

from fewjump.sampler.ancestral import Ancestral
from fewjump.sampler.base import Sampler
from fewjump.sampler.euler import Euler
from fewjump.sampler.first_hitting import FirstHitting
from fewjump.sampler.rk2 import ThetaRK2
from fewjump.sampler.tau_leaping import TauLeaping
from fewjump.sampler.trapezoidal import ThetaTrapezoidal

SAMPLERS: dict[str, type[Sampler]] = {
    sampler.name: sampler
    for sampler in (Euler, TauLeaping, Ancestral, FirstHitting, ThetaTrapezoidal, ThetaRK2)
}


def get_sampler(sampler: str | Sampler, **options: Any) -> Sampler:
    """A sampler from its name and constructor options (such as ``theta``), or the one given.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(sampler, Sampler):
        if options:
            raise ValueError("options go with a name; this sampler is already made")
        return sampler
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; known: {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler](**options)
