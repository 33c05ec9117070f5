"""A chain of hidden states over positions: r^L mixture components at the price of L·r²."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fewjump.law.base import SHARED, Batched, Law, at_least_float32, nucleus, safe_log
from fewjump.law.emission import DenseEmission, Emission
from fewjump.law.forward_algorithm import (
    backward_messages,
    draw_paths,
    forward_messages,
    log_total,
    log_vector_product,
    scan_log_total,
    scan_state_marginals,
    scan_states,
    state_marginals,
)
from fewjump.random import Generator, invert_cdf, uniform

ChainMethod = Literal["sequential", "scan"]


@dataclass(eq=False)
class ChainLaw(Law):
    """p(x₀|x_t) = Σ_z p(z) Πᵢ eᵢ(x₀ⁱ|zⁱ), where z is a Markov chain over positions.

    The chain is given in one of two ways. By **conditionals**, as a hidden Markov model is:
    p(z) = softmax(initial)(z¹) Πᵢ softmax(transitionᵢ(zⁱ))(zⁱ⁺¹). Or by **potentials**, as a
    linear-chain conditional random field (Lafferty et al. 2001):
    p(z) ∝ Πᵢ exp(potentialᵢ(zⁱ)) Πᵢ exp(transitionᵢ(zⁱ, zⁱ⁺¹)). The law of a hidden Markov chain
    given independently noised tokens has the second form with the chain's own matrix for all
    positions, whatever x_t says: with one matrix time is L·r² for the whole batch in matrix
    products, and memory L·r, so that hundreds of states are cheap.

    Log-probabilities by the forward algorithm, marginals from the chain's state marginals, samples
    by drawing the path and then every token at once; conditioning on known tokens is exact.
    Where a token is certain (a visible position of an absorbing process) its emission is a point
    mass in every state, and the transitions through that position remain.

    :meth:`tempered` sharpens what :meth:`sample` draws: the first state, each p(zⁱ⁺¹|zⁱ), and each
    emission. Against a product target the cross-entropy has no closed form; the base class's
    one-draw estimate is unbiased.

    Args:
        start: (B, r) logits of the first state, and transitions are logits of conditionals; or
            (B, L, r) potentials, −inf for states that cannot be.
        transition: (B, L−1, r, r), or (r, r) for all; the last axis is the later state.
        emission: what a state says about its token, or (B, L, r, V) logits for a dense one.
        method: ``sequential`` over positions, or ``scan``: logarithmic depth, r times the
            arithmetic (long sequences on an accelerator). Only for conditionals.
    """

    start: Tensor
    transition: Tensor
    emission: Emission
    method: ChainMethod = field(default="sequential", metadata=SHARED)

    def __init__(
        self,
        start: Tensor,
        transition: Tensor,
        emission: Emission | Tensor,
        method: ChainMethod = "sequential",
    ) -> None:
        self.emission = DenseEmission(emission) if isinstance(emission, Tensor) else emission
        self.batch_size, self.length = self.emission.batch_size, self.emission.length
        self.states, self.vocab_size = self.emission.states, self.emission.vocab_size
        dtype = torch.promote_types(start.dtype, transition.dtype)
        self.start, self.transition = (at_least_float32(v.to(dtype)) for v in (start, transition))
        self.method: ChainMethod = method
        self._check()

    def _check(self) -> None:
        batch, length, states = self.batch_size, self.length, self.states
        if self.start.shape not in ((batch, states), (batch, length, states)):
            raise ValueError(
                f"start must be initial logits (B, r) = {(batch, states)} or potentials "
                f"(B, L, r) = {(batch, length, states)} to match the emission, "
                f"got {tuple(self.start.shape)}"
            )
        each = (batch, length - 1, states, states)
        if self.transition.shape not in (each, each[2:]):
            raise ValueError(
                f"transition must be (B, L-1, r, r) = {each} or (r, r) = {each[2:]} to match the "
                f"emission, got {tuple(self.transition.shape)}"
            )
        if self.method not in get_args(ChainMethod):
            known = ", ".join(get_args(ChainMethod))
            raise ValueError(f"unknown method {self.method!r}; known: {known}")
        if self.method == "scan" and not self.conditional:
            raise ValueError("method 'scan' needs initial logits (B, r) and conditionals")

    @property
    def conditional(self) -> bool:
        """Whether the chain is given by conditionals, and not by potentials."""
        return self.start.dim() == 2

    def _batched(self) -> dict[str, Tensor | Batched]:
        parts = super()._batched()
        if self.transition.dim() == 2:
            del parts["transition"]
        return parts

    def _potentials(self) -> tuple[Tensor, Tensor]:
        """Potentials (B, L, r) and transitions of the same chain."""
        if not self.conditional:
            return self.start, self.transition
        return self._after_start(0), self.transition.log_softmax(-1)

    def _after_start(self, values: Tensor | int) -> Tensor:
        """Values (B, L, r) and, at the first position, the first state's log-probability."""
        first = self.start.log_softmax(-1)[:, None]
        return nn.functional.pad(first, (0, 0, 0, self.length - 1)) + values

    def log_prob(self, x0: Tensor) -> Tensor:
        seen = self.emission.log_likelihood(x0)
        dtype = torch.promote_types(seen.dtype, self.transition.dtype)
        seen, transition = seen.to(dtype), self.transition.to(dtype)
        if self.conditional:
            total = scan_log_total if self.method == "scan" else log_total
            return total(self._after_start(seen), transition, True)
        return log_total(self.start + seen, transition) - log_total(self.start, self.transition)

    def state_marginals(self) -> Tensor:
        """Pr(zⁱ = ·|x_t): (B, L, r)."""
        scan = self.method == "scan"
        return (scan_state_marginals if scan else state_marginals)(self.start, self._each_step())

    def _each_step(self) -> Tensor:
        """The transitions; those of a chain of conditionals at every position."""
        if self.conditional and self.transition.dim() == 2:
            return self.transition.expand(self.batch_size, self.length - 1, -1, -1)
        return self.transition

    def marginals(self) -> Tensor:
        return self.emission.marginals(self.state_marginals())

    def conditional_logits(self, x0: Tensor) -> Tensor:
        potential, transition = self._potentials()
        seen = self.emission.log_likelihood(x0).to(potential.dtype)
        states = forward_messages(potential + seen, transition) + potential
        states = states + backward_messages(potential, transition)
        return safe_log(self.emission.marginals(states.softmax(-1)))

    def sample_states(self, generator: Generator = None) -> Tensor:
        """Draw the hidden path: (B, L) int64. Both methods give the same path."""
        if not self.conditional and self.transition.dim() == 4:
            return self.by_conditionals().sample_states(generator)
        u = uniform((self.batch_size, self.length), generator, self.device)
        if not self.conditional:
            potential = self.start.detach()
            # Rows that are views of one are summed up once.
            alike = self.batch_size > 1 and potential.stride(0) == 0
            return draw_paths(potential[:1] if alike else potential, self.transition.detach(), u)
        state, transition = invert_cdf(self.start.softmax(-1), u[:, 0]), self._each_step()
        if self.method == "scan":
            shape = transition.shape[:-1]
            each = u[:, 1:, None].expand(shape).reshape(-1)
            rows = transition.reshape(-1, self.states).softmax(-1)
            return scan_states(state, invert_cdf(rows, each).reshape(shape))
        path = [state]
        row = torch.arange(self.batch_size, device=self.device)
        for i in range(self.length - 1):
            state = invert_cdf(transition[row, i, state].softmax(-1), u[:, i + 1])
            path.append(state)
        return torch.stack(path, 1)

    def sample(self, generator: Generator = None) -> Tensor:
        return self.emission.sample(self.sample_states(generator), generator)

    def by_conditionals(self) -> ChainLaw:
        """The same law with every p(zⁱ⁺¹|zⁱ) written out, (B, L−1, r, r)."""
        potential, transition = self._potentials()
        ahead = potential + backward_messages(potential, transition)
        # Rows without any possible state, which are never entered, become uniform, not NaN.
        steps = transition + ahead[:, 1:, None, :]
        steps = steps.masked_fill((steps == -torch.inf).all(-1, keepdim=True), 0.0)
        return ChainLaw(ahead[:, 0], steps, self.emission, self.method)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> ChainLaw:
        if temperature == 1 and top_p == 1:
            return self
        emission = self.emission.tempered(temperature, top_p)
        if self.conditional:
            start, transition = (
                nucleus(v, temperature, top_p) for v in (self.start, self.transition)
            )
            return ChainLaw(start, transition, emission, self.method)
        if top_p < 1 or temperature == 0 or self.transition.dim() == 4:
            return self.by_conditionals().tempered(temperature, top_p)
        # p(z'|z) ∝ exp((A(z, z') + ahead(z'))/τ): potentials again, which take back the normaliser
        # of every conditional.
        ahead = self.start + backward_messages(self.start, self.transition)
        ahead, transition = (nucleus(v, temperature, top_p) for v in (ahead, self.transition))
        reach = log_vector_product(transition, ahead[:, 1:])
        later = nn.functional.pad(reach, (0, 0, 0, 1))
        # A state that leads nowhere is never entered.
        potential = torch.where(later == -torch.inf, -torch.inf, ahead - later)
        return ChainLaw(potential, transition, emission)

    def given(self, x0: Tensor, known: Tensor) -> ChainLaw:
        """Exact: the evidence multiplies the potentials, and known positions are pinned.

        Tokens that no state allows leave their position's potentials as they are.
        """
        evidence = self.emission.log_likelihood(torch.where(known, x0, 0))
        evidence = evidence.masked_fill(~known[..., None], 0.0)
        impossible = (evidence == -torch.inf).all(-1, keepdim=True)
        potential, transition = self._potentials()
        potential = potential + torch.where(impossible, 0.0, evidence)
        law = ChainLaw(potential, transition, self.emission.pinned(x0, known))
        return replace(law.by_conditionals(), method=self.method) if self.conditional else law
