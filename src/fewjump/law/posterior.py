"""Exact joint laws of a prior over sequences and a likelihood for every position.

A prior (a table of sequences, or a Markov chain) is common to the batch, or one of a few that rows
of the batch choose from; per-row *factors* multiply it. All is in float64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.inversion import row_chunks
from fewjump.law.base import Law

Fallback = Callable[[], Tensor]


class PosteriorLaw(Law):
    """p(x₀|x_t) ∝ prior(x₀)·Πᵢ factorᵢ(x₀ⁱ), for any of T priors.

    Args:
        factors: (B, L, v) non-negative.
        priors: T.
        vocab_size: V ≥ v; tokens v..V−1 have probability 0. Default v.
        which: (B,) int64, the prior of each row. Default: the only one, or row b uses prior b.
        fallback: gives (B, L, v) weights of independent positions, used for the rows whose
            factors exclude every sequence of the prior. Called only if there are such rows.

    Attributes:
        log_evidence: (B,) log Σ_x prior(x)·Πᵢ factorᵢ(xⁱ); −inf where the fallback is used.

    Raises:
        ValueError: for a ``vocab_size`` below v or priors that no row is told to use, or if a row
            has total weight 0 and there is no fallback.
    """

    def __init__(
        self,
        factors: Tensor,
        priors: int,
        vocab_size: int | None,
        which: Tensor | None,
        fallback: Fallback | None,
    ) -> None:
        self.batch_size, self.length, self.tokens = factors.shape
        self.vocab_size = self.tokens if vocab_size is None else vocab_size
        if self.vocab_size < self.tokens:
            raise ValueError(f"vocab_size {self.vocab_size} is smaller than {self.tokens} tokens")
        if which is None:
            if priors not in (1, self.batch_size):
                raise ValueError(
                    f"{priors} priors for {self.batch_size} rows: say which prior each row uses"
                )
            index = torch.arange(self.batch_size, device=factors.device)
            which = index if priors > 1 else torch.zeros_like(index)
        self.which = which
        #: Rescaled to a largest entry of 1 at each position.
        self.factors, log_scale = scaled(factors.double())
        #: log of the total weight with these, (B,).
        self.log_total = self._sum()
        self.log_evidence = self.log_total + log_scale
        impossible = self.log_total == -torch.inf
        if not bool(impossible.any()):
            return
        if fallback is None:
            raise ValueError("a row's factors exclude every sequence and no fallback was given")
        # One prior more, without any preference, for the rows that need it.
        self._append_flat()
        self.which = torch.where(impossible, priors, which)
        weights, _ = scaled(fallback().double())
        self.factors = torch.where(impossible[:, None, None], weights, self.factors)
        self.log_total = self._sum()

    @abstractmethod
    def _sum(self) -> Tensor:
        """log Σ_x prior(x)·Πᵢ factorᵢ(xⁱ), (B,); −inf where it is 0."""

    @abstractmethod
    def _append_flat(self) -> None:
        """Add a prior of weight 1 for every sequence."""

    @abstractmethod
    def _tilted(
        self, factors: Tensor, which: Tensor, fallback: Fallback | None = None
    ) -> PosteriorLaw:
        """The same priors with other factors."""

    @abstractmethod
    def log_weight(self, x: Tensor) -> Tensor:
        """log prior(x), not normalised: (B, L) tokens below v → (B,)."""

    @abstractmethod
    def cavity(self) -> Tensor:
        """Law of each position with its own factor left out: (B, L, v), rows sum to 1 or are 0."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropy of the whole sequence, in nats: (B,)."""

    @property
    def device(self) -> torch.device:
        return self.factors.device

    def marginals(self) -> Tensor:
        return padded(normalised(self.cavity() * self.factors), self.vocab_size)

    def log_prob(self, x0: Tensor) -> Tensor:
        x0 = self.checked(x0)
        inside = (x0 < self.tokens).all(-1)
        x = x0.clamp(max=self.tokens - 1)
        factors = self.factors.gather(-1, x[..., None])[..., 0].log().sum(-1)
        value = self.log_weight(x) + factors - self.log_total
        return torch.where(inside, value, -torch.inf)

    def total_correlation(self) -> Tensor:
        """Σᵢ H(x₀ⁱ) − H(x₀): what a product of the marginals must miss, in nats: (B,).

        Raises:
            ValueError: where :meth:`entropy` does.
        """
        return position_entropy(self.marginals()) - self.entropy()

    def select(self, rows: Tensor) -> PosteriorLaw:
        law = self._tilted(self.factors[rows], self.which[rows])
        law.log_evidence = self.log_evidence[rows]
        return law

    def given(self, x0: Tensor, known: Tensor) -> PosteriorLaw:
        """Condition exactly on known positions.

        Where the law gives the known tokens probability 0 the answer is a product law: certainty
        at the known positions, this law's marginals elsewhere.
        """
        x0 = self.checked(x0, known)

        def fallback() -> Tensor:
            return certain(self.marginals()[..., : self.tokens], x0, known)

        law = self._tilted(pinned(self.factors, x0, known), self.which, fallback)
        law.log_evidence = law.log_evidence + (self.log_evidence - self.log_total)
        return law


def contract(tables: Tensor, which: Tensor, vectors: Tensor) -> Tensor:
    """Σ_c tables[which[b], r, c]·vectors[b, c], without a copy of a shared table per row.

    Args:
        tables: (T, R, C).
        which: (B,) int64, the table of each row.
        vectors: (B, C).

    Returns:
        (B, R).
    """
    if tables.shape[0] == 1:
        return vectors @ tables[0].mT
    if tables.shape[0] == 2:
        second = (which == 1)[:, None]
        return torch.where(second, vectors @ tables[1].mT, vectors @ tables[0].mT)
    out = vectors.new_empty(vectors.shape[0], tables.shape[1])
    for rows in row_chunks(vectors.shape[0], tables.shape[1] * tables.shape[2]):
        picked = tables[which[rows]]
        out[rows] = torch.bmm(picked, vectors[rows, :, None])[..., 0]
    return out


def outer(factors: Tensor) -> Tensor:
    """Products Πᵢ factors[b, i, xⁱ] over all x, the last position fastest: (B, n, v) → (B, vⁿ)."""
    product = factors.new_ones(factors.shape[0], 1)
    for i in range(factors.shape[1]):
        product = (product[:, :, None] * factors[:, i, None, :]).flatten(1)
    return product


def scaled(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Factors divided by their largest entry at each position, and the log of what was taken out.

    (B, L, v) → ((B, L, v), (B,)). A position of zeros stays as it is.
    """
    peak = factors.amax(-1, keepdim=True)
    peak = torch.where(peak > 0, peak, 1.0)
    return factors / peak, peak.log().sum((1, 2))


def normalised(weights: Tensor) -> Tensor:
    """The last axis divided by its sum; rows of zeros stay zero."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def pinned(factors: Tensor, x0: Tensor, known: Tensor) -> Tensor:
    """Factors that exclude every token but ``x0`` at the known positions: (B, L, v) → (B, L, v).

    Raises:
        ValueError: if a known token lies outside {0..v−1}.
    """
    size = factors.shape[-1]
    outside = known & ((x0 < 0) | (x0 >= size))
    if bool(outside.any()):
        raise ValueError(
            f"a known position holds a token outside 0..{size - 1}; only clean tokens can be given"
        )
    tokens = torch.arange(size, device=factors.device)
    return torch.where(known[..., None] & (tokens != x0[..., None]), 0.0, factors)


def certain(marginals: Tensor, x0: Tensor, known: Tensor) -> Tensor:
    """Marginals with the known positions replaced by certainty at ``x0``: (B, L, v)."""
    tokens = torch.arange(marginals.shape[-1], device=marginals.device)
    hot = (tokens == x0[..., None]).to(marginals.dtype)
    return torch.where(known[..., None], hot, marginals)


def padded(probabilities: Tensor, vocab_size: int) -> Tensor:
    """Zero columns appended up to ``vocab_size`` tokens: (..., v) → (..., vocab_size)."""
    missing = vocab_size - probabilities.shape[-1]
    return torch.nn.functional.pad(probabilities, (0, missing)) if missing else probabilities


def position_entropy(marginals: Tensor) -> Tensor:
    """Σᵢ entropy of position i, in nats: (B, L, v) → (B,)."""
    return -torch.xlogy(marginals, marginals).sum((1, 2))
