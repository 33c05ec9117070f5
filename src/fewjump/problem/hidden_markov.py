"""Hidden Markov chains of any length: exact posteriors and likelihoods, estimated entropies."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.config import check_counts
from fewjump.inversion import invert_cdf, row_chunks
from fewjump.law.base import ENUMERATION_LIMIT
from fewjump.problem.base import Estimate, random_rows
from fewjump.problem.chain import ChainProblem, stationary_law
from fewjump.random import Generator, generator_for, uniform

ENTROPY_SEED, ENTROPY_SAMPLES = 20251212, 65_536


class HiddenMarkovChain(ChainProblem):
    """p(x) = Σ_z initial(z¹)·Πᵢ transition[zⁱ, zⁱ⁺¹]·Πᵢ emission[zⁱ, xⁱ].

    Args:
        initial: (S,) law of the first hidden state.
        transition: (S, S), rows sum to 1.
        emission: (S, V), rows sum to 1.
        length: number of tokens L.

    Raises:
        ValueError: for shapes that do not fit, or rows that are no probabilities.
    """

    emission: Tensor

    def __init__(self, initial: Tensor, transition: Tensor, emission: Tensor, length: int) -> None:
        super().__init__(initial, transition, emission, length)

    @classmethod
    def random(
        cls,
        num_states: int,
        vocab_size: int,
        length: int,
        concentration: float = 1.0,
        generator: torch.Generator | None = None,
        stationary: bool = True,
    ) -> HiddenMarkovChain:
        """A chain with random rows (see :func:`~fewjump.problem.base.random_rows`).

        Args:
            num_states: S.
            vocab_size: V.
            length: L.
            concentration: of the transition and the emission rows.
            generator: source of the rows.
            stationary: start in the stationary law; otherwise in a random one.
        """
        check_counts(num_states=num_states, vocab_size=vocab_size, length=length)
        rows = random_rows(num_states + 1, num_states, concentration, generator)
        emission = random_rows(num_states, vocab_size, concentration, generator)
        initial = stationary_law(rows[:-1]) if stationary else rows[-1]
        return cls(initial, rows[:-1], emission, length)

    def __repr__(self) -> str:
        return (
            f"HiddenMarkovChain(num_states={self.initial.numel()}, "
            f"vocab_size={self.vocab_size}, length={self.length})"
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """By the forward algorithm, rescaled at every position."""
        x = self.check_tokens(x)
        out = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        for rows in row_chunks(x.shape[0], self.initial.numel()):
            message = self.initial.to(x.device).expand(x[rows].shape[0], -1)
            out[rows] = self._filter(x[rows], message)[0]
        return out

    def _filter(self, x: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x) given the law ``message`` (n, S) of the first state, and the law after x."""
        transition, emission = self.transition.to(x.device), self.emission.mT.to(x.device)
        total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        for i in range(x.shape[1]):
            message = message * emission[x[:, i]]
            scale = message.sum(-1)
            total = total + scale.log()
            message = (message / torch.where(scale > 0, scale, 1.0)[:, None]) @ transition
        return total, message

    def entropy(self) -> float:
        """Entropy of a whole sequence in nats.

        Enumerated if V^L ≤ 1e6. Beyond, a hidden Markov chain has no closed form: the value of
        :meth:`estimate_entropy` with its default samples and a fixed seed.
        """
        return self.estimate_entropy(generator=generator_for(ENTROPY_SEED)).value

    def estimate_entropy(
        self, samples: int = ENTROPY_SAMPLES, generator: Generator = None
    ) -> Estimate:
        """Entropy with its interval: exact if V^L ≤ 1e6, else from exact log-probabilities."""
        if self.vocab_size**self.length <= ENUMERATION_LIMIT:
            probs = self.ngram_law(self.length)
            return Estimate.exact(-float(torch.xlogy(probs, probs).sum()))
        return Estimate.from_draws(-self.log_prob(self.sample(samples, generator)))

    def entropy_rate(
        self,
        chains: int = 64,
        tokens: int = 2000,
        burn_in: int = 200,
        generator: Generator = None,
    ) -> Estimate:
        """Entropy per token of the stationary chain, in nats, with a 95% interval.

        Independent chains of ``burn_in + tokens`` tokens start in the stationary law of the
        states; the forward algorithm gives the exact −log p of the last ``tokens`` given the
        burn-in, and each chain is one draw. Bias: H(x^{n+1}|x^{1..n}) − rate, which falls
        exponentially in the burn-in for a mixing chain.

        Args:
            chains: independent chains, at least 2.
            tokens: tokens that count, per chain.
            burn_in: tokens before them.
            generator: default: a fixed seed, so that the value is the same at every call.
        """
        generator = generator_for(ENTROPY_SEED, 1) if generator is None else generator
        message = self.stationary().expand(chains, -1)
        state = invert_cdf(message, uniform((chains,), generator))
        loss = torch.zeros(chains, dtype=torch.float64)
        for i in range(burn_in + tokens):
            u = uniform((chains, 2), generator)
            token = self._emit(state, u[:, 0])
            log_prob, message = self._filter(token[:, None], message)
            if i >= burn_in:
                loss -= log_prob
            state = invert_cdf(self.transition[state], u[:, 1])
        return Estimate.from_draws(loss / tokens)


def reference_hidden_markov_chain(length: int = 32) -> HiddenMarkovChain:
    """A stationary hidden chain with 16 states and V = 8: tokens of unbounded memory.

    Entropy rate 1.355 nats per token, entropy of one token 1.987.
    """
    return HiddenMarkovChain.random(16, 8, length, concentration=0.2, generator=generator_for(0))
