"""Markov chains of any length: everything about them has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.problem.base import random_rows
from fewjump.problem.chain import ChainProblem, stationary_law


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
        rows = random_rows(vocab_size + 1, vocab_size, concentration, generator)
        transition = rows[:-1]
        initial = stationary_law(transition) if stationary else rows[-1]
        return cls(initial, transition, length)

    def __repr__(self) -> str:
        return f"MarkovChain(vocab_size={self.vocab_size}, length={self.length})"

    def log_prob(self, x: Tensor) -> Tensor:
        self.check_tokens(x)
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
