"""What a denoiser says of pure noise, asked before anything is drawn: of what kind its laws are."""

from __future__ import annotations

import torch

from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.law import Law
from fewjump.sampler.base import Sampler


@torch.no_grad()
def prior_law(denoiser: Denoiser, length: int, sampler: Sampler | None = None) -> Law:
    """The law of one sequence of noise at t = 1; the evaluation is not counted.

    Args:
        denoiser: put in eval mode meanwhile.
        length: L.
        sampler: whose view of the denoiser is asked (:meth:`fewjump.sampler.Sampler.opened`).
    """
    counted = denoiser.evaluations
    generator = torch.Generator(denoiser.device).manual_seed(0)
    with eval_mode(denoiser):
        noise = denoiser.process.prior_sample((1, length), generator, denoiser.device)
        law = (denoiser if sampler is None else sampler.opened(denoiser))(noise, 1.0)
    denoiser.evaluations = counted
    return law


def check_product(denoiser: Denoiser, length: int | None = None) -> None:
    """Raise ValueError for a denoiser of joint laws, to which no grid can be fitted.

    Args:
        denoiser: any.
        length: L; the denoiser's by default.
    """
    length = denoiser.length if length is None else length
    if length is None:
        raise ValueError("this denoiser has no length of its own; pass length=, or x0=")
    if not prior_law(denoiser, length).independent:
        raise ValueError(
            "a grid is fitted to what drawing positions independently loses, and this denoiser "
            "draws them jointly; fit the grid of its teacher, or use another"
        )
