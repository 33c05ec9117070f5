"""From a law of x₀ to the rates of the reverse chain, and to its exact step in their form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fewjump.denoiser.score_law import ScoreLaw
from fewjump.law import Law, LinearLaw, ProductLaw
from fewjump.law.linear_table import LinearTable
from fewjump.process import Process
from fewjump.process.bridge import ReverseCoefficients
from fewjump.process.kernel import expand_time
from fewjump.sampler.rates import DenseRates, Rates
from fewjump.sampler.reset_rates import ResetRates


def posterior_logits(law: Law, process: Process) -> Tensor | LinearTable:
    """Logits of the law's one-position marginals over all states of the process: (B, L, V).

    Under an absorbing process they hold at masked positions only. Those of a deferred law stay
    deferred, as (B·L, V).
    """
    if isinstance(law, LinearLaw) and law.vocab_size == process.vocab_size:
        return law.rows
    logits = law.open_logits if isinstance(law, ProductLaw) else law.marginals().log()
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
    if _by_ratios(law, process):
        return DenseRates(process.reverse_rates(_ratios(law), x, t), x)
    coefficients = process.rate_coefficients(x, t)
    if coefficients is None:
        ratios = process.ratios_from_posterior(posterior(law, process), x, t)
        return DenseRates(process.reverse_rates(ratios, x, t), x)
    return _reset_rates(law, process, x, t, coefficients)


def reverse_step(
    law: ProductLaw, process: Process, x: Tensor, t: Tensor, s: Tensor
) -> Rates | None:
    """Transition probabilities of the exact reverse step t → s, in the form of rates.

    From ratios this is SEDD's own analytic step: where an imperfect network's table has an entry
    below zero, that entry is 0 here, and never drawn there. None where the kernels are not the
    identity plus rank one.
    """
    bridge = process.bridge_to(x, s, t)
    if bridge.coefficients is None:
        return None
    if _by_ratios(law, process):
        closed = process.posterior_from_ratios(_ratios(law).double(), x, t)
        return DenseRates(bridge.reverse_marginals(closed).clamp(min=0), x)
    return _reset_rates(law, process, x, t, bridge.coefficients)


def _by_ratios(law: Law, process: Process) -> bool:
    """Whether steps need every ratio of the law's. Under a mask their sums are enough."""
    recovered = isinstance(law, ProductLaw) and law.has_ratios
    return recovered and not process.absorbing


def _ratios(law: Law) -> Tensor:
    assert isinstance(law, ProductLaw)
    assert law.ratios is not None
    return law.ratios


def _reset_rates(
    law: Law,
    process: Process,
    x: Tensor,
    t: Tensor,
    coefficients: ReverseCoefficients,
) -> Rates:
    if isinstance(law, ProductLaw) and law.has_ratios:
        mass = _clean_mass(law, process, x, t)
        coefficients = coefficients._replace(data=coefficients.data * mass)
    return ResetRates(posterior_logits(law, process), x, coefficients)


def _clean_mass(law: ProductLaw, process: Process, x: Tensor, t: Tensor) -> Tensor:
    """By what the normalised law is to be multiplied for the closed form under a mask, whose clean
    part sums to more or less than 1 where scores are imperfect: (B, L) float64."""
    if isinstance(law, ScoreLaw):
        return law.mass
    ratios = _ratios(law).double()
    total = ratios.sum(-1) - ratios[..., [process.mask, *process.kept]].sum(-1)
    mass = torch.expm1(expand_time(process.schedule.sigma_bar(t).double(), x)) * total
    return torch.where(x == process.mask, mass, 1.0)
