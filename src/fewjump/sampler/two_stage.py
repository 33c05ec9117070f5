"""Samplers of two evaluations a step: the θ-trapezoidal method and θ-RK-2."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.sampler.base import Moves, Sampler
from fewjump.sampler.moves import JumpMove
from fewjump.sampler.rates import CombinedRates
from fewjump.sampler.reverse import reverse_rates


class ThetaTrapezoidal(Sampler):
    """Tau-leap to ρ = t − θΔ, then leap the rest with extrapolated rates.

    Stage 1 leaps from x_t over θΔ with rates μ_t(x_t), to x*. Stage 2 leaps from x* over (1−θ)Δ
    with (α₁·μ_ρ(x*) − α₂·μ_t(x_t))₊, where

        α₁ = 1/(2θ(1−θ)),   α₂ = ((1−θ)² + θ²)/(2θ(1−θ)),   α₁ − α₂ = 1.

    With A_x = Σ_ν μ(x, ν)(T_ν − 1), T_ν = "set position i to y", the two stages agree with the
    exact semigroup 1 + ΔA + Δ²/2·(AA + Ȧ) up to Δ³. At a position that jumped in stage 1 the
    subtracted term is left out: it vanishes to order Δ², and without it no rate is negative there.

    **Clamping.** At the other positions a rate is negative when another position's jump lowered
    it by a factor above α₁/α₂ = 1/((1−θ)² + θ²) ≤ 2 (reached at θ = ½). Where that happens at a
    rate that does not vanish with Δ the method falls back to first order; the runner reports the
    clamped mass.

    Args:
        theta: in (0, 1). ½ clamps least.

    Raises:
        ValueError: for ``theta`` outside (0, 1).
    """

    name: ClassVar[str] = "theta-trapezoidal"
    order: ClassVar[float] = 2
    evaluations: ClassVar[int] = 2
    reference: ClassVar[str] = "Ren et al. 2025, arXiv 2502.00234, Alg. 2"

    def __init__(self, theta: float = 0.5) -> None:
        if not 0 < theta < 1:
            raise ValueError(f"theta must lie in (0, 1), got {theta}; 0.5 is a good choice")
        self.theta = theta

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        theta, gap = self.theta, t - s
        middle = t - theta * gap
        first = reverse_rates(denoiser(x_t, t), denoiser.process, x_t, t)
        x_star = yield JumpMove(x_t, first, theta * gap, "poisson")
        second = reverse_rates(denoiser(x_star, middle), denoiser.process, x_star, middle)
        alpha1 = 1 / (2 * theta * (1 - theta))
        alpha2 = ((1 - theta) ** 2 + theta**2) * alpha1
        subtract = (x_star == x_t).double() * -alpha2
        rates = CombinedRates(second, alpha1, first, subtract, x_star)
        yield JumpMove(x_star, rates, (1 - theta) * gap, "poisson")


class ThetaRK2(Sampler):
    """Tau-leap to x* at ρ = t − θΔ; leap from x_t over Δ with (1 − 1/2θ)·μ_t(x_t) + 1/2θ·μ_ρ(x*).

    **First order.** With A_x = Σ_ν μ(x, ν)(T_ν − 1), T_ν = "set position i to y", starting over
    forgets which jumps stage 1 made. One step then lacks

        Δ²/2·Σ_ν μ(x, ν)(T_ν − 1)(A_{T_ν x} − A_x),

    the correlation of a jump with the change of rates that it causes. The output law and its
    one-position marginals converge at first order. :class:`ThetaTrapezoidal` keeps the jumps and is
    of second order: use it. This one is here to compare.

    Args:
        theta: in (0, 1]. Below ½ the first weight is negative and rates may be clamped; the
            runner reports the clamped mass.

    Raises:
        ValueError: for ``theta`` outside (0, 1].
    """

    name: ClassVar[str] = "theta-rk2"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 2
    reference: ClassVar[str] = "Ren et al. 2025, arXiv 2502.00234, Alg. 1"

    def __init__(self, theta: float = 0.5) -> None:
        if not 0 < theta <= 1:
            raise ValueError(f"theta must lie in (0, 1], got {theta}; 0.5 is a good choice")
        self.theta = theta

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        gap = t - s
        middle = t - self.theta * gap
        first = reverse_rates(denoiser(x_t, t), denoiser.process, x_t, t)
        x_star = yield JumpMove(x_t, first, self.theta * gap, "poisson")
        second = reverse_rates(denoiser(x_star, middle), denoiser.process, x_star, middle)
        weight = 1 / (2 * self.theta)
        rates = CombinedRates(second, weight, first, 1 - weight, x_t)
        yield JumpMove(x_t, rates, gap, "poisson")
