"""The exact reverse step, given the law of x₀."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.law.product import as_product
from fewjump.process import Process
from fewjump.sampler.base import Move, Moves, Sampler
from fewjump.sampler.moves import JointReverseMove, JumpMove, PositionwiseMove
from fewjump.sampler.reverse import posterior, reverse_step


class Ancestral(Sampler):
    """x_s ~ Σ_{x₀} law(x₀)·q(x_s | x_t, x₀).

    For a product law this is, position by position, SEDD's analytic (Tweedie) step and the
    ancestral step of D3PM and MDLM (METHOD section 2.3). For a joint law x₀ is drawn jointly and
    x_s from the bridge: with an exact joint law every number of steps is exact. The order stated
    is that of a product law, whose only error is that positions move independently.
    """

    name: ClassVar[str] = "ancestral"
    order: ClassVar[int] = 1
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
