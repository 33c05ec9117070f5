"""Ways to draw the intermediate state x_s of conditional matching, given x_t or before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law, row_chunks
from fewjump.law.product import ProductLaw
from fewjump.objective.known import Given
from fewjump.process import Process, RankOne
from fewjump.process.base import expand_time
from fewjump.process.rank_one import look_up
from fewjump.random import Generator, categorical, invert_cdf, uniform, uniform_where


class EulerDraw(NamedTuple):
    """A state (B, L) int64, and the probability above 1 that each position's step had (B, L)."""

    x_s: Tensor
    clipped_mass: Tensor


def euler_draw(
    process: Process, law: Law, x_t: Tensor, s: Tensor, t: Tensor, generator: Generator = None
) -> EulerDraw:
    """One Euler step of the reverse chain (paper Eq. 11): Pr(x → y) = (t−s)·σ(t)·Q[y, x]·r_y.

    Where these sum to more than 1 they are scaled down to 1 and the position always moves, as the
    originals do; the excess is reported. A rank-one process costs one pass over the vocabulary for
    the positions that take a token from the law, and nothing for the others.

    Args:
        process: the forward process.
        law: p(x₀|x_t); its marginals are used.
        x_t: (B, L) int64.
        s, t: (B,) float64, s ≤ t.
        generator: see :mod:`fewjump.random`.
    """
    if isinstance(process, RankOne):
        product = law if isinstance(law, ProductLaw) else ProductLaw(law.marginals().log())
        return _euler_rank_one(process, product, x_t, s, t, generator)
    marginals, clipped = euler_marginals(process, law.marginals(), x_t, s, t)
    return EulerDraw(categorical(marginals, generator), clipped)


def euler_marginals(
    process: Process, posterior: Tensor, x_t: Tensor, s: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """The table that :func:`euler_draw` draws from, (B, L, V), and the clipped mass (B, L)."""
    ratios = process.ratios_from_posterior(posterior, x_t, t)
    gap = expand_time(t - s, x_t)[..., None].to(ratios.dtype)
    index = x_t[..., None]
    leaving = (process.reverse_rates(ratios, x_t, t) * gap).scatter(-1, index, 0.0)
    total = leaving.sum(-1, keepdim=True)
    table = leaving / total.clamp(min=1.0)
    table = table.scatter(-1, index, (1 - total).clamp(min=0.0))
    return table, (total[..., 0] - 1).clamp(min=0.0)


def _euler_rank_one(
    process: RankOne, law: ProductLaw, x_t: Tensor, s: Tensor, t: Tensor, generator: Generator
) -> EulerDraw:
    # With w = p/P[·, x] and r = α·w + β·Σw the step is a mixture: for y ≠ x,
    # Pr(x → y) = (t−s)·(data·p(y) + other·m(y)), m = β/(1−α) (see ReverseCoefficients).
    scale = expand_time(t - s, x_t)
    redrawn = process.redrawn(0.0, t, x_t.device)
    data, prior, prior_self = process.rate_coefficients(x_t, t)
    p_x = law.token_log_prob(x_t).double().exp()
    toward_data = scale * data * (1 - p_x)
    other = prior * (1 - p_x) + prior_self * p_x
    toward_prior = scale * other * (1 - look_up(redrawn, x_t))
    total = toward_data + toward_prior
    u = uniform(x_t.shape, generator, x_t.device) * total.clamp(min=1.0)
    to_data = u < toward_data
    to_prior = (u < total) & ~to_data
    x_s = torch.where(to_prior, _draw_redrawn_except(redrawn, x_t, generator), x_t)
    x_s[to_data] = _draw_law_except(law, x_t, to_data, generator)
    return EulerDraw(x_s, (total - 1).clamp(min=0.0))


def _draw_redrawn_except(redrawn: Tensor, x: Tensor, generator: Generator) -> Tensor:
    """Draws from a law, (V,) or (B, V), restricted to tokens other than ``x``: of its shape."""
    cumulative = redrawn.cumsum(-1)
    at = look_up(redrawn, x)
    u = uniform(x.shape, generator, x.device) * (1 - at)
    u = u + torch.where(u >= look_up(cumulative, x) - at, at, 0.0)
    if cumulative.dim() == 1:
        out = torch.searchsorted(cumulative, u, right=True)
    else:
        rows = u.reshape(u.shape[0], -1)
        out = torch.searchsorted(cumulative, rows, right=True).reshape(u.shape)
    return out.clamp_(max=redrawn.shape[-1] - 1)


def _draw_law_except(law: ProductLaw, x: Tensor, where: Tensor, generator: Generator) -> Tensor:
    """Draws from the law restricted to tokens other than ``x``, at the True positions: (N,)."""
    u = uniform_where(where, generator)
    rows = where.reshape(-1).nonzero()[:, 0]
    table, tokens = law.rows, x.reshape(-1)
    out = torch.empty(rows.shape[0], dtype=torch.int64, device=x.device)
    for part in row_chunks(rows.shape[0], law.vocab_size):
        piece = table.index_select(0, rows[part])
        piece = piece.to(torch.promote_types(piece.dtype, torch.float32))
        piece = piece.scatter(-1, tokens[rows[part], None], -torch.inf)
        out[part] = invert_cdf((piece - piece.amax(-1, keepdim=True)).exp_(), u[part])
    return out


def ancestral_draw(
    process: Process, law: Law, x_t: Tensor, s: Tensor, t: Tensor, generator: Generator = None
) -> Tensor:
    """The law's own exact reverse step: x₀ ~ law, then x_s ~ q(x_s|x_t, x₀). (B, L) int64.

    For a product law each position follows ``reverse_marginals``, independently of the others.
    """
    return process.bridge(x_t, law.sample(generator), s, t, generator)


def roll_down(
    denoiser: Denoiser,
    x: Tensor,
    start: Tensor,
    end: Tensor,
    steps: int,
    generator: Generator,
    given: Given | None = None,
) -> Tensor:
    """Run a denoiser from times ``start`` to ``end`` (B,) in equal ancestral steps: (B, L).

    ``given`` positions are clean in every state.
    """
    for k in range(steps):
        later = start + (end - start) * (k / steps)
        earlier = start + (end - start) * ((k + 1) / steps)
        x = ancestral_draw(denoiser.process, denoiser(x, later), x, earlier, later, generator)
        x = x if given is None else given.pin(x)
    return x
