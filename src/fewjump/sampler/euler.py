"""The paper's sampler: one Euler step of the reverse chain."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.sampler.base import Moves, Sampler
from fewjump.sampler.moves import JumpMove
from fewjump.sampler.reverse import reverse_rates


class Euler(Sampler):
    """Pr(xⁱ → y) = (t − s)·σ(t)·Q[y, xⁱ]·r_y for y ≠ xⁱ; each position independently.

    Where these sum to more than 1 the position leaves for certain, to y in proportion; the excess
    is reported as clamped mass.
    """

    name: ClassVar[str] = "euler"
    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "arXiv 2512.12889, Eq. 11"

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        rates = reverse_rates(denoiser(x_t, t), denoiser.process, x_t, t)
        yield JumpMove(x_t, rates, t - s, "linear")
