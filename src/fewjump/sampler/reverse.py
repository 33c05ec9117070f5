"""From a law of x₀ to the rates of the reverse chain, and to its exact step in their form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fewjump.law import DenseLogits, Law, Logits, ProductLaw, Ratios
from fewjump.law.logits import Guidance
from fewjump.law.product import as_product
from fewjump.process import Process
from fewjump.process.bridge import ReverseCoefficients
from fewjump.sampler.guided_rates import (
    Rows,
    guided_rates,
    rows_from_coefficients,
    rows_of_table,
)
from fewjump.sampler.rates import DenseRates, Rates, RatioRates
from fewjump.sampler.reset_rates import ResetRates


def posterior_logits(law: Law, process: Process) -> Logits:
    """Logits of the law's one-position marginals over all states of the process: (B, L, V)."""
    source = as_product(law).source
    if law.vocab_size == process.vocab_size:
        return source
    return DenseLogits(_over_all_states(source.dense(), law, process))


def posterior(law: Law, process: Process) -> Tensor:
    """The law's one-position marginals over all states of the process: (B, L, V) float64."""
    logits = as_product(law).logits
    return _over_all_states(logits, law, process).double().softmax(-1)


def _over_all_states(logits: Tensor, law: Law, process: Process) -> Tensor:
    missing = process.vocab_size - law.vocab_size
    return pad(logits, (0, missing), value=-torch.inf) if missing else logits


def reverse_rates(law: Law, process: Process, x: Tensor, t: Tensor) -> Rates:
    """Rates of the reverse chain at time t, σ(t)·Q[y, x]·r_y (paper Eq. 11), from the law of x₀.

    Rates involve one position at a time, so a joint law enters through its marginals only. A law
    that was recovered from a network's ratios has those: this is then SEDD's own Euler step.
    """
    if (guidance := _guidance(law)) is not None:
        return _guided_rates(guidance, process, x, t)
    ratios = _ratios(law, process)
    if ratios is not None:
        by_ratios = process.rates_by_ratios(x, t)
        if by_ratios is not None:
            return RatioRates(ratios, by_ratios)
        return DenseRates(process.reverse_rates(ratios.dense(), x, t), x)
    coefficients = process.rate_coefficients(x, t)
    if coefficients is None:
        found = process.ratios_from_posterior(posterior(law, process), x, t)
        return DenseRates(process.reverse_rates(found, x, t), x)
    return _reset_rates(law, process, x, coefficients)


def reverse_step(law: ProductLaw, process: Process, x: Tensor, t: Tensor, s: Tensor) -> Rates:
    """Transition probabilities of the exact reverse step t → s, in the form of rates.

    From ratios this is SEDD's own analytic step: where an imperfect network's table has an entry
    below zero, that entry is 0 here, and never drawn there. A table where the kernels are not the
    identity plus rank one.
    """
    bridge = process.bridge_to(x, s, t)
    coefficients = bridge.coefficients
    guidance = _guidance(law)
    if guidance is not None and not process.absorbing:

        def rows(one: ProductLaw) -> Rows:
            if coefficients is None:
                return rows_of_table(bridge.reverse_marginals(posterior(one, process)))
            return rows_from_coefficients(posterior_logits(one, process), x, coefficients, True)

        return guided_rates(
            guidance, x, rows, True, lambda one: reverse_step(one, process, x, t, s)
        )
    if coefficients is None:
        return DenseRates(bridge.reverse_marginals(posterior(law, process)), x)
    ratios = _ratios(law, process)
    if ratios is not None and bridge.by_ratios is not None:
        return RatioRates(ratios, bridge.by_ratios)
    return _reset_rates(law, process, x, coefficients)


def _guided_rates(guidance: Guidance, process: Process, x: Tensor, t: Tensor) -> Rates:
    coefficients = process.rate_coefficients(x, t)

    def rows(one: ProductLaw) -> Rows:
        if coefficients is not None:
            return rows_from_coefficients(posterior_logits(one, process), x, coefficients, False)
        ratios = process.ratios_from_posterior(posterior(one, process), x, t)
        return rows_of_table(process.reverse_rates(ratios, x, t))

    return guided_rates(guidance, x, rows, False, lambda one: reverse_rates(one, process, x, t))


def _guidance(law: Law) -> Guidance | None:
    """The two laws that a guided one is made of."""
    return as_product(law).source.guidance if law.independent else None


def _ratios(law: Law, process: Process) -> Ratios | None:
    """What steps by a law's ratios need of them. Under a mask their sums are enough."""
    return None if law.scores is None or process.absorbing else law.scores.ratios


def _reset_rates(
    law: Law,
    process: Process,
    x: Tensor,
    coefficients: ReverseCoefficients,
) -> Rates:
    if law.scores is not None and law.scores.clean_mass is not None:
        # The clean part of the closed form under a mask sums to more or less than 1 where scores
        # are imperfect; the law is normalised.
        mass = law.scores.clean_mass
        coefficients = coefficients._replace(data=coefficients.data * mass)
    return ResetRates(posterior_logits(law, process), x, coefficients)
