"""An exact joint law over a small space: a table of V^L weights times per-position factors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from fewjump.law.base import (
    ENUMERATION_LIMIT,
    Law,
    enumerate_states,
    nucleus,
    ravel,
    row_chunks,
    unravel,
)
from fewjump.law.contraction import (
    certain,
    contract,
    normalised,
    outer,
    padded,
    pinned,
    position_entropy,
    scaled,
)
from fewjump.law.product import ProductLaw
from fewjump.random import Generator, invert_cdf, uniform


class EnumeratedLaw(Law):
    """p(x₀|x_t) ∝ table(x₀)·Πᵢ factorᵢ(x₀ⁱ): a prior over sequences and likelihoods.

    The table is shared by the batch, so a batch costs matrix products over two halves of the
    sequence and never a (B, V^L) tensor, except in :meth:`enumerate` and :meth:`tempered`.

    Args:
        tables: (T, v^L) non-negative weights, the last position fastest.
        factors: (B, L, v) non-negative.
        vocab_size: V ≥ v; tokens v..V−1 have probability 0. Default v.
        which: (B,) int64, the table of each row. Default: the only one, or row b uses table b.
        fallback: gives (B, L, v) weights of independent positions, used for the rows whose
            factors exclude every sequence of the table. Called only if there are such rows.

    Raises:
        ValueError: for shapes that do not fit, or if a row has total weight 0 and there is no
            fallback.
    """

    def __init__(
        self,
        tables: Tensor,
        factors: Tensor,
        vocab_size: int | None = None,
        which: Tensor | None = None,
        fallback: Callable[[], Tensor] | None = None,
    ) -> None:
        self.batch_size, self.length, self.tokens = factors.shape
        self.vocab_size = self.tokens if vocab_size is None else vocab_size
        _check_shapes(tables, factors, which, self.vocab_size)
        if which is None:
            index = torch.arange(self.batch_size, device=factors.device)
            which = index if tables.shape[0] > 1 else torch.zeros_like(index)
        self.which = which
        self._tables = tables.double()
        self._factors, log_scale = scaled(factors.double())
        total = self._total()
        #: log Σ_x table(x)·Πᵢ factorᵢ(xⁱ), (B,); −inf where the fallback is used.
        self.log_evidence = total.log() + log_scale
        self._log_total = total.log()
        impossible = total <= 0
        if bool(impossible.any()):
            if fallback is None:
                raise ValueError("a row's factors exclude every sequence and no fallback was given")
            self._use_fallback(impossible, fallback())

    def _use_fallback(self, rows: Tensor, weights: Tensor) -> None:
        flat = torch.ones_like(self._tables[:1])
        self.which = torch.where(rows, self._tables.shape[0], self.which)
        self._tables = torch.cat([self._tables, flat])
        weights, _ = scaled(weights.double())
        self._factors = torch.where(rows[:, None, None], weights, self._factors)
        self._log_total = self._total().log()

    def _total(self) -> Tensor:
        """Σ_x of the scaled weights, (B,), from the halves."""
        left, right = self._halves()
        return (left * contract(self._matrix(), self.which, right)).sum(-1)

    # -- the two halves of the sequence -----------------------------------------------------

    @property
    def _half(self) -> int:
        return self.length // 2

    def _matrix(self, tables: Tensor | None = None) -> Tensor:
        """The tables with the first and the second half of the sequence as rows and columns."""
        tables = self._tables if tables is None else tables
        return tables.reshape(tables.shape[0], self.tokens**self._half, -1)

    def _halves(self) -> tuple[Tensor, Tensor]:
        return outer(self._factors[:, : self._half]), outer(self._factors[:, self._half :])

    @property
    def device(self) -> torch.device:
        return self._factors.device

    # -- Law --------------------------------------------------------------------------------

    @cached_property
    def _cavity(self) -> Tensor:
        left, right = self._halves()
        matrix = self._matrix()
        first = contract(matrix, self.which, right)
        second = contract(matrix.mT, self.which, left)
        split = self._half
        parts = _leave_one_out(first, self._factors[:, :split])
        parts += _leave_one_out(second, self._factors[:, split:])
        return torch.stack(parts, 1)

    def cavity(self) -> Tensor:
        """Law of each position with its own factor removed, (B, L, v), rows sum to 1 (or are 0)."""
        return normalised(self._cavity)

    def marginals(self) -> Tensor:
        return padded(normalised(self._cavity * self._factors), self.vocab_size)

    def log_prob(self, x0: Tensor) -> Tensor:
        inside = (x0 < self.tokens).all(-1)
        x = x0.clamp(max=self.tokens - 1)
        weight = self._tables[self.which, ravel(x, self.tokens)].log()
        factors = self._factors.gather(-1, x[..., None])[..., 0].log().sum(-1)
        return torch.where(inside, weight + factors - self._log_total, -torch.inf)

    def sample(self, generator: Generator = None) -> Tensor:
        u = uniform((self.batch_size, 2), generator, self.device)
        left, right = self._halves()
        matrix = self._matrix()
        first = invert_cdf(left * contract(matrix, self.which, right), u[:, 0])
        second = torch.empty_like(first)
        for rows in row_chunks(self.batch_size, right.shape[1]):
            weights = matrix[self.which[rows], first[rows]] * right[rows]
            second[rows] = invert_cdf(weights, u[rows, 1])
        split = self._half
        head = unravel(first, self.tokens, split)
        return torch.cat([head, unravel(second, self.tokens, self.length - split)], -1)

    def entropy(self) -> Tensor:
        """Entropy of the whole sequence, in nats: (B,)."""
        left, right = self._halves()
        weighted = self._matrix(torch.xlogy(self._tables, self._tables))
        log_table = (left * contract(weighted, self.which, right)).sum(-1) / self._log_total.exp()
        marginals = normalised(self._cavity * self._factors)
        log_factors = torch.xlogy(marginals, self._factors).sum((1, 2))
        return self._log_total - log_table - log_factors

    def total_correlation(self) -> Tensor:
        """Σᵢ H(x₀ⁱ) − H(x₀): what a product of the marginals must miss, in nats: (B,)."""
        return position_entropy(self.marginals()) - self.entropy()

    def _weights(self, rows: slice) -> Tensor:
        """Normalised probabilities of all v^L sequences: (rows, v^L)."""
        factors = self._factors[rows]
        left, right = outer(factors[:, : self._half]), outer(factors[:, self._half :])
        joint = self._matrix()[self.which[rows]] * left[:, :, None] * right[:, None, :]
        return joint.flatten(1) / self._log_total[rows].exp()[:, None]

    def enumerate(self) -> Tensor:
        log_probs = self._weights(slice(None)).log()
        if self.vocab_size == self.tokens:
            return log_probs
        count = self.vocab_size**self.length
        if count > ENUMERATION_LIMIT:
            raise ValueError(
                f"{self.vocab_size}^{self.length} = {count:.3g} states are too many to enumerate "
                f"(limit {ENUMERATION_LIMIT}); use a smaller problem"
            )
        index = ravel(enumerate_states(self.tokens, self.length, self.device), self.vocab_size)
        out = log_probs.new_full((self.batch_size, count), -torch.inf)
        out[:, index] = log_probs
        return out

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> EnumeratedLaw:
        """Sharpen the conditionals p(x₀ⁱ | x₀^{<i}, x_t), drawn from left to right.

        The result holds a table of V^L entries for each row.
        """
        if temperature == 1 and top_p == 1:
            return self
        joint = self._weights(slice(None))
        table = torch.ones_like(joint[:, :1])
        for i in range(self.length):
            prefix = joint.reshape(self.batch_size, self.tokens ** (i + 1), -1).sum(-1)
            prefix = prefix.reshape(self.batch_size, -1, self.tokens)
            # A prefix of probability 0 never occurs; any conditional will do.
            weights = torch.where(prefix.sum(-1, keepdim=True) > 0, prefix, 1.0)
            step = nucleus(weights.log(), temperature, top_p).softmax(-1)
            table = (table[:, :, None] * step).flatten(1)
        return EnumeratedLaw(table, torch.ones_like(self._factors), self.vocab_size)

    def select(self, rows: Tensor) -> EnumeratedLaw:
        law = EnumeratedLaw(self._tables, self._factors[rows], self.vocab_size, self.which[rows])
        law.log_evidence = self.log_evidence[rows]
        return law

    def given(self, x0: Tensor, known: Tensor) -> EnumeratedLaw:
        """Condition exactly on known positions.

        Where the law gives the known tokens probability 0 the answer is a product law: certainty
        at the known positions, this law's marginals elsewhere.
        """

        def fallback() -> Tensor:
            return certain(self.marginals()[..., : self.tokens], x0, known)

        factors = pinned(self._factors, x0, known)
        law = EnumeratedLaw(self._tables, factors, self.vocab_size, self.which, fallback)
        law.log_evidence = law.log_evidence + (self.log_evidence - self._log_total)
        return law

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """−E_target[log p] in nats, (B,): exact for product and enumerated targets, else one draw.

        +inf where the target can produce what this law excludes.
        """
        same_tokens = isinstance(target, EnumeratedLaw) and target.tokens == self.tokens
        if not same_tokens and not isinstance(target, ProductLaw):
            return super().cross_entropy(target, generator)
        marginals = target.marginals().double()
        escaped = marginals[..., self.tokens :].sum((1, 2)) > 0
        expected = torch.empty_like(self._log_total)
        for rows in row_chunks(self.batch_size, self.tokens**self.length):
            if isinstance(target, EnumeratedLaw):
                weights = target._weights(rows)
            else:
                weights = outer(marginals[rows, :, : self.tokens])
            expected[rows] = torch.xlogy(weights, self._weights(rows)).sum(-1)
        return torch.where(escaped, torch.inf, -expected)


def _leave_one_out(table: Tensor, factors: Tensor) -> list[Tensor]:
    """For each i, Σ over the other positions of table·Π_{j≠i} factorⱼ: n tensors (B, v)."""
    batch, count, size = factors.shape
    parts = []
    for i in range(count):
        others = factors.clone()
        others[:, i] = 1
        joint = table * outer(others)
        parts.append(joint.reshape(batch, size**i, size, -1).sum((1, 3)))
    return parts


def _check_shapes(tables: Tensor, factors: Tensor, which: Tensor | None, vocab_size: int) -> None:
    batch, length, tokens = factors.shape
    if tables.dim() != 2 or tables.shape[1] != tokens**length:
        raise ValueError(
            f"tables must be (T, {tokens}^{length}) for factors {tuple(factors.shape)}, "
            f"got {tuple(tables.shape)}"
        )
    if which is None and tables.shape[0] not in (1, batch):
        raise ValueError(
            f"{tables.shape[0]} tables for {batch} rows: say which table each row uses"
        )
    if vocab_size < tokens:
        raise ValueError(f"vocab_size {vocab_size} is smaller than the table's {tokens} tokens")
