"""The sampler of discrete flow matching: what is drawn stays, and nothing is noised again."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.sampler.base import Moves, Sampler
from fewjump.sampler.moves import FlowMove


class FlowMatching(Sampler):
    """x₀ from the law, then x_s that moves as little from x_t as q(x_s | x₀) allows.

    Where noise redraws a token once, from a law that stands still, each position becomes x₀'s with
    probability (α_s − α_t)/(1 − α_t) and otherwise keeps its token: the probability velocity of
    discrete flow matching. Under a mask this is the ancestral step. Under uniform noise the
    ancestral step also redraws tokens on the way; here they stay as they began until they are
    drawn, which students of rectified couplings need (:class:`fewjump.objective.Rectification`).

    **Law.** q(x_s | x₀) is kept given x₀, for every process, so that with an exact joint law every
    number of steps is exact. The order stated is that of a product law.
    """

    name: ClassVar[str] = "flow-matching"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Gat et al. 2024, arXiv 2407.15595; Campbell et al., 2402.04997"

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        yield FlowMove(denoiser(x_t, t), denoiser.process, x_t, t, s)
