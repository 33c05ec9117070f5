"""What a judge of sequences is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.random import Generator


class Judge(ABC):
    """A model of the data that gives each token a probability, left to right.

    Attributes:
        vocab_size: tokens it knows, {0..vocab_size−1}.
    """

    vocab_size: int

    @abstractmethod
    def log_prob(self, tokens: Tensor) -> Tensor:
        """log p(xⁱ | x^{<i}) in nats of (N, L) tokens: (N, L) float64 on the CPU."""

    def nll(
        self, tokens: Tensor, generator: Generator = None, replicates: int = REPLICATES
    ) -> Interval:
        """Negative log-likelihood in nats per token, with an interval over sequences.

        Lower than the data's own value means more predictable than the data, not better: read
        it beside an entropy, or at matched entropy (:mod:`fewjump.evaluate.frontier`).
        """
        per_sequence = -self.log_prob(tokens).mean(-1)
        return bootstrap(per_sequence, mean, generator, replicates)

    def check(self, tokens: Tensor) -> None:
        """Raise ValueError unless ``tokens`` are (N, L) and known."""
        if tokens.dim() != 2 or tokens.numel() == 0:
            raise ValueError(f"a judge reads (N, L) tokens, got shape {tuple(tokens.shape)}")
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise ValueError(
                f"the judge knows tokens 0..{self.vocab_size - 1}, found "
                f"{int(tokens.min())}..{int(tokens.max())}; was a mask left in a sample?"
            )
