"""Training from data: cross-entropy, the exact likelihood bound, and score entropy (SEDD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewjump.config import one_of
from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.inversion import row_chunks
from fewjump.law.base import Law
from fewjump.law.product import as_product
from fewjump.objective.base import Given, Metrics, Objective
from fewjump.objective.time_sampling import spread_uniform, time_weight
from fewjump.options.matching import DataOptions
from fewjump.process import Process
from fewjump.random import Generator, bernoulli
from fewjump.schedule import as_time

ElboWeighting = Literal["uniform", "elbo"]


@dataclass(eq=False)
class DataObjective(Objective, DataOptions):
    """An objective that learns from data, and may show a part of every sequence."""

    needs_teacher = False

    def draw_times(self, first: Tensor) -> Tensor:
        """Times of uniforms (B,)."""
        return self.min_time + (1 - self.min_time) * first

    def noised(
        self, process: Process, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Given, Tensor]:
        """Times t (B,), what stays clean, and x_t (B, L)."""
        t = self.draw_times(spread_uniform(batch.shape[0], generator, batch.device))
        given = Given.draw(self.known, self.known_share, batch, process, generator)
        return t, given, given.pin(process.corrupt(batch, 0.0, t, generator))


@dataclass(eq=False)
class CrossEntropyELBO(DataObjective):
    """Teach a denoiser from clean data: E_t E_{x_t|x₀} w(t)·(−log p(x₀|x_t)).

    Times are uniform and evenly spread over the batch. ``weighting``:

    * ``uniform``: plain cross-entropy, w = 1. Its minimiser is the exact posterior, and it trains
      faster than the bound because no time dominates the variance.
    * ``elbo``: the negative ELBO. For an absorbing process it is cross-entropy with
      w = σ·α/(1−α) = −α'/(1−α) (MDLM, arXiv 2406.07524). For any other process it is the
      rate-matching bound of :func:`rate_divergence`, which costs several (B, L, V) tensors.

    At an absorbing process visible positions carry no loss.

    With ``known`` a part K of every sequence stays clean, and the loss is that of the others given
    it: −log p(x₀ᵁ|x₀ᴷ, x_tᵁ), and with ``elbo`` a bound on −log p(x₀ᵁ|x₀ᴷ). Each position of K
    counts 0 in the mean over positions.

    Attributes:
        weighting: see above.
        min_time, known, known_share: by keyword; see
            :class:`~fewjump.options.matching.DataOptions`.
    """

    weighting: ElboWeighting = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("weighting", self.weighting, get_args(ElboWeighting))

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        process = student.process
        t, given, x_t = self.noised(process, batch, generator)
        law = student(x_t, t)
        if self.weighting == "elbo" and not process.absorbing:
            posterior = given.condition(law).marginals()
            density = given.open(rate_divergence(process, posterior, x_t, batch, t))
            loss = (1 - self.min_time) * density.sum() / batch.numel()
            return loss, {"nelbo": loss.detach()}
        ce, mean = cross_entropy(law, x_t, batch, given)
        return self._weighted(ce, process, t, batch), {"cross_entropy": mean}

    def _weighted(self, ce: Tensor, process: Process, t: Tensor, batch: Tensor) -> Tensor:
        if self.weighting == "elbo":
            weight = time_weight("elbo", process, t)
            ce = ce * weight.to(ce.dtype) * (1 - self.min_time)
        return ce.sum() / batch.numel()


class ScoreEntropy(DataObjective):
    """Denoising score entropy (SEDD, arXiv 2310.16834), a teacher's training through its scores.

    E_t E_{x_t|x₀} Σ_{y≠x} Q_t[y,x]·(s_y − r⁰_y·log s_y + r⁰_y·log r⁰_y − r⁰_y).

    ``s`` are the student's concrete scores: those of its own ``ratios(x_t, t)`` method where it
    has one (a score network), otherwise the ratios that its posterior implies. r⁰ are the ratios
    given x₀. The loss is 0 at best, and the minimiser is the true concrete score. With ``known`` a
    part of every sequence stays clean, and the sum is over the other positions.

    Options by keyword: those of :class:`~fewjump.options.matching.DataOptions`.
    """

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        process = student.process
        t, given, x_t = self.noised(process, batch, generator)
        score = getattr(student, "ratios", None)
        if callable(score):
            student.evaluations += 1
            ratios = score(x_t, as_time(t))
            assert isinstance(ratios, Tensor)
            density = rate_divergence(process, ratios, x_t, batch, t, direct=True)
        else:
            posterior = given.condition(student(x_t, t)).marginals()
            density = rate_divergence(process, posterior, x_t, batch, t)
        density = given.open(density)
        loss = (1 - self.min_time) * density.sum() / batch.numel()
        with torch.no_grad():
            largest = density.detach().max()
        return loss, {"score_entropy": loss.detach(), "largest_density": largest}


def cross_entropy(law: Law, x_t: Tensor, x0: Tensor, given: Given) -> tuple[Tensor, Tensor]:
    """−log p(x₀|x_t) in nats, over the positions that are neither visible nor given.

    Args:
        law: p(x₀|x_t), with gradients.
        x_t, x0: (B, L) int64.
        given: positions that are left out.

    Returns:
        The sum of each sequence, (B,), and the mean over positions: those that carry loss for a
        product law, all for a joint one.
    """
    if not law.independent:
        ce = -given.condition(law).log_prob(x0)
        return ce, ce.detach().sum() / x0.numel()
    rows = given.asked(x_t)
    each = as_product(law).token_cross_entropy(x0, rows)
    total = torch.zeros(x0.shape[0], dtype=each.dtype, device=each.device)
    total = total.index_add(0, rows // x0.shape[1], each)
    return total, each.detach().sum() / max(1, rows.shape[0])


def rate_divergence(
    process: Process,
    model: Tensor,
    x_t: Tensor,
    x0: Tensor,
    t: Tensor,
    direct: bool = False,
) -> Tensor:
    """Density over t of the path KL between the true and the model's reverse chain: (B, L).

    Σ_{y≠x} Q_t[y,x]·(r_y − r⁰_y·log r_y + r⁰_y·log r⁰_y − r⁰_y) with r⁰ the ratios given x₀ and r
    the model's (Campbell et al. 2022; SEDD's score-entropy ELBO, arXiv 2310.16834, Eq. 4).
    Integrated over t it is the bound's main term. Rows are taken in chunks of the batch, and
    recomputed in the backward pass, so that temporaries stay bounded.

    Args:
        process: any.
        model: (B, L, V) the model's p(x₀ⁱ|x_t), or with ``direct`` its concrete scores.
        x_t, x0: (B, L) int64, where x_t can be reached from x₀.
        t: (B,).
    """
    parts = []
    width = x_t.shape[1] * process.vocab_size
    for part in row_chunks(x_t.shape[0], width):
        inputs = (process, model[part], direct, x_t[part], x0[part], t[part])
        if model.requires_grad and torch.is_grad_enabled():
            parts.append(checkpoint(_rate_divergence, *inputs, use_reentrant=False))
        else:
            parts.append(_rate_divergence(*inputs))
    return torch.cat(parts)


def _rate_divergence(
    process: Process, model: Tensor, direct: bool, x_t: Tensor, x0: Tensor, t: Tensor
) -> Tensor:
    index = x_t[..., None]
    certain = torch.zeros_like(model).scatter_(-1, x0[..., None], 1.0)
    true = process.ratios_from_posterior(certain, x_t, t)
    true = process.reverse_rates(true, x_t, t).scatter(-1, index, 0.0)
    ratios = model if direct else process.ratios_from_posterior(model, x_t, t)
    rates = process.reverse_rates(ratios, x_t, t).scatter(-1, index, 0.0)
    # 0·log 0 = 0, and no gradient through a logarithm that is not used.
    used = true > 0
    log_true = torch.where(used, true, 1.0).log()
    log_rates = torch.where(used, rates, 1.0).log()
    return (rates - true + true * (log_true - log_rates)).sum(-1)


def prior_divergence(process: Process, x0: Tensor) -> Tensor:
    """KL(P_{1|0}(·|x₀) ‖ π) summed over positions, in nats: (B,)."""
    kernel = process.kernel(0.0, 1.0)
    start = process.prior().clamp(min=1e-300).log().to(x0.device)
    each = -kernel.row_entropies().to(x0.device) - kernel.pull(start[None])[0].to(x0.device)
    # A kept token is where the chain starts too.
    return torch.where(process.is_kept(x0), 0.0, each[x0]).sum(-1)


@torch.no_grad()
def nelbo(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    num_times: int = 16,
    min_time: float = 1e-4,
    generator: Generator = None,
) -> Tensor:
    """Upper bound on −log p(x₀) of the continuous-time model, an unbiased estimate: (B,) nats.

    Absorbing: ∫₀¹ du/u · E[Σ_masked −log p(x₀ⁱ|x_u)] over the masked fraction u = 1 − α (MDLM),
    which needs no prior term: it is the bound of the chain that starts fully masked. Times beyond
    the schedule's end are evaluated at t = 1. Other processes: E −log p(x₀|x_{min_time}) +
    ∫ rate divergence dt from ``min_time`` to 1 + KL(p_{1|0}‖π).

    Args:
        denoiser: the model; evaluated ``num_times`` times on the whole batch.
        x0: (B, L) int64 clean tokens.
        num_times: draws of t per sequence, stratified.
        min_time: where the reconstruction term takes over (processes other than absorbing).
        generator: see :mod:`fewjump.random`.
    """
    if not 0 < min_time < 1:
        raise ValueError(f"min_time must lie in (0, 1), got {min_time}")
    if num_times < 1:
        raise ValueError(f"num_times must be at least 1, got {num_times}")
    process = denoiser.process
    with eval_mode(denoiser):
        total = torch.zeros(x0.shape[0], dtype=torch.float64, device=x0.device)
        for k in range(num_times):
            u = (spread_uniform(x0.shape[0], generator, x0.device) + k) / num_times
            if process.absorbing:
                where = bernoulli(u[:, None].expand(x0.shape), generator) & ~process.is_kept(x0)
                total += masked_density(denoiser, x0, where, u)
                continue
            t = min_time + (1 - min_time) * u
            x_t = process.corrupt(x0, 0.0, t, generator)
            density = rate_divergence(process, denoiser(x_t, t).marginals(), x_t, x0, t)
            total += (1 - min_time) * density.sum(-1)
        total /= num_times
        if process.absorbing:
            return total
        first = torch.full((x0.shape[0],), min_time, dtype=torch.float64, device=x0.device)
        x_first = process.corrupt(x0, 0.0, first, generator)
        reconstruction = -denoiser(x_first, first).log_prob(x0)
        return total + reconstruction + prior_divergence(process, x0)


def masked_density(denoiser: Denoiser, x0: Tensor, where: Tensor, u: Tensor) -> Tensor:
    """(1/u)·Σ_{masked} −log p(x₀ⁱ|x_u) for given masks ``where`` (B, L) and u (B,): (B,)."""
    process = denoiser.process
    if process.mask is None or not process.absorbing:
        raise ValueError(f"masked_density needs an Absorbing process, got {process!r}")
    x_t = x0.masked_fill(where, process.mask)
    # α = 1 − u; the schedule's own end caps the time a network is asked about.
    law = denoiser(x_t, process.schedule.time_of_alpha((1 - u).clamp(min=1e-300)))
    nll = -as_product(law).token_log_prob(x0)
    return torch.where(where, nll, 0.0).double().sum(-1) / u
