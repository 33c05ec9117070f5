"""The law of a per-position network: independent categoricals."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fewjump.law.base import Batched, Law, at_least_float32, nucleus, row_chunks
from fewjump.law.cross_entropy import SoftCrossEntropy, soft_cross_entropy, token_cross_entropy
from fewjump.law.linear_table import LinearTable
from fewjump.random import Generator, categorical_from_logits


class ProductLaw(Law):
    """p(x₀|x_t) = Πᵢ softmax(logitsᵢ)(x₀ⁱ).

    Args:
        logits: (B, L, V) floating point, unnormalised; −inf marks impossible tokens. The tensor
            is kept, not copied.

    Attributes:
        ratios: (B, L, V) concrete scores from which the law was recovered, None for most laws.
            Samplers step by them: an imperfect network's ratios say more than the nearest law.
    """

    ratios: Tensor | None = None

    def __init__(self, logits: Tensor) -> None:
        if logits.dim() != 3:
            raise ValueError(f"logits must be (B, L, V), got shape {tuple(logits.shape)}")
        self.logits = logits
        self.batch_size, self.length, self.vocab_size = logits.shape

    @classmethod
    def from_probabilities(cls, probabilities: Tensor) -> ProductLaw:
        """From (B, L, V) non-negative weights."""
        return cls(probabilities.log())

    @property
    def has_ratios(self) -> bool:
        """Whether there are :attr:`ratios`, which may be computed when they are read."""
        return self.ratios is not None

    @property
    def rows(self) -> Tensor | LinearTable:
        """The (B·L, V) logits without gradients, to be read by rows."""
        return self.logits.detach().flatten(0, 1)

    @property
    def open_logits(self) -> Tensor:
        """(B, L, V) logits that hold where the state is masked; everywhere, for most laws."""
        return self.logits

    @property
    def open_rows(self) -> Tensor | LinearTable:
        """:attr:`rows` that hold where the state is masked."""
        return self.rows

    @cached_property
    def log_normaliser(self) -> Tensor:
        """logsumexp of the logits, (B, L), in at least float32, without a (B, L, V) temporary."""
        if torch.is_grad_enabled() and self.logits.requires_grad:
            return at_least_float32(self.logits).logsumexp(-1)
        flat = self.logits.reshape(-1, self.vocab_size)
        chunks = row_chunks(flat.shape[0], self.vocab_size)
        parts = [at_least_float32(flat[rows]).logsumexp(-1) for rows in chunks]
        return torch.cat(parts).reshape(self.logits.shape[:-1])

    def log_probs(self) -> Tensor:
        """Normalised per-position log-probabilities: (B, L, V)."""
        return self.logits - self.log_normaliser[..., None]

    def marginals(self) -> Tensor:
        return at_least_float32(self.logits).softmax(-1)

    def precise_marginals(self) -> Tensor:
        return self.logits.double().softmax(-1)

    def token_log_prob(self, x0: Tensor) -> Tensor:
        """Per-position log-probability of (B, L) tokens: (B, L)."""
        return self.logits.gather(-1, x0[..., None])[..., 0] - self.log_normaliser

    def log_prob(self, x0: Tensor) -> Tensor:
        return self.token_log_prob(x0).sum(-1)

    def sample(self, generator: Generator = None) -> Tensor:
        return categorical_from_logits(self.logits, generator)

    def sample_where(self, where: Tensor, generator: Generator = None) -> Tensor:
        """Draw only the True positions of ``where`` (B, L): (N,) int64 in row-major order."""
        return categorical_from_logits(self.logits, generator, where)

    def entropy(self) -> Tensor:
        """Entropy of each position in nats: (B, L)."""
        log_probs = self.log_probs()
        return -_expect(log_probs.exp(), log_probs)

    def position_cross_entropy(self, target: ProductLaw) -> Tensor:
        """−Σ_a target(a)·log p(a) at each position, in nats: (B, L)."""
        return -_expect(target.marginals().to(self.logits.dtype), self.log_probs())

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """Closed form for any target, since log p is a sum over positions: (B,)."""
        if isinstance(target, ProductLaw):
            return self.position_cross_entropy(target).sum(-1)
        weights = target.marginals().to(self.logits.dtype)
        return -_expect(weights, self.log_probs()).sum(-1)

    def soft_cross_entropy(
        self, target: ProductLaw, rows: Tensor, row_weight: Tensor | None = None
    ) -> SoftCrossEntropy:
        """Of chosen positions (N,), counted row-major over (B, L), in chunks.

        Args:
            target: without gradients.
            rows: (N,) int64.
            row_weight: (N,) constants.
        """
        return soft_cross_entropy(self.logits.flatten(0, 1), target.rows, rows, row_weight)

    def token_cross_entropy(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """−log p(token) at chosen positions (N,), counted row-major: (B·L,) → (N,), in chunks."""
        return token_cross_entropy(self.logits.flatten(0, 1), tokens, rows)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> ProductLaw:
        if temperature == 1 and top_p == 1:
            return self
        return ProductLaw(nucleus(self.logits, temperature, top_p))

    def _batched(self) -> dict[str, Tensor | Batched]:
        return {"logits": self.logits}

    def _with(self, **changes: Tensor) -> ProductLaw:
        return ProductLaw(**changes)

    def _expanded(self, batch_size: int) -> ProductLaw:
        law = ProductLaw(self.logits.expand(batch_size, -1, -1))
        if self.ratios is not None:
            law.ratios = self.ratios.expand(batch_size, -1, -1)
        return law

    def given(self, x0: Tensor, known: Tensor) -> ProductLaw:
        return ProductLaw(pin_logits(self.logits, x0, known))

    def detach(self) -> ProductLaw:
        """The same law without gradients."""
        return ProductLaw(self.logits.detach())


def pin_logits(logits: Tensor, x0: Tensor, known: Tensor) -> Tensor:
    """Logits with the known positions replaced by certainty at ``x0``: (B, L, V)."""
    pinned = torch.where(known[..., None], -torch.inf, logits)
    at = pinned.gather(-1, x0[..., None])
    return pinned.scatter(-1, x0[..., None], torch.where(known[..., None], 0.0, at))


def _expect(weights: Tensor, values: Tensor) -> Tensor:
    """Σ weights·values over the last axis with 0·(−inf) = 0 (in value and in gradient)."""
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(-1)
