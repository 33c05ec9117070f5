"""A hidden Markov law over positions: r^L mixture components at the price of L·r²."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fewjump.law.base import Law, nucleus
from fewjump.law.chain_filter import backward_messages, chain_log_likelihood, state_marginals
from fewjump.law.chain_scan import scan_log_likelihood, scan_state_marginals, scan_states
from fewjump.law.emission import DenseEmission, Emission
from fewjump.law.tokens import at_least_float32
from fewjump.random import Generator, invert_cdf, uniform

ChainMethod = Literal["sequential", "scan"]


class ChainLaw(Law):
    """p(x₀|x_t) = Σ_z p(z¹) Πᵢ p(zⁱ⁺¹|zⁱ) Πᵢ eᵢ(x₀ⁱ|zⁱ), all factors computed from x_t.

    Log-probabilities by the forward algorithm, marginals from the chain's state marginals, samples
    by drawing the path and then every token at once; conditioning on known tokens is exact.
    Where a token is certain (a visible position of an absorbing process) its emission is a point
    mass in every state, and the transitions through that position remain.

    :meth:`tempered` sharpens what :meth:`sample` draws: the first state, each transition, and
    each emission. Against a product target the cross-entropy has no closed form; the base class's
    one-draw estimate is unbiased.

    Args:
        initial: (B, r) logits of the first state.
        transition: (B, L−1, r, r) logits; the last axis is the later state.
        emission: an :class:`Emission`, or (B, L, r, V) logits for a dense one.
        method: ``sequential`` over positions, or ``scan``: logarithmic depth, r times the
            arithmetic (long sequences on an accelerator).
    """

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        emission: Emission | Tensor,
        method: ChainMethod = "sequential",
    ) -> None:
        self.emission = DenseEmission(emission) if isinstance(emission, Tensor) else emission
        self.batch_size, self.length = self.emission.batch_size, self.emission.length
        self.states, self.vocab_size = self.emission.states, self.emission.vocab_size
        self.initial = at_least_float32(initial)
        self.transition = at_least_float32(transition)
        self.method: ChainMethod = method
        self._check()

    def _check(self) -> None:
        batch, length, states = self.batch_size, self.length, self.states
        if self.initial.shape != (batch, states):
            raise ValueError(
                f"initial must be (B, r) = ({batch}, {states}) to match the emission, "
                f"got {tuple(self.initial.shape)}"
            )
        if self.transition.shape != (batch, length - 1, states, states):
            raise ValueError(
                f"transition must be (B, L-1, r, r) = ({batch}, {length - 1}, {states}, {states}) "
                f"to match the emission, got {tuple(self.transition.shape)}"
            )
        if self.method not in get_args(ChainMethod):
            known = ", ".join(get_args(ChainMethod))
            raise ValueError(f"unknown method {self.method!r}; known: {known}")

    @property
    def device(self) -> torch.device:
        return self.initial.device

    def log_prob(self, x0: Tensor) -> Tensor:
        log_emission = self.emission.log_likelihood(x0)
        dtype = torch.promote_types(log_emission.dtype, self.transition.dtype)
        forward = scan_log_likelihood if self.method == "scan" else chain_log_likelihood
        return forward(self.initial.to(dtype), self.transition.to(dtype), log_emission.to(dtype))

    def state_marginals(self) -> Tensor:
        """Pr(zⁱ = ·|x_t): (B, L, r)."""
        forward = scan_state_marginals if self.method == "scan" else state_marginals
        return forward(self.initial, self.transition)

    def marginals(self) -> Tensor:
        return self.emission.marginals(self.state_marginals())

    def sample_states(self, generator: Generator = None) -> Tensor:
        """Draw the hidden path: (B, L) int64. Both methods give the same path."""
        u = uniform((self.batch_size, self.length), generator, self.device)
        state = invert_cdf(self.initial.softmax(-1), u[:, 0])
        if self.method == "scan":
            shape = self.transition.shape[:-1]
            each = u[:, 1:, None].expand(shape).reshape(-1)
            rows = self.transition.reshape(-1, self.states).softmax(-1)
            return scan_states(state, invert_cdf(rows, each).reshape(shape))
        path = [state]
        row = torch.arange(self.batch_size, device=self.device)
        for i in range(self.length - 1):
            state = invert_cdf(self.transition[row, i, state].softmax(-1), u[:, i + 1])
            path.append(state)
        return torch.stack(path, 1)

    def sample(self, generator: Generator = None) -> Tensor:
        states = self.sample_states(generator)
        return self.emission.sample(states, generator)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> ChainLaw:
        if temperature == 1 and top_p == 1:
            return self
        return self._with(
            nucleus(self.initial, temperature, top_p),
            nucleus(self.transition, temperature, top_p),
            self.emission.tempered(temperature, top_p),
        )

    def select(self, rows: Tensor) -> ChainLaw:
        return self._with(self.initial[rows], self.transition[rows], self.emission.select(rows))

    def _expanded(self, batch_size: int) -> ChainLaw:
        return self._with(
            self.initial.expand(batch_size, -1),
            self.transition.expand(batch_size, -1, -1, -1),
            self.emission.expand(batch_size),
        )

    def given(self, x0: Tensor, known: Tensor) -> ChainLaw:
        """Exact: the path is re-weighted by the evidence and known positions are pinned.

        With β the backward messages of the evidence, p(zⁱ⁺¹|zⁱ, evidence) ∝ p(zⁱ⁺¹|zⁱ)·ev·β: the
        conditional is again a chain law. States that contradict the evidence are never entered.
        """
        safe = torch.where(known, x0, 0)
        evidence = self.emission.log_likelihood(safe).masked_fill(~known[..., None], 0.0)
        weight = evidence + backward_messages(self.transition, evidence)
        initial = _revive(self.initial + weight[:, 0])
        transition = _revive(self.transition + weight[:, 1:, None, :])
        return self._with(initial, transition, self.emission.pinned(x0, known))

    def _with(self, initial: Tensor, transition: Tensor, emission: Emission) -> ChainLaw:
        return ChainLaw(initial, transition, emission, self.method)


def _revive(logits: Tensor) -> Tensor:
    """Rows without any possible state (which are never entered) become uniform, not NaN."""
    return logits.masked_fill((logits == -torch.inf).all(-1, keepdim=True), 0.0)
