"""A chain of hidden states over positions: r^L mixture components at the price of L·r²."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fewjump.inversion import invert_cdf
from fewjump.law.base import Law
from fewjump.law.batched import SHARED, Batched
from fewjump.law.emission import DenseEmission, Emission
from fewjump.law.forward_algorithm import (
    backward_messages,
    draw_paths,
    forward_messages,
    log_total,
    scan_log_total,
    scan_state_marginals,
    scan_states,
    state_marginals,
)
from fewjump.law.log_weights import nucleus, safe_log
from fewjump.law.transition import Transition, landing, log_vector_product
from fewjump.random import Generator, uniform

ChainMethod = Literal["sequential", "scan"]


@dataclass(eq=False)
class ChainLaw(Law):
    """p(x₀|x_t) = Σ_z p(z) Πᵢ eᵢ(x₀ⁱ|zⁱ), where z is a Markov chain over positions.

    The chain is given in one of two ways. By **conditionals**:
    p(z) = softmax(initial)(z¹) Πᵢ softmax(transitionᵢ(zⁱ))(zⁱ⁺¹), a hidden Markov model. Or by
    **potentials**: p(z) ∝ Πᵢ exp(potentialᵢ(zⁱ)) Πᵢ exp(transitionᵢ(zⁱ, zⁱ⁺¹)), a linear-chain
    conditional random field (Lafferty et al. 2001). With one matrix for all positions time is L·r²
    for the whole batch in matrix products, and memory L·r. With a block transition
    (:class:`~fewjump.law.transition.Transition`) time is L·r^1.5.

    Conditioning on known tokens is exact. Where a token is certain (a visible position of an
    absorbing process) its emission is a point mass in every state, and the transitions through that
    position remain.

    :meth:`tempered` sharpens what :meth:`sample` draws: the first state, each p(zⁱ⁺¹|zⁱ) (of a
    block transition: the new a, then the new b), and each emission. Against a product target the
    cross-entropy has no closed form; the base class's one-draw estimate is unbiased.

    Args:
        start: (B, r) logits of the first state, and transitions are logits of conditionals; or
            (B, L, r) potentials, −inf for states that cannot be. With K tables of a transition,
            potentials may also be (B, K·(L−1) + 1, r), those between positions included.
        transition: (B, L−1, r, r), or (r, r) for all; the last axis is the later state. Or a
            :class:`~fewjump.law.transition.Transition`.
        emission: what a state says about its token, or (B, L, r, V) logits for a dense one.
        method: ``sequential`` over positions, or ``scan``: logarithmic depth, r times the
            arithmetic (long sequences on an accelerator). Only for conditionals that are dense.
    """

    start: Tensor
    transition: Transition
    emission: Emission
    method: ChainMethod = field(default="sequential", metadata=SHARED)

    def __init__(
        self,
        start: Tensor,
        transition: Tensor | Transition,
        emission: Emission | Tensor,
        method: ChainMethod = "sequential",
    ) -> None:
        self.emission = DenseEmission(emission) if isinstance(emission, Tensor) else emission
        self.batch_size, self.length = self.emission.batch_size, self.emission.length
        self.states, self.vocab_size = self.emission.states, self.emission.vocab_size
        transition = Transition.of(transition)
        dtype = torch.promote_types(start.dtype, transition.dtype)
        dtype = torch.float32 if dtype.itemsize < 4 else dtype
        self.start, self.transition = start.to(dtype), transition.to(dtype)
        self.method: ChainMethod = method
        self._check()

    def _check(self) -> None:
        batch, length, states = self.batch_size, self.length, self.states
        points = self.transition.turns * (length - 1) + 1
        if self.start.shape not in (
            (batch, states),
            *((batch, n, states) for n in (length, points)),
        ):
            raise ValueError(
                f"start must be initial logits (B, r) = {(batch, states)} or potentials "
                f"(B, L, r) = {(batch, length, states)} to match the emission, "
                f"got {tuple(self.start.shape)}"
            )
        rows = {table.shape[:-3] for table in self.transition.tables}
        if self.transition.states != states or not rows <= {(), (batch, length - 1)}:
            each = (batch, length - 1, states, states)
            shapes = [tuple(table.shape) for table in self.transition.tables]
            raise ValueError(
                f"transition must be (B, L-1, r, r) = {each} or (r, r) = {each[2:]} to match the "
                f"emission, or blocks of as many states; got tables {shapes}"
            )
        if self.method not in get_args(ChainMethod):
            known = ", ".join(get_args(ChainMethod))
            raise ValueError(f"unknown method {self.method!r}; known: {known}")
        if self.method == "scan" and not (self.conditional and self.transition.turns == 1):
            raise ValueError("method 'scan' needs initial logits (B, r) and dense conditionals")

    @property
    def conditional(self) -> bool:
        """Whether the chain is given by conditionals, and not by potentials."""
        return self.start.dim() == 2

    def _batched(self) -> dict[str, Tensor | Batched]:
        parts = super()._batched()
        if self.transition.shared:
            del parts["transition"]
        return parts

    def _between(self, values: Tensor) -> Tensor:
        """Values of the positions (B, L, r), and 0 between them: (B, H, r)."""
        turns = self.transition.turns
        if turns == 1:
            return values
        padded = nn.functional.pad(values[:, :, None], (0, 0, 0, turns - 1)).flatten(1, 2)
        return padded[:, : turns * (self.length - 1) + 1]

    def _whole(self, potential: Tensor) -> Tensor:
        """Potentials of all H positions, from those or from (B, L, r)."""
        return self._between(potential) if potential.shape[1] == self.length else potential

    def _positions(self, values: Tensor) -> Tensor:
        """What :meth:`_between` was made of: (B, H, ...) → (B, L, ...)."""
        return values[:, :: self.transition.turns]

    def _potentials(self) -> tuple[Tensor, Transition]:
        """Potentials (B, H, r) and transitions of the same chain."""
        if not self.conditional:
            return self._whole(self.start), self.transition
        none = self.start.new_zeros(()).expand(self.batch_size, self.length, self.states)
        return self._after_start(self._between(none)), self.transition.log_softmax()

    def _after_start(self, values: Tensor) -> Tensor:
        """Values (B, H, r) and, at the first position, the first state's log-probability."""
        first = self.start.log_softmax(-1)[:, None]
        return nn.functional.pad(first, (0, 0, 0, values.shape[1] - 1)) + values

    def log_prob(self, x0: Tensor) -> Tensor:
        seen = self.emission.log_likelihood(self.checked(x0))
        dtype = torch.promote_types(seen.dtype, self.transition.dtype)
        seen, transition = seen.to(dtype), self.transition.to(dtype)
        every = self.transition.turns
        if self.conditional:
            potential = self._after_start(seen)
            if self.method == "scan":
                return scan_log_total(potential, transition.matrix())
            return log_total(potential, transition, True, every)
        if self.start.shape[1] != self.length:
            seen, every = self._between(seen), 1
        seen_total = log_total(self.start + seen, transition, every=every)
        return seen_total - log_total(self.start, self.transition, every=every)

    def state_marginals(self) -> Tensor:
        """Pr(zⁱ = ·|x_t): (B, L, r)."""
        if not self.conditional:
            return self._positions(state_marginals(*self._potentials()))
        transition = self._each_step()
        if self.method == "scan":
            return scan_state_marginals(self.start, transition.matrix())
        return self._positions(state_marginals(self.start, transition))

    def _each_step(self) -> Transition:
        """The transitions at every position."""
        return self.transition.for_each(self.batch_size, self.length - 1)

    def marginals(self) -> Tensor:
        return self.emission.marginals(self.state_marginals())

    def conditional_logits(self, x0: Tensor) -> Tensor:
        potential, transition = self._potentials()
        seen = self._between(self.emission.log_likelihood(x0).to(potential.dtype))
        states = forward_messages(potential + seen, transition) + potential
        states = states + backward_messages(potential, transition)
        return safe_log(self.emission.marginals(self._positions(states).softmax(-1)))

    def sample_states(self, generator: Generator = None) -> Tensor:
        """Draw the hidden path: (B, L) int64. Both methods give the same path."""
        if not self.conditional and not self.transition.shared:
            return self.by_conditionals().sample_states(generator)
        points = self.transition.turns * (self.length - 1) + 1
        u = uniform((self.batch_size, points), generator, self.device)
        if not self.conditional:
            potential = self.start.detach()
            # Rows that are views of one are summed up once.
            alike = self.batch_size > 1 and potential.stride(0) == 0
            potential = self._whole(potential[:1] if alike else potential)
            return self._positions(draw_paths(potential, self.transition.detach(), u))
        state, transition = invert_cdf(self.start.softmax(-1), u[:, 0]), self._each_step()
        if self.method == "scan":
            matrix = transition.matrix()
            each = u[:, 1:, None].expand(matrix.shape[:-1]).reshape(-1)
            rows = matrix.reshape(-1, self.states).softmax(-1)
            return scan_states(state, invert_cdf(rows, each).reshape(matrix.shape[:-1]))
        path, tables = [state], transition.tables
        row = torch.arange(self.batch_size, device=self.device)
        for i in range(points - 1):
            table = tables[i % len(tables)]
            groups, size, _ = table.shape[-3:]
            group = state // size
            logits = table[row, i // len(tables), group, state % size]
            state = invert_cdf(logits.softmax(-1), u[:, i + 1]) * groups + group
            path.append(state)
        return self._positions(torch.stack(path, 1))

    def sample(self, generator: Generator = None) -> Tensor:
        return self.emission.sample(self.sample_states(generator), generator)

    def by_conditionals(self) -> ChainLaw:
        """The same law with every p(zⁱ⁺¹|zⁱ) written out, (B, L−1, r, r) or blocks of that."""
        potential, transition = self._potentials()
        ahead, turns = potential + backward_messages(potential, transition), transition.turns
        tables = []
        for k, table in enumerate(transition.tables):
            # Rows without any possible state, which are never entered, become uniform, not NaN.
            steps = table + landing(ahead[:, k + 1 :: turns], table)[..., None, :]
            impossible = (steps == -torch.inf).all(-1, keepdim=True)
            tables.append(steps.masked_fill(impossible, 0.0))
        return ChainLaw(ahead[:, 0], Transition(tuple(tables)), self.emission, self.method)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> ChainLaw:
        if temperature == 1 and top_p == 1:
            return self
        emission = self.emission.tempered(temperature, top_p)
        if self.conditional:
            start, *tables = (
                nucleus(v, temperature, top_p) for v in (self.start, *self.transition.tables)
            )
            return ChainLaw(start, Transition(tuple(tables)), emission, self.method)
        if top_p < 1 or temperature == 0 or not self.transition.shared:
            return self.by_conditionals().tempered(temperature, top_p)
        # p(z'|z) ∝ exp((A(z, z') + ahead(z'))/τ): potentials again, which take back the normaliser
        # of every conditional.
        potential, transition = self._potentials()
        ahead = potential + backward_messages(potential, transition)
        ahead, *tables = (nucleus(v, temperature, top_p) for v in (ahead, *transition.tables))
        reach = torch.zeros_like(ahead)
        for k, table in enumerate(tables):
            later = ahead[:, k + 1 :: len(tables)]
            reach[:, k : -1 : len(tables)] = log_vector_product(table, later)
        # A state that leads nowhere is never entered.
        potential = torch.where(reach == -torch.inf, -torch.inf, ahead - reach)
        return ChainLaw(potential, Transition(tuple(tables)), emission)

    def given(self, x0: Tensor, known: Tensor) -> ChainLaw:
        """Exact: the evidence multiplies the potentials, and known positions are pinned.

        Tokens that no state allows leave their position's potentials as they are.
        """
        x0 = self.checked(x0, known)
        evidence = self.emission.log_likelihood(x0)
        evidence = evidence.masked_fill(~known[..., None], 0.0)
        impossible = (evidence == -torch.inf).all(-1, keepdim=True)
        potential, transition = self._potentials()
        potential = potential + self._between(torch.where(impossible, 0.0, evidence))
        law = ChainLaw(potential, transition, self.emission.pinned(x0, known))
        return replace(law.by_conditionals(), method=self.method) if self.conditional else law
