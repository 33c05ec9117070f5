"""Markov chains of any length, with all in closed form, and what every chain shares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.config import check_counts
from fewjump.inversion import invert_cdf
from fewjump.law.markov import MarkovLaw
from fewjump.problem.base import Estimate, Problem, probability_table, random_rows
from fewjump.random import Generator, generator_for, uniform


class ChainProblem(Problem):
    """A time-homogeneous chain over hidden states that emit tokens (or are the tokens).

    Attributes:
        initial: (S,) law of the first state.
        transition: (S, S), rows sum to 1.
        emission: (S, V), rows sum to 1; None if the states are the tokens.
    """

    def __init__(
        self, initial: Tensor, transition: Tensor, emission: Tensor | None, length: int
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.initial = probability_table(initial, "initial")
        self.transition = probability_table(transition, "transition")
        self.emission = None if emission is None else probability_table(emission, "emission")
        states = self.initial.numel()
        if self.initial.dim() != 1 or self.transition.shape != (states, states):
            raise ValueError(
                f"initial must be (S,) and transition (S, S), got {tuple(self.initial.shape)} "
                f"and {tuple(self.transition.shape)}"
            )
        if self.emission is not None and (
            self.emission.dim() != 2 or self.emission.shape[0] != states
        ):
            raise ValueError(f"emission must be ({states}, V), got {tuple(self.emission.shape)}")
        self.length = length
        self.vocab_size = states if self.emission is None else self.emission.shape[1]

    # -- the hidden chain -------------------------------------------------------------------

    def stationary(self) -> Tensor:
        """The stationary law of the states: (S,).

        Raises:
            ValueError: if the chain has more than one.
        """
        return stationary_law(self.transition)

    def state_marginals(self) -> Tensor:
        """Law of the state at each position: (L, S)."""
        rows = [self.initial]
        for _ in range(self.length - 1):
            rows.append(rows[-1] @ self.transition)
        return torch.stack(rows)

    def _emit(self, states: Tensor, u: Tensor) -> Tensor:
        """Tokens for (...) states from uniforms of the same shape."""
        if self.emission is None:
            return states
        emission = self.emission.to(states.device)
        return invert_cdf(emission[states.flatten()], u.flatten()).reshape(states.shape)

    # -- Problem ----------------------------------------------------------------------------

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        u = uniform((n, self.length, 2), generator)
        states = [invert_cdf(self.initial.expand(n, -1), u[:, 0, 0])]
        for i in range(1, self.length):
            states.append(invert_cdf(self.transition[states[-1]], u[:, i, 0]))
        return self._emit(torch.stack(states, 1), u[..., 1])

    def posterior_law(
        self,
        factors: Tensor,
        vocab_size: int | None = None,
        fallback: Callable[[], Tensor] | None = None,
    ) -> MarkovLaw:
        device = factors.device
        emission = None if self.emission is None else self.emission.to(device)[None, None]
        return MarkovLaw(
            self.initial.to(device)[None],
            self.transition.to(device)[None, None],
            factors,
            emission,
            vocab_size,
            fallback=fallback,
        )

    def marginals(self) -> Tensor:
        states = self.state_marginals()
        return states if self.emission is None else states @ self.emission

    def all_possible(self) -> bool:
        tables = (self.initial, self.transition, self.emission)
        return all(bool((table > 0).all()) for table in tables if table is not None)

    # -- runs of tokens ---------------------------------------------------------------------

    def ngram_law(self, n: int) -> Tensor:
        self.check_ngram(n)
        start = self.state_marginals()[: self.length - n + 1].mean(0)
        if self.emission is None:
            law = start
            for _ in range(n - 1):
                law = law.reshape(-1, self.vocab_size)[..., None] * self.transition
            return law.flatten()
        # The run so far together with the state of its last token: (V^i, S).
        message = start[None]
        for i in range(n):
            message = message if i == 0 else message @ self.transition
            message = (message[:, None, :] * self.emission.mT).flatten(0, 1)
        return message.sum(-1)

    def bigram_law(self) -> Tensor:
        """p(xⁱ = a, xⁱ⁺¹ = b) averaged over the positions i < L−1: (V, V), sums to 1.

        For a stationary chain this is the stationary bigram law.

        Raises:
            ValueError: for sequences of one token.
        """
        if self.length < 2:
            raise ValueError("a sequence of one token has no bigrams")
        pairs = self.state_marginals()[:-1].mean(0)[:, None] * self.transition
        return pairs if self.emission is None else self.emission.mT @ pairs @ self.emission

    def bigram_tv(self, samples: Tensor) -> float:
        """Total variation between the bigram law and its frequencies in ``samples`` (n, L).

        Frequencies are averaged over samples and positions. Finite samples bias it upwards even
        when they come from the true law: compare with :meth:`bigram_tv_floor`.
        """
        samples = self.check_tokens(samples)
        frequencies = bigram_frequencies(samples, self.vocab_size).cpu()
        return 0.5 * float((frequencies - self.bigram_law()).abs().sum())

    def bigram_tv_floor(
        self, n: int, repeats: int = 8, generator: torch.Generator | None = None
    ) -> Estimate:
        """The :meth:`bigram_tv` that ``n`` exact samples have: the mean of ``repeats`` sets.

        The interval is of a single set: where the score of a perfect sampler would lie.

        Raises:
            ValueError: for fewer than 2 sets.
        """
        if repeats < 2:
            raise ValueError(f"the floor needs at least 2 sets of exact samples, got {repeats}")
        draws = [self.bigram_tv(self.sample(n, generator)) for _ in range(repeats)]
        values = torch.tensor(draws, dtype=torch.float64)
        value, spread = float(values.mean()), 1.96 * float(values.std())
        return Estimate(value, max(0.0, value - spread), value + spread)


class MarkovChain(ChainProblem):
    """p(x) = initial(x¹)·Πᵢ transition[xⁱ, xⁱ⁺¹].

    Args:
        initial: (V,) law of the first token.
        transition: (V, V), rows sum to 1.
        length: number of tokens L.

    Raises:
        ValueError: for shapes that do not fit, or rows that are no probabilities.
    """

    def __init__(self, initial: Tensor, transition: Tensor, length: int) -> None:
        super().__init__(initial, transition, None, length)

    @classmethod
    def from_text(
        cls, windows: Tensor, vocab_size: int, length: int, teleport: float = 1e-3
    ) -> MarkovChain:
        """The stationary chain with the bigrams of text, after arXiv 2602.19619.

        Args:
            windows: (N, M) tokens of the text.
            vocab_size: V.
            length: L.
            teleport: share of every transition that goes anywhere, by frequency, so that none to a
                token of the text is impossible.
        """
        pairs = bigram_frequencies(windows, vocab_size)
        unigrams = torch.bincount(windows.flatten(), minlength=vocab_size).double()
        unigrams = unigrams / unigrams.sum()
        seen = pairs.sum(1, keepdim=True)
        rows = torch.where(seen > 0, pairs / seen.clamp(min=1e-300), unigrams)
        transition = (1 - teleport) * rows + teleport * unigrams
        transition = transition / transition.sum(1, keepdim=True)
        return cls(stationary_law(transition), transition, length)

    @classmethod
    def random(
        cls,
        vocab_size: int,
        length: int,
        concentration: float = 1.0,
        generator: torch.Generator | None = None,
        stationary: bool = True,
    ) -> MarkovChain:
        """A chain with random rows (see :func:`~fewjump.problem.base.random_rows`).

        Args:
            vocab_size: V.
            length: L.
            concentration: small for nearly deterministic transitions, large for uniform ones.
            generator: source of the rows.
            stationary: start in the stationary law; otherwise in a random one.
        """
        check_counts(vocab_size=vocab_size, length=length)
        rows = random_rows(vocab_size + 1, vocab_size, concentration, generator)
        transition = rows[:-1]
        initial = stationary_law(transition) if stationary else rows[-1]
        return cls(initial, transition, length)

    def __repr__(self) -> str:
        return f"MarkovChain(vocab_size={self.vocab_size}, length={self.length})"

    def log_prob(self, x: Tensor) -> Tensor:
        x = self.check_tokens(x)
        start, moves = self.initial.to(x.device).log(), self.transition.to(x.device).log()
        return start[x[:, 0]] + moves[x[:, :-1], x[:, 1:]].sum(-1)

    def entropy(self) -> float:
        """H(x¹) + Σᵢ H(xⁱ⁺¹|xⁱ), in nats."""
        rows = -torch.xlogy(self.transition, self.transition).sum(-1)
        before = self.state_marginals()[:-1]
        start = -float(torch.xlogy(self.initial, self.initial).sum())
        return start + float((before @ rows).sum())

    def entropy_rate(self) -> float:
        """lim H(xⁱ⁺¹|xⁱ) under the stationary law, in nats per token."""
        rows = -torch.xlogy(self.transition, self.transition).sum(-1)
        return float(self.stationary() @ rows)

    def mutual_informations(self) -> Tensor:
        """I(xⁱ; xⁱ⁺¹) for each i < L−1, in nats: (L−1,)."""
        marginals = self.state_marginals()
        rows = -torch.xlogy(self.transition, self.transition).sum(-1)
        after = marginals[1:]
        return -torch.xlogy(after, after).sum(-1) - marginals[:-1] @ rows

    def one_step_floor(self) -> float:
        """Total correlation Σᵢ I(xⁱ; xⁱ⁺¹) in nats; (L−1)·I(x¹; x²) for a stationary chain."""
        return float(self.mutual_informations().sum())


def reference_markov_chain(length: int = 32) -> MarkovChain:
    """The stationary chain with V = 8 on which the library's curves are measured.

    Entropy rate 1.094 nats. With uniform noise the exact product denoiser's bigram total variation
    is 0.43 in one step (Σ|π(a)π(b) − π(a)P(a, b)|/2) and about halves with each doubling of steps.
    """
    return MarkovChain.random(8, length, concentration=0.4, generator=generator_for(482))


def bigram_frequencies(samples: Tensor, vocab_size: int) -> Tensor:
    """Frequencies of neighbouring tokens over samples and positions: (n, L) → (V, V) float64."""
    pairs = samples[:, :-1] * vocab_size + samples[:, 1:]
    counts = torch.bincount(pairs.flatten(), minlength=vocab_size**2).double()
    return (counts / counts.sum()).reshape(vocab_size, vocab_size)


def stationary_law(transition: Tensor) -> Tensor:
    """The stationary law π = πP of a stochastic matrix (S, S): (S,) float64.

    Raises:
        ValueError: if there is more than one.
    """
    states = transition.shape[0]
    singular = transition.double().mT - torch.eye(states, dtype=torch.float64)
    if int((torch.linalg.svdvals(singular) < 1e-10).sum()) > 1:
        raise ValueError("the chain has several stationary laws (it is reducible): give an initial")
    system = torch.cat([singular, torch.ones(1, states, dtype=torch.float64)])
    target = torch.zeros(states + 1, 1, dtype=torch.float64)
    target[-1] = 1
    law = torch.linalg.lstsq(system, target).solution[:, 0].clamp(min=0)
    return law / law.sum()
