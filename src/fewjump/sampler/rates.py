"""Reverse rates, read row by row so that a position that does not jump costs nothing.

For a process that resets to a prior π the rate of x → y (y ≠ x) of the time-reversed chain, and
the probability of x → y of an exact reverse step, have one form (METHOD section 2.3):

    data·p(y) + (prior·(1 − p(x)) + prior_self·p(x))·π_y

with p the posterior of x₀ at that position. Both are decreasing in p(x), so the value at p(x) = 0
bounds them without reading a row of the network's output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fewjump.law import Law, ProductLaw
from fewjump.process import Process, ResetToPrior
from fewjump.process.reset import ReverseCoefficients


class RowRates(NamedTuple):
    """Rates out of the current token, for N positions.

    Attributes:
        weights: (N, V) proportional to the rates; 0 at the current token.
        total: (N,) float64, the sum of the rates.
        negative: (N,) float64, total of the rates that came out below zero and were set to 0;
            None where that cannot happen.
    """

    weights: Tensor
    total: Tensor
    negative: Tensor | None = None


class Rates(ABC):
    """Rates x → y for every position of a batch.

    Attributes:
        bound: (B, L) float64, at least the total rate out of each position.
        vocab_size: number of states V.
    """

    bound: Tensor
    vocab_size: int

    @abstractmethod
    def rows(self, index: Tensor) -> RowRates:
        """The rates of the positions ``index`` (N,), counted row-major over (B, L)."""

    def values(self, index: Tensor) -> Tensor:
        """The rates themselves, (N, V), 0 at the current token."""
        weights, total, _ = self.rows(index)
        mass = weights.sum(-1, dtype=torch.float64)
        scale = torch.where(mass > 0, total / torch.where(mass > 0, mass, 1.0), 0.0)
        return weights * scale[:, None].to(weights.dtype)


class ResetRates(Rates):
    """The closed form above, from logits.

    Args:
        logits: (B, L, V) of p(x₀|x_t).
        x: (B, L) int64.
        coefficients: data, prior and prior_self, each broadcastable to (B, L), float64.
        prior: (V,) float64.
    """

    def __init__(
        self, logits: Tensor, x: Tensor, coefficients: ReverseCoefficients, prior: Tensor
    ) -> None:
        self.logits = logits.reshape(-1, logits.shape[-1])
        self.vocab_size = logits.shape[-1]
        self.x = x.reshape(-1)
        self.prior = prior.to(logits.device)
        self.prior_x = self.prior[self.x]
        self.prior_spreads = bool((prior > 0).sum() > 1)
        # A token that the prior cannot produce was never redrawn: it is the clean one.
        movable = (self.prior_x > 0).reshape(x.shape)
        self.data, self.toward, self.toward_self = (
            torch.where(movable, c, 0.0).reshape(-1) for c in coefficients
        )
        self.bound = (self.data + self.toward * (1 - self.prior_x)).reshape(x.shape)

    def rows(self, index: Tensor) -> RowRates:
        logits = self.logits[index]
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
        here = self.x[index][:, None]
        at = weights.gather(-1, here)[:, 0].double()
        weights.scatter_(-1, here, 0.0)
        elsewhere = weights.sum(-1, dtype=torch.float64)
        mass = elsewhere + at
        data = self.data[index]
        toward = (self.toward[index] * elsewhere + self.toward_self[index] * at) / mass
        through_prior = toward * (1 - self.prior_x[index])
        if self.prior_spreads:
            weights.mul_(data[:, None].to(weights.dtype))
            share = (toward * mass)[:, None].to(weights.dtype)
            weights.addcmul_(share, self.prior.to(weights.dtype))
            weights.scatter_(-1, here, 0.0)
        return RowRates(weights, data * elsewhere / mass + through_prior)


class DenseRates(Rates):
    """Rates given as a table, for processes without a closed form.

    Args:
        table: (B, L, V) float64; the entry at the current token is ignored.
        x: (B, L) int64.
    """

    def __init__(self, table: Tensor, x: Tensor) -> None:
        table = table.scatter(-1, x[..., None], 0.0)
        self.bound = table.sum(-1)
        self.vocab_size = table.shape[-1]
        self.table = table.reshape(-1, table.shape[-1])

    def rows(self, index: Tensor) -> RowRates:
        table = self.table[index]
        return RowRates(table, table.sum(-1))


class CombinedRates(Rates):
    """(c₁·first + c₂·second)₊, entry by entry.

    Args:
        first, second: the rates combined.
        c1: number.
        c2: number, or (B, L) float64.
        x: (B, L) int64, the state the jumps start from: its entries become 0.
    """

    def __init__(
        self, first: Rates, c1: float, second: Rates, c2: float | Tensor, x: Tensor
    ) -> None:
        self.first, self.second, self.x = first, second, x.reshape(-1)
        self.vocab_size = first.vocab_size
        self.c1 = torch.full_like(first.bound, c1)
        self.c2 = torch.zeros_like(first.bound) + c2
        self.bound = self.c1.clamp(min=0) * first.bound + self.c2.clamp(min=0) * second.bound

    def rows(self, index: Tensor) -> RowRates:
        rates = self.first.values(index)
        rates = rates * self.c1.reshape(-1)[index][:, None].to(rates.dtype)
        c2 = self.c2.reshape(-1)[index][:, None].to(rates.dtype)
        rates = rates.addcmul_(c2, self.second.values(index))
        rates.scatter_(-1, self.x[index][:, None], 0.0)
        negative = -rates.clamp(max=0).sum(-1, dtype=torch.float64)
        rates.clamp_(min=0)
        return RowRates(rates, rates.sum(-1, dtype=torch.float64), negative)


def posterior_logits(law: Law, process: Process) -> Tensor:
    """Logits of the law's one-position marginals over all states of the process: (B, L, V)."""
    logits = law.logits if isinstance(law, ProductLaw) else law.marginals().log()
    missing = process.vocab_size - law.vocab_size
    return pad(logits, (0, missing), value=-torch.inf) if missing else logits


def posterior(law: Law, process: Process) -> Tensor:
    """The law's one-position marginals over all states of the process: (B, L, V) float64."""
    return posterior_logits(law, process).double().softmax(-1)


def reverse_rates(law: Law, process: Process, x: Tensor, t: Tensor) -> Rates:
    """Rates of the reverse chain at time t, σ(t)·Q[y, x]·r_y (paper Eq. 11), from the law of x₀.

    Rates involve one position at a time, so a joint law enters through its marginals only.
    """
    if not isinstance(process, ResetToPrior):
        ratios = process.ratios_from_posterior(posterior(law, process), x, t)
        return DenseRates(process.reverse_rates(ratios, x, t), x)
    sigma = process.schedule.sigma(t)
    keep, forget = process.schedule.alpha(t), process.schedule.one_minus_alpha(t)
    prior = process.prior().to(x.device)
    from_prior = forget * prior[x]
    likelihood = keep + from_prior
    coefficients = ReverseCoefficients(
        data=(sigma * keep / forget).expand(x.shape),
        prior=sigma.expand(x.shape),
        prior_self=sigma * from_prior / torch.where(likelihood > 0, likelihood, 1.0),
    )
    return ResetRates(posterior_logits(law, process), x, coefficients, prior)


def reverse_step(law: ProductLaw, process: ResetToPrior, x: Tensor, t: Tensor, s: Tensor) -> Rates:
    """Transition probabilities of the exact reverse step t → s, in the form of rates."""
    coefficients = process.reverse_coefficients(x, s, t)
    return ResetRates(posterior_logits(law, process), x, coefficients, process.prior())
