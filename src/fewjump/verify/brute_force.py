"""Truth by enumeration: every quantity of the method from full tables over V^L states.

Nothing here uses the formulas that the library uses; the only input is the generator Q and σ̄.
Dense, float64 and slow on purpose: for V^L up to a few hundred states.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.law.base import enumerate_states, ravel
from fewjump.process import Process


def position_kernel(process: Process, s: float, t: float) -> Tensor:
    """exp((σ̄(t) − σ̄(s))·Q) by the matrix exponential: (V, V)."""
    gap = float(process.schedule.level(t)) - float(process.schedule.level(s))
    return torch.linalg.matrix_exp(gap * process.base_rate())


def state_kernel(process: Process, s: float, t: float, length: int) -> Tensor:
    """The kernel of the whole sequence, the Kronecker power of one position's: (S, S)."""
    one = position_kernel(process, s, t)
    whole = one
    for _ in range(length - 1):
        whole = torch.kron(whole, one)
    return whole


@dataclass
class Tables:
    """All laws of one problem at two times s < t, over S = V^L states.

    Attributes:
        states: (S, L) int64.
        law0, law_s, law_t: (S,) the data law and its noised forms.
        posterior_s: (S, S), row x_s: p(x₀ | x_s); posterior_t likewise. Rows of impossible
            states are 0.
        reverse: (S, S), row x_t: p(x_s | x_t).
    """

    states: Tensor
    law0: Tensor
    law_s: Tensor
    law_t: Tensor
    posterior_s: Tensor
    posterior_t: Tensor
    reverse: Tensor

    @property
    def possible(self) -> Tensor:
        """(S,) boolean: the states that p_t can reach."""
        return self.law_t > 0


def tables(process: Process, probs: Tensor, s: float, t: float) -> Tables:
    """Enumerate everything for a joint ``probs`` with L axes of size ``process.vocab_size``."""
    length = probs.dim()
    law0 = probs.double().reshape(-1)
    to_s = state_kernel(process, 0.0, s, length)
    to_t = state_kernel(process, 0.0, t, length)
    between = state_kernel(process, s, t, length)
    law_s, law_t = law0 @ to_s, law0 @ to_t
    return Tables(
        states=enumerate_states(process.vocab_size, length),
        law0=law0,
        law_s=law_s,
        law_t=law_t,
        posterior_s=_condition(law0[:, None] * to_s),
        posterior_t=_condition(law0[:, None] * to_t),
        reverse=_condition(law_s[:, None] * between),
    )


def position_marginals(law: Tensor, states: Tensor, vocab_size: int) -> Tensor:
    """Per-position marginals of laws over states: (N, S) → (N, L, V)."""
    hot = torch.nn.functional.one_hot(states, vocab_size).double()
    return torch.einsum("ns,slv->nlv", law, hot)


def ratio_table(law_t: Tensor, states: Tensor, vocab_size: int) -> Tensor:
    """p_t(x with xⁱ→y)/p_t(x) for every state: (S, L, V); 0 where p_t(x) = 0."""
    count, length = states.shape
    neighbours = states[:, None, None, :].expand(count, length, vocab_size, length).clone()
    index = torch.arange(length)
    neighbours[:, index, :, index] = torch.arange(vocab_size).expand(length, count, vocab_size)
    numerator = law_t[ravel(neighbours, vocab_size)]
    denominator = law_t[:, None, None]
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-300), 0.0)


def _condition(joint: Tensor) -> Tensor:
    """Joint table (earlier, later) → rows later, conditional on the later state."""
    total = joint.sum(0)
    return torch.where(total > 0, joint / total.clamp(min=1e-300), 0.0).T.contiguous()
