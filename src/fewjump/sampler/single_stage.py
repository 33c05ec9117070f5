"""Samplers of one evaluation a step: the exact reverse step, Euler's, and tau-leaping."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.law.product import as_product
from fewjump.process import Process
from fewjump.sampler.base import Move, Moves, Sampler
from fewjump.sampler.moves import JointReverseMove, JumpMove, PositionwiseMove
from fewjump.sampler.reverse import posterior, reverse_rates, reverse_step


class Ancestral(Sampler):
    """x_s ~ Σ_{x₀} law(x₀)·q(x_s | x_t, x₀).

    For a product law this is, position by position, SEDD's analytic (Tweedie) step and the
    ancestral step of D3PM and MDLM (METHOD section 2.3). For a joint law x₀ is drawn jointly and
    x_s from the bridge: with an exact joint law every number of steps is exact. The order stated
    is that of a product law, whose only error is that positions move independently.
    """

    name: ClassVar[str] = "ancestral"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "arXiv 2512.12889, Eq. 8; SEDD arXiv 2310.16834, Sec. 4.2"

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        yield reverse_move(denoiser(x_t, t), denoiser.process, x_t, t, s)


def reverse_move(law: Law, process: Process, x_t: Tensor, t: Tensor, s: Tensor) -> Move:
    """The exact reverse step t → s of a law, in the cheapest form that applies."""
    if not law.independent:
        return JointReverseMove(law, process, x_t, t, s)
    rates = reverse_step(as_product(law), process, x_t, t, s)
    if rates is not None:
        return JumpMove(x_t, rates, 1.0, "linear")
    return PositionwiseMove(process.reverse_marginals(posterior(law, process), x_t, s, t))


class Euler(Sampler):
    """Pr(xⁱ → y) = (t − s)·σ(t)·Q[y, xⁱ]·r_y for y ≠ xⁱ; each position independently.

    Where these sum to more than 1 the position leaves for certain, to y in proportion; the excess
    is reported as clamped mass.
    """

    name: ClassVar[str] = "euler"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "arXiv 2512.12889, Eq. 11"

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        rates = reverse_rates(denoiser(x_t, t), denoiser.process, x_t, t)
        yield JumpMove(x_t, rates, t - s, "linear")


class TauLeaping(Sampler):
    """Each target y of each position has a Poisson clock of its frozen rate; one ring decides.

    A position leaves with probability 1 − exp(−Λ·(t − s)), Λ the sum of its rates, and goes to y
    in proportion to the rate. (Which of several rings counts does not matter: under frozen rates
    each ring's target has the same law.) Tokens have no sum, so further rings are not added up.
    """

    name: ClassVar[str] = "tau-leaping"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Campbell et al. 2022, arXiv 2205.14987"

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        rates = reverse_rates(denoiser(x_t, t), denoiser.process, x_t, t)
        yield JumpMove(x_t, rates, t - s, "poisson")
