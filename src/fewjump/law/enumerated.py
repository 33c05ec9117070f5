"""An exact joint law over a small space: a table of V^L weights times per-position factors."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fewjump.inversion import invert_cdf, row_chunks
from fewjump.law.base import Law, check_enumerable, enumerate_states, ravel, unravel
from fewjump.law.log_weights import nucleus
from fewjump.law.posterior import Fallback, PosteriorLaw, contract, normalised, outer
from fewjump.random import Generator, uniform


class EnumeratedLaw(PosteriorLaw):
    """p(x₀|x_t) ∝ table(x₀)·Πᵢ factorᵢ(x₀ⁱ): a prior over sequences and likelihoods.

    The table is shared by the batch, so a batch costs matrix products over two halves of the
    sequence and never a (B, V^L) tensor, except in :meth:`enumerate` and :meth:`tempered`.

    Args:
        tables: (T, v^L) non-negative weights, the last position fastest.
        factors, vocab_size, which, fallback: see :class:`~fewjump.law.posterior.PosteriorLaw`.

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
        fallback: Fallback | None = None,
    ) -> None:
        _, length, tokens = factors.shape
        if tables.dim() != 2 or tables.shape[1] != tokens**length:
            raise ValueError(
                f"tables must be (T, {tokens}^{length}) for factors {tuple(factors.shape)}, "
                f"got {tuple(tables.shape)}"
            )
        self._tables = tables.double()
        super().__init__(factors, tables.shape[0], vocab_size, which, fallback)

    def _append_flat(self) -> None:
        self._tables = torch.cat([self._tables, torch.ones_like(self._tables[:1])])

    def _tilted(
        self, factors: Tensor, which: Tensor, fallback: Fallback | None = None
    ) -> EnumeratedLaw:
        return EnumeratedLaw(self._tables, factors, self.vocab_size, which, fallback)

    def _sum(self) -> Tensor:
        left, right = self._halves()
        return (left * contract(self._matrix(), self.which, right)).sum(-1).log()

    # -- the two halves of the sequence -----------------------------------------------------

    @property
    def _half(self) -> int:
        return self.length // 2

    def _matrix(self, tables: Tensor | None = None) -> Tensor:
        """The tables with the first and the second half of the sequence as rows and columns."""
        tables = self._tables if tables is None else tables
        return tables.reshape(tables.shape[0], self.tokens**self._half, -1)

    def _halves(self) -> tuple[Tensor, Tensor]:
        return outer(self.factors[:, : self._half]), outer(self.factors[:, self._half :])

    # -- Law --------------------------------------------------------------------------------

    @cached_property
    def _cavity(self) -> Tensor:
        left, right = self._halves()
        matrix = self._matrix()
        first = contract(matrix, self.which, right)
        second = contract(matrix.mT, self.which, left)
        split = self._half
        parts = _leave_one_out(first, self.factors[:, :split])
        parts += _leave_one_out(second, self.factors[:, split:])
        return torch.stack(parts, 1)

    def cavity(self) -> Tensor:
        return normalised(self._cavity)

    def log_weight(self, x: Tensor) -> Tensor:
        return self._tables[self.which, ravel(x, self.tokens)].log()

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
        left, right = self._halves()
        weighted = self._matrix(torch.xlogy(self._tables, self._tables))
        log_table = (left * contract(weighted, self.which, right)).sum(-1) / self.log_total.exp()
        marginals = normalised(self._cavity * self.factors)
        log_factors = torch.xlogy(marginals, self.factors).sum((1, 2))
        return self.log_total - log_table - log_factors

    def _weights(self, rows: slice) -> Tensor:
        """Normalised probabilities of all v^L sequences: (rows, v^L)."""
        factors = self.factors[rows]
        left, right = outer(factors[:, : self._half]), outer(factors[:, self._half :])
        joint = self._matrix()[self.which[rows]] * left[:, :, None] * right[:, None, :]
        return joint.flatten(1) / self.log_total[rows].exp()[:, None]

    def enumerate(self) -> Tensor:
        log_probs = self._weights(slice(None)).log()
        if self.vocab_size == self.tokens:
            return log_probs
        check_enumerable(self.vocab_size, self.length)
        index = ravel(enumerate_states(self.tokens, self.length, self.device), self.vocab_size)
        count = self.vocab_size**self.length
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
        return EnumeratedLaw(table, torch.ones_like(self.factors), self.vocab_size)

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """−E_target[log p] in nats, (B,): exact for product and enumerated targets, else one draw.

        +inf where the target can produce what this law excludes.
        """
        same_tokens = isinstance(target, EnumeratedLaw) and target.tokens == self.tokens
        if not same_tokens and not target.independent:
            return super().cross_entropy(target, generator)
        marginals = target.marginals().double()
        escaped = marginals[..., self.tokens :].sum((1, 2)) > 0
        expected = torch.empty_like(self.log_total)
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
        parts.append(joint.reshape(batch, size**i, size, size ** (count - 1 - i)).sum((1, 3)))
    return parts
