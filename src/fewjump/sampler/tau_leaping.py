"""Tau-leaping: the reverse rates are frozen over the step, the clocks are not."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.sampler.base import Moves, Sampler
from fewjump.sampler.moves import JumpMove
from fewjump.sampler.reverse import reverse_rates


class TauLeaping(Sampler):
    """Each target y of each position has a Poisson clock of its frozen rate; one ring decides.

    A position leaves with probability 1 − exp(−Λ·(t − s)), Λ the sum of its rates, and goes to y
    in proportion to the rate. (Which of several rings counts does not matter: under frozen rates
    each ring's target has the same law.) Tokens have no sum, so further rings are not added up.
    """

    name: ClassVar[str] = "tau-leaping"
    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Campbell et al. 2022, arXiv 2205.14987"

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        rates = reverse_rates(denoiser(x_t, t), denoiser.process, x_t, t)
        yield JumpMove(x_t, rates, t - s, "poisson")
