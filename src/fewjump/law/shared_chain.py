"""A hidden chain over positions with one transition matrix: hundreds of states at a small price."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.law.base import Law, nucleus
from fewjump.law.chain import ChainLaw
from fewjump.law.emission import Emission
from fewjump.law.field_filter import (
    draw_field_paths,
    field_log_total,
    field_marginals,
    field_messages,
)
from fewjump.law.tokens import at_least_float32
from fewjump.random import Generator, uniform


class SharedChainLaw(Law):
    """p(x₀|x_t) = Σ_z p(z) Πᵢ eᵢ(x₀ⁱ|zⁱ), p(z) ∝ Πᵢ exp(potentialᵢ(zⁱ)) Πᵢ exp(A(zⁱ, zⁱ⁺¹)).

    A linear-chain conditional random field (Lafferty et al. 2001) over hidden states: the matrix A
    is one for all positions and rows, and x_t enters through the potentials and the emissions. The
    law of a hidden Markov chain given independently noised tokens has exactly this form, with the
    chain's own A whatever x_t says.

    Against :class:`~fewjump.law.chain.ChainLaw`, whose transitions are a matrix of their own at
    every position: time is L·r² for the whole batch in matrix products, memory L·r.

    :meth:`sample` draws the path from left to right, then all tokens at once. :meth:`tempered`
    sharpens the first state, each p(zⁱ⁺¹|zⁱ) and each emission; with a nucleus (``top_p`` < 1) the
    transitions are written out, (B, L−1, r, r). Against a product target the cross-entropy has no
    closed form; the base class's one-draw estimate is unbiased.

    Args:
        potential: (B, L, r) log-weights; −inf marks states that cannot be.
        transition: (r, r) log-weights A; the last axis is the later state.
        emission: what a state says about its token.
    """

    def __init__(self, potential: Tensor, transition: Tensor, emission: Emission) -> None:
        self.emission = emission
        self.batch_size, self.length = emission.batch_size, emission.length
        self.states, self.vocab_size = emission.states, emission.vocab_size
        shape = (self.batch_size, self.length, self.states)
        if potential.shape != shape:
            raise ValueError(
                f"potential must be (B, L, r) = {shape} to match the emission, "
                f"got {tuple(potential.shape)}"
            )
        if transition.shape != (self.states, self.states):
            raise ValueError(
                f"transition must be (r, r) = ({self.states}, {self.states}) to match the "
                f"emission, got {tuple(transition.shape)}"
            )
        dtype = torch.promote_types(potential.dtype, transition.dtype)
        self.potential = at_least_float32(potential).to(dtype)
        self.transition = at_least_float32(transition).to(dtype)

    @property
    def device(self) -> torch.device:
        return self.potential.device

    def log_prob(self, x0: Tensor) -> Tensor:
        seen = self.potential + self.emission.log_likelihood(x0)
        joint = field_log_total(seen, self.transition.to(seen.dtype))
        return joint - field_log_total(self.potential, self.transition)

    def state_marginals(self) -> Tensor:
        """Pr(zⁱ = ·|x_t): (B, L, r)."""
        return field_marginals(self.potential, self.transition)

    def marginals(self) -> Tensor:
        return self.emission.marginals(self.state_marginals())

    def sample_states(self, generator: Generator = None) -> Tensor:
        """Draw the hidden path: (B, L) int64."""
        u = uniform((self.batch_size, self.length), generator, self.device)
        potential = self.potential.detach()
        # Rows that are views of one are summed up once.
        alike = self.batch_size > 1 and potential.stride(0) == 0
        return draw_field_paths(potential[:1] if alike else potential, self.transition.detach(), u)

    def sample(self, generator: Generator = None) -> Tensor:
        return self.emission.sample(self.sample_states(generator), generator)

    def _ahead(self) -> Tensor:
        """Log-weight of a state and all that follows: what a step chooses by, (B, L, r)."""
        return self.potential + field_messages(self.potential, self.transition)

    def explicit(self) -> ChainLaw:
        """The same law with every p(zⁱ⁺¹|zⁱ) written out, (B, L−1, r, r)."""
        ahead = self._ahead()
        steps = self.transition + ahead[:, 1:, None, :]
        impossible = (steps == -torch.inf).all(-1, keepdim=True)
        return ChainLaw(ahead[:, 0], steps.masked_fill(impossible, 0.0), self.emission)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> Law:
        if temperature == 1 and top_p == 1:
            return self
        if top_p < 1 or temperature == 0:
            return self.explicit().tempered(temperature, top_p)
        # p(z'|z) ∝ exp((A(z, z') + ahead(z'))/τ): a field again, whose potentials take back the
        # normaliser of every conditional.
        ahead = nucleus(self._ahead(), temperature, top_p)
        transition = nucleus(self.transition, temperature, top_p)
        peak = ahead.amax(-1, keepdim=True)
        peak = torch.where(peak.isfinite(), peak, 0.0)
        height = transition.amax()
        reach = ((ahead - peak).exp() @ (transition - height).exp().T).log() + peak + height
        later = torch.cat([reach[:, 1:], torch.zeros_like(reach[:, :1])], 1)
        # A state that leads nowhere is never entered.
        potential = torch.where(later == -torch.inf, -torch.inf, ahead - later)
        return SharedChainLaw(potential, transition, self.emission.tempered(temperature, top_p))

    def select(self, rows: Tensor) -> SharedChainLaw:
        return SharedChainLaw(self.potential[rows], self.transition, self.emission.select(rows))

    def _expanded(self, batch_size: int) -> SharedChainLaw:
        potential = self.potential.expand(batch_size, -1, -1)
        return SharedChainLaw(potential, self.transition, self.emission.expand(batch_size))

    def given(self, x0: Tensor, known: Tensor) -> SharedChainLaw:
        """Exact: the evidence multiplies the potentials, and known positions are pinned.

        Tokens that no state allows leave their position's potentials as they are.
        """
        safe = torch.where(known, x0, 0)
        evidence = self.emission.log_likelihood(safe).masked_fill(~known[..., None], 0.0)
        impossible = (evidence == -torch.inf).all(-1, keepdim=True)
        potential = self.potential + torch.where(impossible, 0.0, evidence)
        return SharedChainLaw(potential, self.transition, self.emission.pinned(x0, known))
