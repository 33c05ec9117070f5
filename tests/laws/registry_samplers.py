"""Every sampler, for the law tests."""

from __future__ import annotations

from fewjump.sampler import (
    Ancestral,
    Euler,
    FirstHitting,
    Sampler,
    TauLeaping,
    ThetaRK2,
    ThetaTrapezoidal,
)
from laws.registry import Registry

SAMPLER_CASES: Registry[Sampler] = Registry(Sampler, "fewjump.sampler")
SAMPLER_CASES.add(Euler, Euler)
SAMPLER_CASES.add(TauLeaping, TauLeaping)
SAMPLER_CASES.add(Ancestral, Ancestral)
SAMPLER_CASES.add(FirstHitting, FirstHitting)
SAMPLER_CASES.add(ThetaTrapezoidal, ThetaTrapezoidal)
SAMPLER_CASES.add(ThetaTrapezoidal, lambda: ThetaTrapezoidal(0.3), "ThetaTrapezoidal-0.3")
SAMPLER_CASES.add(ThetaRK2, ThetaRK2)
SAMPLER_CASES.add(ThetaRK2, lambda: ThetaRK2(0.3), "ThetaRK2-0.3")
SAMPLER_CASES.add(ThetaRK2, lambda: ThetaRK2(1.0), "ThetaRK2-1")
