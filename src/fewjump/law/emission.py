"""What a hidden state says about its token: the emissions of a chain law."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.law.base import nucleus, row_chunks
from fewjump.law.product import ProductLaw
from fewjump.law.tokens import token_log_prob
from fewjump.random import Generator, categorical_from_logits, invert_cdf, uniform


class Emission(ABC):
    """e_i(x|z): for each position and each of r hidden states a categorical over V tokens."""

    batch_size: int
    length: int
    states: int
    vocab_size: int

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the parameters live."""

    @abstractmethod
    def log_likelihood(self, x0: Tensor) -> Tensor:
        """log e_i(x₀ⁱ|z) for every state: (B, L) → (B, L, r)."""

    @abstractmethod
    def sample(self, state: Tensor, generator: Generator = None) -> Tensor:
        """Draw tokens given (B, L) states: (B, L) int64."""

    @abstractmethod
    def marginals(self, weights: Tensor) -> Tensor:
        """Σ_z weights_i(z)·e_i(·|z): (B, L, r) → (B, L, V)."""

    @abstractmethod
    def tempered(self, temperature: float, top_p: float) -> Emission:
        """Every e_i(·|z) sharpened and truncated to its nucleus."""

    @abstractmethod
    def select(self, rows: Tensor) -> Emission:
        """The emissions of the given batch rows."""

    def expand(self, batch_size: int) -> Emission:
        """Emissions of a batch of one as those of ``batch_size`` rows; see :meth:`Law.expand`."""
        return self.select(torch.zeros(batch_size, dtype=torch.int64, device=self.device))

    def pinned(self, x0: Tensor, known: Tensor) -> Emission:
        """Known positions (B, L) emit their token for certain, whatever the state."""
        return PinnedEmission(self, x0, known)


class DenseEmission(Emission):
    """One categorical per position and state, from logits. For small vocabularies.

    Args:
        logits: (B, L, r, V), unnormalised; −inf marks impossible tokens.
    """

    def __init__(self, logits: Tensor) -> None:
        if logits.dim() != 4:
            raise ValueError(f"logits must be (B, L, r, V), got shape {tuple(logits.shape)}")
        self.logits = logits
        self.batch_size, self.length, self.states, self.vocab_size = logits.shape

    @property
    def device(self) -> torch.device:
        return self.logits.device

    def log_likelihood(self, x0: Tensor) -> Tensor:
        return token_log_prob(self.logits, x0[..., None])

    def sample(self, state: Tensor, generator: Generator = None) -> Tensor:
        index = state[..., None, None].expand(-1, -1, 1, self.vocab_size)
        return categorical_from_logits(self.logits.gather(2, index)[:, :, 0], generator)

    def marginals(self, weights: Tensor) -> Tensor:
        each = ProductLaw(self.logits.flatten(1, 2)).marginals().reshape(self.logits.shape)
        return (weights.to(each.dtype)[..., None, :] @ each)[..., 0, :]

    def tempered(self, temperature: float, top_p: float) -> DenseEmission:
        return DenseEmission(nucleus(self.logits, temperature, top_p))

    def select(self, rows: Tensor) -> DenseEmission:
        return DenseEmission(self.logits[rows])

    def expand(self, batch_size: int) -> DenseEmission:
        return DenseEmission(self.logits.expand(batch_size, -1, -1, -1))


class PinnedEmission(Emission):
    """Another emission, with certainty at known positions.

    Args:
        inner: what holds at the other positions.
        x0: (B, L) int64; read only where ``known``.
        known: (B, L) boolean.
    """

    def __init__(self, inner: Emission, x0: Tensor, known: Tensor) -> None:
        self.inner = inner
        self.known = known
        self.x0 = torch.where(known, x0, 0)
        self.batch_size, self.length = inner.batch_size, inner.length
        self.states, self.vocab_size = inner.states, inner.vocab_size

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def log_likelihood(self, x0: Tensor) -> Tensor:
        free = self.inner.log_likelihood(x0)
        certain = torch.zeros_like(free[..., 0]).masked_fill(x0 != self.x0, -torch.inf)
        return torch.where(self.known[..., None], certain[..., None], free)

    def sample(self, state: Tensor, generator: Generator = None) -> Tensor:
        return torch.where(self.known, self.x0, self.inner.sample(state, generator))

    def marginals(self, weights: Tensor) -> Tensor:
        free = self.inner.marginals(weights)
        certain = torch.zeros_like(free).scatter_(-1, self.x0[..., None], 1.0)
        return torch.where(self.known[..., None], certain, free)

    def tempered(self, temperature: float, top_p: float) -> PinnedEmission:
        return PinnedEmission(self.inner.tempered(temperature, top_p), self.x0, self.known)

    def select(self, rows: Tensor) -> PinnedEmission:
        return PinnedEmission(self.inner.select(rows), self.x0[rows], self.known[rows])

    def expand(self, batch_size: int) -> PinnedEmission:
        x0, known = (value.expand(batch_size, -1) for value in (self.x0, self.known))
        return PinnedEmission(self.inner.expand(batch_size), x0, known)


def draw_rows(
    logits_of: Callable[[slice], Tensor],
    shape: tuple[int, int],
    width: int,
    device: torch.device,
    generator: Generator,
) -> Tensor:
    """Categorical draws from logits that are built a few rows at a time.

    Args:
        logits_of: slice over the B·L rows → (n, V) logits.
        shape: (B, L).
        width: V, which sets how many rows are built at once.
    """
    u = uniform(shape, generator, device).reshape(-1)
    out = torch.empty(u.shape[0], dtype=torch.int64, device=device)
    for rows in row_chunks(u.shape[0], width):
        logits = logits_of(rows)
        weights = (logits - logits.amax(-1, keepdim=True)).exp_()
        out[rows] = invert_cdf(weights, u[rows])
    return out.reshape(shape)
