"""Samplers that noise again what they have drawn, so that an error can still be corrected.

Given x₀ each position moves on its own, by a mixture of the bridge and of fresh noise,

    Ψ(x_s | x_t, x₀) = κ·q(x_s | x_t, x₀) + (1 − κ)·q(x_s | x₀),

whose average over x_t ~ q(x_t | x₀) is q(x_s | x₀) for every κ. With an exact *joint* law every
number of steps is therefore exact, as for the ancestral step (κ = 1).

**With a product law** κ < 1 converges to the data law too, but at order ½ in the number of steps,
where the ancestral step has order 1: a step redraws the share (1 − κ)(1 − α) of the positions
independently of each other. A wrong *network* can be corrected on the way; an exact one only loses.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.sampler.base import Moves, Sampler
from fewjump.sampler.moves import RenoiseMove

Remasking = Literal["cap", "rescale"]


class ReMDM(Sampler):
    """The ancestral step of a mask, which also masks a visible token again with probability σ.

    σ = min(η, σ_max) for ``cap`` and η·σ_max for ``rescale``, σ_max = min(1, (1 − α(s))/α(t)). A
    masked position is then unmasked with probability (α(s) − (1 − σ)·α(t))/(1 − α(t)). This is Ψ
    of the module's docstring with κ = 1 − σ/(1 − α(s)), which may be below 0.

    **Law.** That of the data in any number of steps with an exact joint law; with an exact product
    law for many steps, at order ½ only. η = 0 is ``ancestral``.

    Args:
        eta: η in [0, 1].
        variant: ``cap`` or ``rescale``.

    Raises:
        ValueError: for options outside these.
    """

    name: ClassVar[str] = "remdm"
    order: ClassVar[float] = 0.5
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Wang et al. 2025, arXiv 2503.00307"
    masked_only: bool = True

    def __init__(self, eta: float = 0.05, variant: Remasking = "cap") -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {eta}; 0.05 is a good start")
        if variant not in get_args(Remasking):
            raise ValueError(f"variant must be one of cap, rescale; got {variant!r}")
        self.eta, self.variant = eta, variant

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        schedule = denoiser.process.schedule
        forgotten = schedule.one_minus_alpha(s)
        most = (forgotten / schedule.alpha(t)).clamp(max=1.0)
        sigma = most.clamp(max=self.eta) if self.variant == "cap" else self.eta * most
        # Nothing is masked at s where nothing is forgotten.
        keep = 1 - sigma / torch.where(forgotten > 0, forgotten, 1.0)
        yield RenoiseMove(denoiser(x_t, t), denoiser.process, x_t, t, s, keep)


class Psi(Sampler):
    """Ψ of the module's docstring, for any process: a predictor and a corrector in one step.

    **Law.** That of the data in any number of steps with an exact joint law; with an exact product
    law for many steps, at order ½ only. κ = 1 is ``ancestral``.

    Args:
        kappa: κ in [0, 1].
        start, stop: noise is renewed in steps from a time within [stop, start]; elsewhere κ = 1.

    Raises:
        ValueError: for options outside these.
    """

    name: ClassVar[str] = "psi"
    order: ClassVar[float] = 0.5
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Deschenaux et al. 2026, arXiv 2602.21185"

    def __init__(self, kappa: float = 0.95, start: float = 1.0, stop: float = 0.0) -> None:
        if not 0 <= kappa <= 1:
            raise ValueError(f"kappa must lie in [0, 1], got {kappa}; 1 is the ancestral step")
        if not 0 <= stop <= start <= 1:
            raise ValueError(f"start and stop need 0 ≤ stop ≤ start ≤ 1, got {start} and {stop}")
        self.kappa, self.start, self.stop = kappa, start, stop

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        inside = (t <= self.start) & (t >= self.stop)
        keep = torch.where(inside, self.kappa, torch.ones_like(t))
        yield RenoiseMove(denoiser(x_t, t), denoiser.process, x_t, t, s, keep)
