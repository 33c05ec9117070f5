"""Exact joint laws of (hidden) Markov chains of any length, by forward–backward in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fewjump.law.base import ENUMERATION_LIMIT, Law, enumerate_states, nucleus, row_chunks
from fewjump.law.contraction import (
    certain,
    normalised,
    outer,
    padded,
    pinned,
    position_entropy,
)
from fewjump.law.forward_backward import ForwardBackward, check_shapes
from fewjump.law.product import ProductLaw
from fewjump.random import Generator, invert_cdf, uniform


class MarkovLaw(Law):
    """p(x₀|x_t) ∝ Σ_z initial(z¹)·Πᵢ transitionᵢ(zⁱ, zⁱ⁺¹)·Πᵢ emissionᵢ(zⁱ, x₀ⁱ)·factorᵢ(x₀ⁱ).

    A Markov chain over hidden states z and, for each position, a likelihood that multiplies the
    tokens. Without an emission the states are the tokens.

    Args:
        initial: (T, S) non-negative.
        transition: (T, N, S, S) non-negative, N = 1 (the same step everywhere) or L−1.
        factors: (B, L, v) non-negative.
        emission: (T, M, S, v) non-negative, M = 1 or L; None if the states are the tokens.
        vocab_size: V ≥ v; tokens v..V−1 have probability 0. Default v.
        which: (B,) int64, which of the T chains each row uses. Default: the only one, or row b
            uses chain b.
        fallback: gives (B, L, v) weights of independent positions, used for the rows whose
            factors exclude every sequence of the chain. Called only if there are such rows.

    Raises:
        ValueError: for shapes that do not fit, or if a row has total weight 0 and there is no
            fallback.
    """

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        factors: Tensor,
        emission: Tensor | None = None,
        vocab_size: int | None = None,
        which: Tensor | None = None,
        fallback: Callable[[], Tensor] | None = None,
    ) -> None:
        self.batch_size, self.length, self.tokens = factors.shape
        self.states = initial.shape[-1]
        self.vocab_size = self.tokens if vocab_size is None else vocab_size
        check_shapes(initial, transition, emission, factors, which)
        if self.vocab_size < self.tokens:
            raise ValueError(f"vocab_size {self.vocab_size} is smaller than {self.tokens} tokens")
        if which is None:
            index = torch.arange(self.batch_size, device=factors.device)
            which = index if initial.shape[0] > 1 else torch.zeros_like(index)
        chain = ForwardBackward(initial, transition, emission, factors, which)
        #: log of the total weight, (B,); −inf where the fallback is used.
        self.log_evidence = chain.log_total + chain.log_scale
        impossible = chain.log_total == -torch.inf
        if bool(impossible.any()):
            if fallback is None:
                raise ValueError("a row's factors exclude every sequence and no fallback was given")
            chain = chain.with_memoryless(impossible, fallback())
        self._chain = chain

    @property
    def device(self) -> torch.device:
        return self._chain.factors.device

    # -- Law --------------------------------------------------------------------------------

    def cavity(self) -> Tensor:
        """Law of each position with its own factor left out, (B, L, v), rows sum to 1."""
        return self._chain.cavity

    def marginals(self) -> Tensor:
        tokens = normalised(self._chain.cavity * self._chain.factors)
        return padded(tokens, self.vocab_size)

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw the states from left to right given all of x_t, then a token from each state."""
        chain = self._chain
        u = uniform((self.batch_size, self.length, 2), generator, self.device)
        ahead = chain.evidence * chain.backward
        states = [invert_cdf(chain.initial[chain.which] * ahead[:, 0], u[:, 0, 0])]
        for i in range(self.length - 1):
            weights = chain.step(i)[chain.which, states[-1]] * ahead[:, i + 1]
            states.append(invert_cdf(weights, u[:, i + 1, 0]))
        z = torch.stack(states, 1)
        if chain.emission is None:
            return z
        position = torch.arange(self.length, device=self.device)
        position = position.clamp(max=chain.emission.shape[1] - 1)
        emitted = chain.emission[chain.which[:, None], position, z] * chain.factors
        draws = invert_cdf(emitted.flatten(0, 1), u[..., 1].flatten())
        return draws.reshape(self.batch_size, self.length)

    def log_prob(self, x0: Tensor) -> Tensor:
        inside = (x0 < self.tokens).all(-1)
        x = x0.clamp(max=self.tokens - 1)
        factors = self._chain.factors.gather(-1, x[..., None])[..., 0].log().sum(-1)
        value = self._chain.log_weight(x) + factors - self._chain.log_total
        return torch.where(inside, value, -torch.inf)

    def enumerate(self) -> Tensor:
        count = self.vocab_size**self.length
        if count > ENUMERATION_LIMIT:
            return super().enumerate()  # raises, with the reason
        states = enumerate_states(self.vocab_size, self.length, self.device)
        out = self._chain.factors.new_empty(self.batch_size, count)
        for columns in row_chunks(count, self.batch_size * self.length * self.states):
            piece = states[columns]
            rows = torch.arange(self.batch_size, device=self.device)
            law = self.select(rows.repeat_interleave(piece.shape[0]))
            out[:, columns] = law.log_prob(piece.repeat(self.batch_size, 1)).reshape(
                self.batch_size, -1
            )
        return out

    def entropy(self) -> Tensor:
        """Entropy of the whole sequence of tokens, in nats: (B,).

        Closed form when the states are the tokens. Hidden states have none: V^L ≤ 1e6 sequences
        are enumerated.

        Raises:
            ValueError: for hidden states and V^L > 1e6; :meth:`estimate_entropy` is the way then.
        """
        if self._chain.emission is not None:
            if self.tokens**self.length > ENUMERATION_LIMIT:
                raise ValueError(
                    f"the entropy of a hidden chain over {self.tokens}^{self.length} sequences has "
                    "no closed form; use estimate_entropy(samples)"
                )
            log_probs = self.enumerate()
            return -torch.xlogy(log_probs.exp(), log_probs.exp()).sum(-1)
        marginals = self._chain.state_marginals()
        entropy = -torch.xlogy(marginals[:, 0], marginals[:, 0]).sum(-1)
        for i, step in enumerate(self._chain.conditionals()):
            rows = -torch.xlogy(step, step).sum(-1)
            entropy = entropy + (marginals[:, i] * rows).sum(-1)
        return entropy

    def estimate_entropy(self, samples: int = 64, generator: Generator = None) -> Tensor:
        """Average of −log p over ``samples`` exact draws, in nats: (B,). Unbiased."""
        draws = [-self.log_prob(self.sample(generator)) for _ in range(samples)]
        return torch.stack(draws).mean(0)

    def total_correlation(self) -> Tensor:
        """Σᵢ H(x₀ⁱ) − H(x₀): what a product of the marginals must miss, in nats: (B,).

        Raises:
            ValueError: where :meth:`entropy` does.
        """
        return position_entropy(self.marginals()) - self.entropy()

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

        steps = [sharpen(step) for step in self._chain.conditionals()]
        if not steps:
            steps = [torch.ones_like(self._chain.step(0))[self._chain.which]]
        emission = None
        if self._chain.emission is not None:
            emission = sharpen(
                self._chain.emission[self._chain.which] * self._chain.factors[:, :, None, :]
            )
        return MarkovLaw(
            sharpen(self._chain.state_marginals()[:, 0]),
            torch.stack(steps, 1),
            torch.ones_like(self._chain.factors),
            emission,
            self.vocab_size,
            torch.arange(self.batch_size, device=self.device),
        )

    def _with(
        self, factors: Tensor, which: Tensor, fallback: Callable[[], Tensor] | None = None
    ) -> MarkovLaw:
        return MarkovLaw(
            self._chain.initial,
            self._chain.transition,
            factors,
            self._chain.emission,
            self.vocab_size,
            which,
            fallback,
        )

    def select(self, rows: Tensor) -> MarkovLaw:
        law = self._with(self._chain.factors[rows], self._chain.which[rows])
        law.log_evidence = self.log_evidence[rows]
        return law

    def given(self, x0: Tensor, known: Tensor) -> MarkovLaw:
        """Condition exactly on known positions.

        Where the law gives the known tokens probability 0 the answer is a product law: certainty
        at the known positions, this law's marginals elsewhere.
        """

        def fallback() -> Tensor:
            return certain(self.marginals()[..., : self.tokens], x0, known)

        law = self._with(pinned(self._chain.factors, x0, known), self._chain.which, fallback)
        law.log_evidence = law.log_evidence + (self.log_evidence - self._chain.log_total)
        return law

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """−E_target[log p] in nats, (B,): exact between visible chains and for product targets.

        One draw from the target otherwise (hidden states, or another kind of target). +inf where
        the target can produce what this law excludes.
        """
        pairs = None if self._chain.emission is not None else _token_pairs(target, self.tokens)
        if pairs is None:
            return super().cross_entropy(target, generator)
        marginals = target.marginals().double()
        escaped = marginals[..., self.tokens :].sum((1, 2)) > 0
        marginals = marginals[..., : self.tokens]
        expected = torch.xlogy(marginals, self._chain.factors).sum((1, 2)) - self._chain.log_total
        expected = expected + torch.xlogy(
            marginals[:, 0], self._chain.initial[self._chain.which]
        ).sum(-1)
        for i, pair in enumerate(pairs):
            expected = expected + torch.xlogy(pair, self._chain.step(i)[self._chain.which]).sum(
                (1, 2)
            )
        return torch.where(escaped, torch.inf, -expected)


def _token_pairs(law: Law, tokens: int) -> Iterator[Tensor] | None:
    """Laws of neighbouring tokens, L−1 tensors (B, v, v), where they have a closed form."""
    if isinstance(law, ProductLaw):
        marginals = law.marginals().double()[..., :tokens]
        return (
            outer(marginals[:, i : i + 2]).reshape(-1, tokens, tokens)
            for i in range(law.length - 1)
        )
    if isinstance(law, MarkovLaw) and law._chain.emission is None and law.tokens == tokens:
        marginals = law._chain.state_marginals()
        return (marginals[:, i, :, None] * step for i, step in enumerate(law._chain.conditionals()))
    return None
