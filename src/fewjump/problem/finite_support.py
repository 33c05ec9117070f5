"""Data that are a list of sequences: their law is known exactly at any length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.inversion import invert_shared_cdf
from fewjump.law.finite_support import FiniteSupportLaw, Support
from fewjump.problem.base import Problem
from fewjump.random import Generator, uniform


class FiniteSupport(Problem):
    """A law over the sequences of a list; all others have probability 0.

    With it the exact posterior of a data *set* is a teacher: what a network that has learnt the
    training data by heart would say. Any length and vocabulary; up to millions of sequences.

    Args:
        sequences: (N, L) int64. A sequence that is repeated has the sum of its weights.
        weights: (N,) non-negative, not all 0; divided by their sum. Default: all equal.
        vocab_size: V; default: the largest token + 1.

    Raises:
        ValueError: for an empty list, tokens outside 0..V−1, or weights that are none.
    """

    def __init__(
        self, sequences: Tensor, weights: Tensor | None = None, vocab_size: int | None = None
    ) -> None:
        sequences = torch.as_tensor(sequences).detach().cpu()
        if sequences.dim() != 2 or 0 in sequences.shape:
            raise ValueError(f"sequences must be (N, L), N, L ≥ 1, got {tuple(sequences.shape)}")
        if sequences.is_floating_point() or sequences.dtype == torch.bool:
            raise ValueError(f"sequences must hold integers, got {sequences.dtype}")
        sequences = sequences.long()
        largest = int(sequences.max())
        self.vocab_size = largest + 1 if vocab_size is None else vocab_size
        self.length = sequences.shape[1]
        sequences = self.check_tokens(sequences)
        given = torch.ones(len(sequences)) if weights is None else torch.as_tensor(weights)
        given = given.detach().cpu().double()
        fits = given.shape == (len(sequences),)
        if not fits or not bool((given >= 0).all() & given.isfinite().all()) or not given.any():
            raise ValueError(
                f"weights must be ({len(sequences)},), finite and non-negative, not all 0"
            )
        #: N distinct sequences, (N, L).
        self.support = Support(sequences, self.vocab_size)
        summed = torch.zeros(len(self.support), dtype=torch.float64)
        summed.index_add_(0, self.support.index, given)
        #: Probability of each, (N,) float64.
        self.probs = summed / summed.sum()

    def __repr__(self) -> str:
        size = f"vocab_size={self.vocab_size}, length={self.length}"
        return f"FiniteSupport({len(self.support)} sequences, {size})"

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        return self.support.sequences[invert_shared_cdf(self.probs, uniform((n,), generator))]

    def log_prob(self, x: Tensor) -> Tensor:
        x = self.check_tokens(x)
        at, found = self.support.to(x.device).find(x)
        return torch.where(found, self.probs.to(x.device)[at].log(), -torch.inf)

    def listed(self) -> tuple[Tensor, Tensor]:
        return self.support.sequences, self.probs

    def entropy(self) -> float:
        return -float(torch.xlogy(self.probs, self.probs).sum())

    def posterior_law(
        self,
        factors: Tensor,
        vocab_size: int | None = None,
        fallback: Callable[[], Tensor] | None = None,
    ) -> FiniteSupportLaw:
        table = self.probs.log().to(factors.device)[None]
        return FiniteSupportLaw(self.support, table, factors, vocab_size, fallback=fallback)
