"""How likely a one-evaluation sampler is to produce given sequences: exact, and no judge."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser


@torch.no_grad()
def one_evaluation_nlls(
    denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """−log p(x₀) under what one evaluation at pure noise samples, nats per token: (N,) float64.

    Exact for every law whose :meth:`~fewjump.law.base.Law.log_prob` is (a normal latent has a
    bound). Under a process whose noise is not one state, it is the likelihood given one draw of the
    noise for each sequence: on average an upper bound.

    Args:
        denoiser: whose law at t = 1 is asked.
        x0: (N, L) clean sequences.
        generator: of the noise; by default one with seed 0.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    x0 = x0.to(denoiser.device)
    total = []
    for rows in x0.split(256):
        noise = denoiser.process.prior_sample(rows.shape, generator, denoiser.device)
        law = denoiser(noise, torch.ones(len(rows), dtype=torch.float64, device=denoiser.device))
        total.append(-law.log_prob(rows).double() / x0.shape[1])
    return torch.cat(total)


def one_evaluation_nll(
    denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None
) -> tuple[float, float]:
    """Mean of :func:`one_evaluation_nlls` over sequences, and half of its 95% interval.

    A proper score: less is better, it sees missing variety as well as bad quality, and unseen
    data tell a law that generalises from one that has learned its training set by heart.
    """
    each = one_evaluation_nlls(denoiser, x0, generator)
    return float(each.mean()), 1.96 * float(each.std()) / len(x0) ** 0.5
