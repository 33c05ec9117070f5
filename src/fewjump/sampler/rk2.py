"""The θ-RK-2 method: a two-stage Runge–Kutta step that starts over from x_t."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.sampler.base import Moves, Sampler
from fewjump.sampler.moves import JumpMove
from fewjump.sampler.rates import CombinedRates, reverse_rates


class ThetaRK2(Sampler):
    """Tau-leap to x* at ρ = t − θΔ; leap from x_t over Δ with (1 − 1/2θ)·μ_t(x_t) + 1/2θ·μ_ρ(x*).

    Args:
        theta: in (0, 1]. Below ½ the first weight is negative and rates may be clamped; the
            runner reports the clamped mass.

    Raises:
        ValueError: for ``theta`` outside (0, 1].
    """

    name: ClassVar[str] = "theta-rk2"
    order: ClassVar[int] = 1
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
