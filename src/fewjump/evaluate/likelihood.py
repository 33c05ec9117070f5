"""How likely a few-step sampler is to produce given sequences: no judge, exact at one step."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.random import SampleStreams, draw_seed
from fewjump.sampler.reverse import posterior
from fewjump.sampler.time_grid import GridSpec, times_for


@torch.no_grad()
def one_evaluation_nlls(
    denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """−log p(x₀) under what one evaluation at pure noise samples, nats per token: (N,) float64.

    Exact for every law whose :meth:`~fewjump.law.base.Law.log_prob` is (a normal latent has a
    bound). Under a process whose noise is not one state, it is the likelihood given one draw of the
    noise for each sequence: on average an upper bound. Kept tokens, such as padding, are given.

    Args:
        denoiser: whose law at t = 1 is asked.
        x0: (N, L) clean sequences.
        generator: of the noise; by default one with seed 0.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    x0, counted = x0.to(denoiser.device), denoiser.evaluations
    total = []
    with eval_mode(denoiser):
        for rows in x0.split(256):
            noise = denoiser.process.noise_for(rows, generator)
            if denoiser.process.absorbing and not denoiser.process.kept:
                # All rows are masks: the law is one.
                noise = noise[:1]
            law = denoiser(noise, 1.0)
            if len(noise) < len(rows):
                law = law.expand(len(rows))
            total.append(-law.log_prob(rows).double() / x0.shape[1])
    denoiser.evaluations = counted
    return torch.cat(total)


def one_evaluation_nll(
    denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None
) -> tuple[float, float]:
    """Mean of :func:`one_evaluation_nlls` over sequences, and half of its 95% interval.

    A proper score: less is better, it sees missing variety as well as bad quality, and unseen
    data tell a law that generalises from one that has learned its training set by heart.

    Raises:
        ValueError: for fewer than two sequences, which have no interval.
    """
    if len(x0) < 2:
        raise ValueError(f"an interval needs at least 2 sequences, got {len(x0)}")
    each = one_evaluation_nlls(denoiser, x0, generator)
    return float(each.mean()), 1.96 * float(each.std()) / len(x0) ** 0.5


@torch.no_grad()
def path_bound(
    denoiser: Denoiser,
    x0: Tensor,
    steps: int | None,
    grid: GridSpec | None = None,
    generator: torch.Generator | int | None = 0,
    *,
    batch_size: int = 256,
) -> Tensor:
    """A bound on −log p(x₀) under K ancestral steps, nats for each sequence: (N,) float64.

    With x₀ known, a path is drawn down from the prior by the bridge, and each interval costs what
    the sampler's step differs from the bridge by:

        −log p(x₀) ≤ E [ Σ_k Σᵢ KL(q(x_sⁱ|x_tⁱ, x₀ⁱ) ‖ p(x_sⁱ|x_t)) − log p(x₀|x_t) ]

    over the intervals that end above 0 and, in the last term, the last positive time, from which
    the sampler draws x₀. This negative ELBO of the *discretised* chain holds for any network. One
    path is drawn for each sequence; at one step under masks there is only one, and the bound is
    −log p(x₀) itself.

    Args:
        denoiser: of product laws.
        x0: (N, L) int64 clean sequences, best unseen ones.
        steps: K, or None with times in ``grid``.
        grid: as for :func:`fewjump.sample`; it must end at 0.
        generator: a seed (0 by default), a generator that one seed is drawn from, or None. The
            path of sequence n depends on the seed, n and the grid alone: two denoisers of one
            process are compared on the same paths.
        batch_size: sequences at once.

    Raises:
        ValueError: for joint laws that do not condition exactly or are not under masks, laws
            recovered from ratios, a process that keeps tokens, or a grid that does not end at 0.
    """
    process, device = denoiser.process, denoiser.device
    times = times_for(grid, steps, denoiser, x0.shape[1]).to(device)
    if float(times[-1]) != 0:
        raise ValueError(f"the grid must end at 0, where x₀ is; got {times.tolist()}")
    if process.kept:
        raise ValueError("tokens that the process keeps are given, not generated: no bound on them")
    seed, counted = draw_seed(generator), denoiser.evaluations
    out = []
    with eval_mode(denoiser):
        for rows in torch.arange(len(x0)).split(batch_size):
            clean = x0[rows].to(device)
            streams = SampleStreams(seed, rows.to(device))
            x = process.prior_sample(clean.shape, streams, device)
            total = torch.zeros(len(rows), dtype=torch.float64, device=device)
            for k in range(len(times) - 1):
                t, s = times[k].expand(len(rows)), times[k + 1].expand(len(rows))
                law = denoiser(x, t)
                tractable = law.independent or (process.absorbing and law.conditions_exactly)
                if not tractable or law.scores is not None:
                    raise ValueError(
                        "the bound is of samplers that move positions independently by a network's "
                        "posterior, and under masks of joint laws that condition exactly; this "
                        f"denoiser's is a {type(law).__name__}, or recovered from ratios"
                    )
                if k == len(times) - 2:
                    total -= law.log_prob(clean).double()
                    break
                if law.independent:
                    bridge = process.bridge_marginals(x, clean, s, t)
                    step = process.reverse_marginals(posterior(law, process), x, s, t)
                    total += (torch.xlogy(bridge, bridge) - torch.xlogy(bridge, step)).sum((1, 2))
                    x = process.bridge(x, clean, s, t, streams)
                    continue
                before, x = x, process.bridge(x, clean, s, t, streams)
                rest = law.given(clean, x != before).log_prob(clean)
                own = law.log_prob(clean)
                # What cannot be costs infinity, whatever is left of it.
                total -= torch.where(own == -torch.inf, own, own - rest).double()
            out.append(total.cpu())
    denoiser.evaluations = counted
    return torch.cat(out)
