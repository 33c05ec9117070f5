"""From a law of x₀ to the rates of the reverse chain, and to its exact step in their form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from fewjump.denoiser.masked_law import open_logits
from fewjump.denoiser.score_law import ScoreLaw
from fewjump.law import Law, LinearLaw, ProductLaw
from fewjump.law.linear_table import LinearTable
from fewjump.process import Absorbing, Process, RankOne
from fewjump.process.base import expand_time
from fewjump.process.rank_one import ReverseCoefficients
from fewjump.sampler.rates import DenseRates, Rates
from fewjump.sampler.reset_rates import ResetRates


def posterior_logits(law: Law, process: Process) -> Tensor | LinearTable:
    """Logits of the law's one-position marginals over all states of the process: (B, L, V).

    Under an absorbing process they hold at masked positions only. Those of a deferred law stay
    deferred, as (B·L, V).
    """
    if isinstance(law, LinearLaw) and law.vocab_size == process.vocab_size:
        return law.table
    logits = open_logits(law) if isinstance(law, ProductLaw) else law.marginals().log()
    return _over_all_states(logits, law, process)


def posterior(law: Law, process: Process) -> Tensor:
    """The law's one-position marginals over all states of the process: (B, L, V) float64."""
    logits = law.logits if isinstance(law, ProductLaw) else law.marginals().log()
    return _over_all_states(logits, law, process).double().softmax(-1)


def _over_all_states(logits: Tensor, law: Law, process: Process) -> Tensor:
    missing = process.vocab_size - law.vocab_size
    return pad(logits, (0, missing), value=-torch.inf) if missing else logits


def reverse_rates(law: Law, process: Process, x: Tensor, t: Tensor) -> Rates:
    """Rates of the reverse chain at time t, σ(t)·Q[y, x]·r_y (paper Eq. 11), from the law of x₀.

    Rates involve one position at a time, so a joint law enters through its marginals only. A law
    that was recovered from a network's ratios has those: this is then SEDD's own Euler step.
    """
    scores = _scores_of(law)
    if scores is not None and not isinstance(process, Absorbing):
        return DenseRates(process.reverse_rates(scores(), x, t), x)
    if not isinstance(process, RankOne):
        ratios = process.ratios_from_posterior(posterior(law, process), x, t)
        return DenseRates(process.reverse_rates(ratios, x, t), x)
    coefficients = process.rate_coefficients(x, t)
    if scores is not None:
        coefficients = _with_mass(coefficients, law, process, x, t)
    redrawn = process.redrawn(0.0, t, x.device)
    return ResetRates(posterior_logits(law, process), x, coefficients, redrawn)


def reverse_step(law: ProductLaw, process: RankOne, x: Tensor, t: Tensor, s: Tensor) -> Rates:
    """Transition probabilities of the exact reverse step t → s, in the form of rates.

    From ratios this is SEDD's own analytic step: where an imperfect network's table has an entry
    below zero, that entry is 0 here, and never drawn there.
    """
    scores = _scores_of(law)
    if scores is not None and not isinstance(process, Absorbing):
        closed = process.posterior_from_ratios(scores().double(), x, t)
        return DenseRates(process.reverse_marginals(closed, x, s, t).clamp(min=0), x)
    coefficients = process.reverse_coefficients(x, s, t)
    if scores is not None:
        coefficients = _with_mass(coefficients, law, process, x, t)
    redrawn = process.redrawn(0.0, s, x.device)
    return ResetRates(posterior_logits(law, process), x, coefficients, redrawn)


def _scores_of(law: Law) -> Callable[[], Tensor] | None:
    """What gives the ratios that a law was recovered from; None for other laws."""
    if not isinstance(law, ProductLaw) or not law.has_ratios:
        return None

    def scores() -> Tensor:
        assert law.ratios is not None
        return law.ratios

    return scores


def _with_mass(
    coefficients: ReverseCoefficients, law: Law, process: Process, x: Tensor, t: Tensor
) -> ReverseCoefficients:
    """Coefficients by which the normalised law stands for the closed form under a mask, whose
    clean part sums to more or less than 1 where scores are imperfect."""
    if isinstance(law, ScoreLaw):
        mass = law.mass
    else:
        scores = _scores_of(law)
        assert scores is not None
        ratios = scores().double()
        total = ratios.sum(-1) - ratios[..., [process.mask, *process.kept]].sum(-1)
        mass = torch.expm1(expand_time(process.schedule.sigma_bar(t).double(), x)) * total
        mass = torch.where(x == process.mask, mass, 1.0)
    return coefficients._replace(data=coefficients.data * mass)
