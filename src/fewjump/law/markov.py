"""Exact joint laws of (hidden) Markov chains of any length, by forward–backward in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from fewjump.inversion import invert_cdf, row_chunks
from fewjump.law.base import ENUMERATION_LIMIT, Law
from fewjump.law.log_weights import nucleus
from fewjump.law.posterior import Fallback, PosteriorLaw, contract, normalised, outer
from fewjump.random import Generator, uniform


class MarkovLaw(PosteriorLaw):
    """p(x₀|x_t) ∝ Σ_z initial(z¹)·Πᵢ transitionᵢ(zⁱ, zⁱ⁺¹)·Πᵢ emissionᵢ(zⁱ, x₀ⁱ)·factorᵢ(x₀ⁱ).

    A Markov chain over hidden states z and, for each position, a likelihood that multiplies the
    tokens. Without an emission the states are the tokens. Messages are rescaled at every position
    (Rabiner 1989, section V.A), so nothing under- or overflows at any length; loops run over
    positions only.

    Args:
        initial: (T, S) non-negative.
        transition: (T, N, S, S) non-negative, N = 1 (the same step everywhere) or L−1.
        factors: (B, L, v) non-negative.
        emission: (T, M, S, v) non-negative, M = 1 or L; None if the states are the tokens.
        vocab_size, which, fallback: see :class:`~fewjump.law.posterior.PosteriorLaw`.

    Attributes:
        evidence: (B, L, S), Σ_x emissionᵢ(z, x)·factorᵢ(x).
        predicted: (B, L, S) law of the state given the factors before it.

    Raises:
        ValueError: for shapes that do not fit, or if a row has total weight 0 and there is no
            fallback.
    """

    evidence: Tensor
    predicted: Tensor

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        factors: Tensor,
        emission: Tensor | None = None,
        vocab_size: int | None = None,
        which: Tensor | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        _check_shapes(initial, transition, emission, factors)
        self.states = initial.shape[-1]
        self.initial, self.transition = initial.double(), transition.double()
        self.emission = None if emission is None else emission.double()
        super().__init__(factors, initial.shape[0], vocab_size, which, fallback)

    def _append_flat(self) -> None:
        self.initial, self.transition = map(_with_ones, (self.initial, self.transition))
        self.emission = None if self.emission is None else _with_ones(self.emission)

    def _tilted(
        self, factors: Tensor, which: Tensor, fallback: Fallback | None = None
    ) -> MarkovLaw:
        prior = self.initial, self.transition
        return MarkovLaw(*prior, factors, self.emission, self.vocab_size, which, fallback)

    # -- forward–backward -------------------------------------------------------------------

    def step(self, i: int) -> Tensor:
        """Transitions from position i to i+1: (T, S, S)."""
        return self.transition[:, min(i, self.transition.shape[1] - 1)]

    def emission_at(self, i: int) -> Tensor:
        """Emission of position i: (T, S, v). Only with hidden states."""
        assert self.emission is not None
        return self.emission[:, min(i, self.emission.shape[1] - 1)]

    def _evidence(self) -> Tensor:
        emission = self.emission
        if emission is None:
            return self.factors
        if emission.shape[:2] == (1, 1):
            return self.factors @ emission[0, 0].mT
        out = self.factors.new_empty(self.batch_size, self.length, emission.shape[2])
        for rows in row_chunks(self.batch_size, emission[0].numel()):
            out[rows] = (emission[self.which[rows]] @ self.factors[rows, :, :, None])[..., 0]
        return out

    def _sum(self) -> Tensor:
        self.evidence = self._evidence()
        self.predicted, log_total = self._forward(lambda i: self.evidence[:, i])
        return log_total

    def _forward(self, evidence: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """Laws of the state given the evidence before it, (B, L, S), and the log of all: (B,).

        Of tables that rows share, in weights: :mod:`fewjump.law.forward_algorithm` is of logits
        with gradients, and has no such tables.
        """
        predicted = [self.initial[self.which]]
        log_total = self.factors.new_zeros(self.batch_size)
        for i in range(self.length):
            message = predicted[i] * evidence(i)
            total = message.sum(-1)
            log_total = log_total + total.log()
            message = message / torch.where(total > 0, total, 1.0)[:, None]
            if i + 1 < self.length:
                predicted.append(contract(self.step(i).mT, self.which, message))
        return torch.stack(predicted, 1), log_total

    @cached_property
    def backward(self) -> Tensor:
        """Weight of all later positions given the state at this one, rescaled: (B, L, S)."""
        message = torch.ones_like(self.evidence[:, 0])
        messages = [message]
        for i in range(self.length - 2, -1, -1):
            message = contract(self.step(i), self.which, self.evidence[:, i + 1] * message)
            message = message / message.amax(-1, keepdim=True)
            messages.append(message)
        return torch.stack(messages[::-1], 1)

    def cavity(self) -> Tensor:
        states = normalised(self.predicted * self.backward)
        emission = self.emission
        if emission is None:
            return states
        if emission.shape[:2] == (1, 1):
            return normalised(states @ emission[0, 0])
        out = torch.empty_like(self.factors)
        for rows in row_chunks(self.batch_size, emission[0].numel()):
            out[rows] = (states[rows, :, None, :] @ emission[self.which[rows]])[:, :, 0]
        return normalised(out)

    def state_marginals(self) -> Tensor:
        """p(zⁱ|x_t): (B, L, S)."""
        return normalised(self.predicted * self.evidence * self.backward)

    def conditionals(self) -> Iterator[Tensor]:
        """p(zⁱ⁺¹ | zⁱ, x_t) for each i < L−1: (B, S, S); rows of states without future are 0."""
        for i in range(self.length - 1):
            ahead = self.evidence[:, i + 1] * self.backward[:, i + 1]
            yield normalised(self.step(i)[self.which] * ahead[:, None, :])

    def log_weight(self, x: Tensor) -> Tensor:
        if self.emission is None:
            step = torch.arange(self.length - 1, device=x.device)
            step = step.clamp(max=self.transition.shape[1] - 1)
            moves = self.transition[self.which[:, None], step, x[:, :-1], x[:, 1:]]
            return self.initial[self.which, x[:, 0]].log() + moves.log().sum(-1)
        return self._forward(lambda i: self.emission_at(i).mT[self.which, x[:, i]])[1]

    # -- Law --------------------------------------------------------------------------------

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw the states from left to right given all of x_t, then a token from each state."""
        u = uniform((self.batch_size, self.length, 2), generator, self.device)
        ahead = self.evidence * self.backward
        states = [invert_cdf(self.initial[self.which] * ahead[:, 0], u[:, 0, 0])]
        for i in range(self.length - 1):
            weights = self.step(i)[self.which, states[-1]] * ahead[:, i + 1]
            states.append(invert_cdf(weights, u[:, i + 1, 0]))
        z = torch.stack(states, 1)
        if self.emission is None:
            return z
        position = torch.arange(self.length, device=self.device)
        position = position.clamp(max=self.emission.shape[1] - 1)
        emitted = self.emission[self.which[:, None], position, z] * self.factors
        draws = invert_cdf(emitted.flatten(0, 1), u[..., 1].flatten())
        return draws.reshape(self.batch_size, self.length)

    def entropy(self) -> Tensor:
        """Entropy of the whole sequence of tokens, in nats: (B,).

        Closed form when the states are the tokens. Hidden states have none: V^L ≤ 1e6 sequences
        are enumerated.

        Raises:
            ValueError: for hidden states and V^L > 1e6; :meth:`estimate_entropy` is the way then.
        """
        if self.emission is not None:
            if self.tokens**self.length > ENUMERATION_LIMIT:
                raise ValueError(
                    f"the entropy of a hidden chain over {self.tokens}^{self.length} sequences has "
                    "no closed form; use estimate_entropy(samples)"
                )
            log_probs = self.enumerate()
            return -torch.xlogy(log_probs.exp(), log_probs.exp()).sum(-1)
        marginals = self.state_marginals()
        entropy = -torch.xlogy(marginals[:, 0], marginals[:, 0]).sum(-1)
        for i, step in enumerate(self.conditionals()):
            rows = -torch.xlogy(step, step).sum(-1)
            entropy = entropy + (marginals[:, i] * rows).sum(-1)
        return entropy

    def estimate_entropy(self, samples: int = 64, generator: Generator = None) -> Tensor:
        """Average of −log p over ``samples`` exact draws, in nats: (B,). Unbiased."""
        draws = [-self.log_prob(self.sample(generator)) for _ in range(samples)]
        return torch.stack(draws).mean(0)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> MarkovLaw:
        """Sharpen each categorical that :meth:`sample` draws, from left to right.

        These are p(z¹|x_t), p(zⁱ⁺¹|zⁱ, x_t) and, with hidden states, p(x₀ⁱ|zⁱ, x_t). For a visible
        chain they are the conditionals p(x₀ⁱ | x₀^{<i}, x_t). The result holds a chain for each
        row: (B, L−1, S, S).
        """
        if temperature == 1 and top_p == 1:
            return self

        def sharpen(weights: Tensor) -> Tensor:
            # States that cannot occur get a uniform row: it is never used, and it is no NaN.
            weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, 1.0)
            return nucleus(weights.log(), temperature, top_p).softmax(-1)

        steps = [sharpen(step) for step in self.conditionals()]
        if not steps:
            steps = [torch.ones_like(self.step(0))[self.which]]
        emission = None
        if self.emission is not None:
            emission = sharpen(self.emission[self.which] * self.factors[:, :, None, :])
        return MarkovLaw(
            sharpen(self.state_marginals()[:, 0]),
            torch.stack(steps, 1),
            torch.ones_like(self.factors),
            emission,
            self.vocab_size,
            torch.arange(self.batch_size, device=self.device),
        )

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """−E_target[log p] in nats, (B,): exact between visible chains and for product targets.

        One draw from the target otherwise (hidden states, or another kind of target). +inf where
        the target can produce what this law excludes.
        """
        pairs = None if self.emission is not None else _token_pairs(target, self.tokens)
        if pairs is None:
            return super().cross_entropy(target, generator)
        marginals = target.marginals().double()
        escaped = marginals[..., self.tokens :].sum((1, 2)) > 0
        marginals = marginals[..., : self.tokens]
        expected = torch.xlogy(marginals, self.factors).sum((1, 2)) - self.log_total
        expected = expected + torch.xlogy(marginals[:, 0], self.initial[self.which]).sum(-1)
        for i, pair in enumerate(pairs):
            expected = expected + torch.xlogy(pair, self.step(i)[self.which]).sum((1, 2))
        return torch.where(escaped, torch.inf, -expected)


def _token_pairs(law: Law, tokens: int) -> Iterator[Tensor] | None:
    """Laws of neighbouring tokens, L−1 tensors (B, v, v), where they have a closed form."""
    if law.independent:
        marginals = law.marginals().double()[..., :tokens]
        return (
            outer(marginals[:, i : i + 2]).reshape(-1, tokens, tokens)
            for i in range(law.length - 1)
        )
    if isinstance(law, MarkovLaw) and law.emission is None and law.tokens == tokens:
        marginals = law.state_marginals()
        return (marginals[:, i, :, None] * step for i, step in enumerate(law.conditionals()))
    return None


def _with_ones(tables: Tensor) -> Tensor:
    return torch.cat([tables, torch.ones_like(tables[:1])])


def _check_shapes(
    initial: Tensor,
    transition: Tensor,
    emission: Tensor | None,
    factors: Tensor,
) -> None:
    """Raise ValueError for tensors of a :class:`MarkovLaw` that do not fit together."""
    _, length, tokens = factors.shape
    chains, states = initial.shape[0], initial.shape[-1]
    steps = max(length - 1, 1)
    square = transition.shape[0] == chains and transition.shape[2:] == (states, states)
    if transition.dim() != 4 or not square or transition.shape[1] not in (1, steps):
        raise ValueError(
            f"transition must be ({chains}, 1 or {steps}, {states}, {states}), "
            f"got {tuple(transition.shape)}"
        )
    if emission is None and states != tokens:
        raise ValueError(f"{states} states cannot be {tokens} tokens: give an emission")
    if emission is not None and (
        emission.dim() != 4
        or emission.shape[0] != chains
        or emission.shape[1] not in (1, length)
        or emission.shape[2:] != (states, tokens)
    ):
        raise ValueError(
            f"emission must be ({chains}, 1 or {length}, {states}, {tokens}), "
            f"got {tuple(emission.shape)}"
        )
