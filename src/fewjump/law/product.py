"""The law of a per-position network: independent categoricals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.inversion import invert_cdf, row_chunks
from fewjump.law.base import Draw, Law
from fewjump.law.cross_entropy import (
    SoftCrossEntropy,
    reverse_divergence,
    soft_cross_entropy,
    token_cross_entropy,
)
from fewjump.law.log_weights import at_least_float32, expectation, nucleus
from fewjump.law.logits import Clock, DenseLogits, Logits
from fewjump.law.scores import Scores
from fewjump.random import Generator, uniform, uniform_where


@dataclass(eq=False)
class ProductLaw(Law):
    """p(x₀|x_t) = Πᵢ softmax(logitsᵢ)(x₀ⁱ).

    Methods that return (B, L) or less read deferred logits in chunks, with gradients.

    Args:
        logits: (B, L, V) floating point, unnormalised; −inf marks impossible tokens. Kept, not
            copied. Or what computes rows of them.
        scores: concrete scores from which the law was recovered. Laws made from it (selected,
            tempered, conditioned) have none.
    """

    source: Logits
    independent = chosen_product = True

    def __init__(self, logits: Tensor | Logits, scores: Scores | None = None) -> None:
        self.source = DenseLogits(logits) if isinstance(logits, Tensor) else logits
        self.scores = scores
        self.batch_size, self.length = self.source.batch_size, self.source.length
        self.vocab_size = self.source.vocab_size
        self._normaliser: dict[bool, Tensor] = {}

    @classmethod
    def from_probabilities(cls, probabilities: Tensor) -> ProductLaw:
        """From (B, L, V) non-negative weights."""
        return cls(probabilities.log())

    @property
    def logits(self) -> Tensor:
        """(B, L, V): everything at once."""
        return self.source.dense()

    @property
    def log_normaliser(self) -> Tensor:
        """logsumexp of the logits, (B, L), in at least float32, without a (B, L, V) temporary."""
        # What was computed without gradients must not stand in for what has them.
        recorded = self.source.recorded
        if recorded not in self._normaliser:
            self._normaliser[recorded] = self._all_normalisers(recorded)
        return self._normaliser[recorded]

    def _all_normalisers(self, recorded: bool) -> Tensor:
        if recorded:
            return at_least_float32(self.logits).logsumexp(-1)
        flat = self.logits.reshape(-1, self.vocab_size)
        chunks = row_chunks(flat.shape[0], self.vocab_size)
        parts = [at_least_float32(flat[rows]).logsumexp(-1) for rows in chunks]
        return torch.cat(parts).reshape(self.batch_size, self.length)

    def log_probs(self) -> Tensor:
        """Normalised per-position log-probabilities: (B, L, V)."""
        return self.logits - self.log_normaliser[..., None]

    def marginals(self) -> Tensor:
        return at_least_float32(self.logits).softmax(-1)

    def precise_marginals(self) -> Tensor:
        return self.logits.double().softmax(-1)

    # -- draws ------------------------------------------------------------------------------

    def sample(self, generator: Generator = None) -> Tensor:
        return self.invert(uniform((self.batch_size, self.length), generator, self.device))

    def invert(self, u: Tensor) -> Tensor:
        """The tokens that uniform numbers u (B, L) of (0, 1) draw: (B, L) int64."""
        every = torch.arange(u.numel(), device=u.device)
        return self._draw(every, u.reshape(-1)).reshape(u.shape)

    @torch.no_grad()
    def draw(self, generator: Generator = None) -> Draw:
        return Draw(self.sample(generator), self, None)

    def sample_where(self, where: Tensor, generator: Generator = None) -> Tensor:
        """Draw only the True positions of ``where`` (B, L): (N,) int64 in row-major order."""
        u = uniform_where(where, generator)
        return self._draw(where.reshape(-1).nonzero()[:, 0], u)

    def _draw(self, index: Tensor, u: Tensor) -> Tensor:
        """Invert the rows of positions ``index`` (N,) at u (N,): (N,) int64."""
        source = self.source
        if source.visible is None or source.tokens is None:
            out = torch.empty_like(index)
            left = torch.arange(index.shape[0], device=index.device)
        else:
            out = source.tokens.reshape(-1)[index].clone()
            left = (~source.visible.reshape(-1)[index]).nonzero()[:, 0]
        for part in self._chunks(left):
            out[left[part]] = invert_cdf(source.weights(index[left[part]]), u[left[part]])
        return out

    def _chunks(self, index: Tensor) -> Iterator[slice]:
        return row_chunks(index.shape[0], 1, self.source.rows_at_once())

    # -- sums over the vocabulary -----------------------------------------------------------

    def token_log_prob(self, x0: Tensor) -> Tensor:
        """Per-position log-probability of (B, L) tokens: (B, L)."""
        x0 = self.checked(x0)
        source, rows = self.source, self.source.uncertain()
        head = source.head_at(rows)
        if head is None and (source.recorded or not source.deferred):
            return self.logits.gather(-1, x0[..., None])[..., 0] - self.log_normaliser
        flat = x0.reshape(-1)
        out = torch.full(flat.shape, -torch.inf, dtype=source.dtype, device=self.device)
        if source.visible is not None:
            out[(source.visible & (x0 == source.tokens)).reshape(-1)] = 0.0
        if head is None:
            found = torch.empty(rows.shape, dtype=source.dtype, device=self.device)
            for part in self._chunks(rows):
                log_probs = source.read(rows[part]).log_softmax(-1)
                found[part] = log_probs.gather(1, flat[rows[part], None])[:, 0]
        else:
            # Impossible tokens need no row.
            rows = rows[head.bias.detach()[flat[rows]] > -torch.inf]
            with source.clock():
                found = -token_cross_entropy(source, flat, rows).to(source.dtype)
        return out.index_put((rows,), found).reshape(x0.shape)

    def log_prob(self, x0: Tensor) -> Tensor:
        return self.token_log_prob(x0).sum(-1)

    def conditional_logits(self, x0: Tensor) -> Tensor:
        return self.logits

    def entropy(self) -> Tensor:
        """Entropy of each position in nats: (B, L)."""
        source = self.source
        if source.recorded:
            log_probs = self.log_probs()
            return -expectation(log_probs.exp(), log_probs)
        rows = source.uncertain()
        dtype = torch.promote_types(source.dtype, torch.float32)
        out = torch.zeros(self.batch_size * self.length, dtype=dtype, device=self.device)
        for part in self._chunks(rows):
            log_p = source.read(rows[part]).to(dtype).log_softmax(-1)
            log_p.clamp_(min=torch.finfo(dtype).min)
            out[rows[part]] = -torch.linalg.vecdot(log_p.exp(), log_p)
        return out.reshape(self.batch_size, self.length)

    def position_cross_entropy(self, target: ProductLaw) -> Tensor:
        """−Σ_a target(a)·log p(a) at each position, in nats: (B, L)."""
        source = self.source
        rows = source.uncertain()
        if source.head_at(rows) is None:
            return -expectation(target.marginals().to(self.logits.dtype), self.log_probs())
        shape = (self.batch_size, self.length)
        out = torch.zeros(shape, dtype=source.dtype, device=self.device)
        if source.visible is not None:
            assert source.tokens is not None
            # Certain here: nothing if the target is certain of the same token, else infinite.
            agrees = target.certain_of(torch.where(source.visible, source.tokens, 0))
            out.masked_fill_(source.visible & ~agrees, torch.inf)
        found = self.soft_cross_entropy(target, rows).cross_entropy
        return out.reshape(-1).index_put((rows,), found).reshape(shape)

    @torch.no_grad()
    def certain_of(self, tokens: Tensor) -> Tensor:
        """Where the law allows no token but the given one: (B, L) int64 → (B, L) boolean."""
        source = self.source
        if not source.deferred:
            return self.token_log_prob(tokens) == 0
        if source.visible is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return source.visible & (tokens == source.tokens)

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """Closed form for any target, since log p is a sum over positions: (B,)."""
        return self.position_cross_entropy(as_product(target)).sum(-1)

    def soft_cross_entropy(
        self, target: ProductLaw, rows: Tensor, row_weight: Tensor | None = None
    ) -> SoftCrossEntropy:
        """Of chosen positions (N,), counted row-major over (B, L), in chunks.

        Args:
            target: without gradients.
            rows: (N,) int64.
            row_weight: (N,) constants.
        """
        return soft_cross_entropy(self.source, target.source, rows, row_weight)

    def reverse_divergence(
        self, target: ProductLaw, rows: Tensor, floor: float, row_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """() Σ row_weight·KL(this ‖ target), with gradients, and (N,) each KL, without, in nats.

        Args:
            target: without gradients.
            rows: (N,) int64 positions, counted row-major over (B, L).
            floor: probabilities of the target below it count as it.
            row_weight: (N,) constants.
        """
        return reverse_divergence(self.source, target.source, rows, floor, row_weight)

    def token_cross_entropy(self, x0: Tensor, rows: Tensor) -> Tensor:
        """−log p of tokens (B, L) at chosen positions (N,), counted row-major: (N,), in chunks."""
        return token_cross_entropy(self.source, x0.reshape(-1), rows)

    # -- other laws -------------------------------------------------------------------------

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> ProductLaw:
        nucleus(torch.zeros(1), temperature, top_p)  # refuses bad values before any reading
        if temperature == 1 and top_p == 1:
            return self
        return ProductLaw(self.source.tempered(temperature, top_p))

    def _with(self, **changes: Logits) -> ProductLaw:
        return ProductLaw(changes["source"])

    def _expanded(self, batch_size: int) -> ProductLaw:
        scores = None if self.scores is None else self.scores.expand(batch_size)
        return ProductLaw(self.source.expand(batch_size), scores)

    def given(self, x0: Tensor, known: Tensor) -> ProductLaw:
        return ProductLaw(self.source.given(self.checked(x0, known), known))

    def detach(self) -> ProductLaw:
        """The same law without gradients; draws by its scores need none."""
        return ProductLaw(self.source.detach(), self.scores)

    def timed(self, clock: Clock) -> ProductLaw:
        scores = None if self.scores is None else self.scores.timed(clock)
        return ProductLaw(self.source.timed(clock), scores)

    def replaced(self, rows: Tensor, other: ProductLaw) -> ProductLaw:
        """This law with some batch rows (N,) taken from ``other`` (N rows)."""
        return ProductLaw(self.source.replaced(rows, other.source))


def as_product(law: Law) -> ProductLaw:
    """The product of a law's marginals: the law itself where its positions are independent."""
    if isinstance(law, ProductLaw):
        return law
    return ProductLaw.from_probabilities(law.marginals())
