"""Every sampler, for the law tests."""

from __future__ import annotations

from fewjump.sampler import (
    Ancestral,
    Confidence,
    EntropyBounded,
    Euler,
    FirstHitting,
    FlowMatching,
    HeldLatent,
    Psi,
    ReMDM,
    Sampler,
    Scaled,
    TauLeaping,
    ThetaRK2,
    ThetaTrapezoidal,
)
from laws.registry import Registry

SAMPLER_CASES: Registry[Sampler] = Registry(Sampler, "fewjump.sampler")
SAMPLER_CASES.add(Euler, Euler)
SAMPLER_CASES.add(TauLeaping, TauLeaping)
SAMPLER_CASES.add(Ancestral, Ancestral)
SAMPLER_CASES.add(Ancestral, lambda: Ancestral(2), "Ancestral-blocks")
SAMPLER_CASES.add(Scaled, Scaled)
SAMPLER_CASES.add(Scaled, lambda: Scaled(base="euler"), "Scaled-euler")
SAMPLER_CASES.add(FirstHitting, FirstHitting)
SAMPLER_CASES.add(FirstHitting, lambda: FirstHitting(2), "FirstHitting-blocks")
SAMPLER_CASES.add(FlowMatching, FlowMatching)
SAMPLER_CASES.add(HeldLatent, HeldLatent)
SAMPLER_CASES.add(ThetaTrapezoidal, ThetaTrapezoidal)
SAMPLER_CASES.add(ThetaTrapezoidal, lambda: ThetaTrapezoidal(0.3), "ThetaTrapezoidal-0.3")
SAMPLER_CASES.add(ThetaRK2, ThetaRK2)
SAMPLER_CASES.add(ThetaRK2, lambda: ThetaRK2(0.3), "ThetaRK2-0.3")
SAMPLER_CASES.add(ThetaRK2, lambda: ThetaRK2(1.0), "ThetaRK2-1")
SAMPLER_CASES.add(EntropyBounded, EntropyBounded)
SAMPLER_CASES.add(EntropyBounded, lambda: EntropyBounded(0.0, "peak"), "EntropyBounded-peak")
SAMPLER_CASES.add(EntropyBounded, lambda: EntropyBounded(0.6, "margin"), "EntropyBounded-margin")
SAMPLER_CASES.add(Confidence, Confidence)
SAMPLER_CASES.add(Confidence, lambda: Confidence("entropy"), "Confidence-entropy")
SAMPLER_CASES.add(Confidence, lambda: Confidence("token", 0.7), "Confidence-noisy")
SAMPLER_CASES.add(Confidence, lambda: Confidence("token", 0.7, 2), "Confidence-blocks")
SAMPLER_CASES.add(ReMDM, ReMDM)
SAMPLER_CASES.add(ReMDM, lambda: ReMDM(1.0), "ReMDM-most")
SAMPLER_CASES.add(ReMDM, lambda: ReMDM(0.3, "rescale"), "ReMDM-rescale")
SAMPLER_CASES.add(Psi, Psi)
SAMPLER_CASES.add(Psi, lambda: Psi(0.4, 0.8, 0.2), "Psi-0.4")
