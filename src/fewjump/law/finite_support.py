"""An exact joint law over a list of sequences: a weight for each, times per-position factors."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.inversion import invert_cdf, row_chunks
from fewjump.law.log_weights import exponentiated, nucleus
from fewjump.law.posterior import Fallback, PosteriorLaw, normalised, padded
from fewjump.random import Generator, uniform

_HASHES = 8
_ELEMENTS = 1 << 22


class Support:
    """Distinct sequences, in an order in which any of them is found in O(log N).

    Sequences are looked up by a 64-bit hash, and what is found is compared token by token: an
    answer is never a matter of chance.

    Args:
        sequences: (M, L) int64 with tokens of 0..v−1, M ≥ 1; repeated ones count once.
        tokens: v.

    Attributes:
        sequences: (N, L) int64, distinct.
        index: (M,) int64: where each sequence given is among them.
    """

    def __init__(self, sequences: Tensor, tokens: int) -> None:
        self.tokens = tokens
        for seed in range(_HASHES):
            generator = torch.Generator().manual_seed(seed)
            high = torch.iinfo(torch.int64).max
            factors = torch.randint(-high, high, (sequences.shape[1],), generator=generator)
            self._factors = (factors | 1).to(sequences.device)
            hashes, index = self._hash(sequences).unique(return_inverse=True)
            first = torch.empty_like(hashes)
            first[index] = torch.arange(len(index), device=index.device)
            if torch.equal(sequences[first][index], sequences):
                self._hashes, self.index, self.sequences = hashes, index, sequences[first]
                return
        raise ValueError(f"the hashes of {len(sequences)} sequences collide: this is a defect")

    def __len__(self) -> int:
        return len(self.sequences)

    def to(self, device: torch.device) -> Support:
        """The same on another device."""
        if device == self.sequences.device:
            return self
        moved = object.__new__(Support)
        moved.tokens = self.tokens
        for name in ("_factors", "_hashes", "index", "sequences"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def find(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Index of every sequence of ``x`` (B, L), and whether it is there: (B,) and (B,)."""
        at = torch.searchsorted(self._hashes, self._hash(x)).clamp(max=len(self) - 1)
        return at, (self.sequences[at] == x).all(-1)

    def _hash(self, x: Tensor) -> Tensor:
        return (x * self._factors).sum(-1)


class FiniteSupportLaw(PosteriorLaw):
    """p(x₀|x_t) ∝ weight(x₀)·Πᵢ factorᵢ(x₀ⁱ) over the sequences of a list.

    Costs O(B·N·L) time, and memory for a few million numbers: rows are taken a few at a time.

    Args:
        support: N sequences.
        log_tables: (T, N) logs of non-negative weights.
        factors, vocab_size, which, fallback: see :class:`~fewjump.law.posterior.PosteriorLaw`.

    Raises:
        ValueError: for shapes that do not fit, or if a row has total weight 0 and there is no
            fallback.
    """

    def __init__(
        self,
        support: Support,
        log_tables: Tensor,
        factors: Tensor,
        vocab_size: int | None = None,
        which: Tensor | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        if log_tables.dim() != 2 or log_tables.shape[1] != len(support):
            raise ValueError(
                f"log_tables must be (T, {len(support)}), a weight for every sequence, "
                f"got {tuple(log_tables.shape)}"
            )
        if factors.shape[1:] != (support.sequences.shape[1], support.tokens):
            raise ValueError(
                f"factors must be (B, {support.sequences.shape[1]}, {support.tokens}), "
                f"got {tuple(factors.shape)}"
            )
        self.support = support.to(factors.device)
        self._log_tables = log_tables.double().to(factors.device)
        super().__init__(factors, log_tables.shape[0], vocab_size, which, fallback)

    def _append_flat(self) -> None:
        """Rows beyond the tables weigh every sequence alike, those of the support or not."""

    @property
    def _free(self) -> Tensor:
        """Rows whose positions are independent: (B,)."""
        return self.which >= len(self._log_tables)

    def _tilted(
        self, factors: Tensor, which: Tensor, fallback: Fallback | None = None
    ) -> FiniteSupportLaw:
        prior = self.support, self._log_tables
        return FiniteSupportLaw(*prior, factors, self.vocab_size, which, fallback)

    def _parts(self, width: int = 1) -> list[slice]:
        return list(row_chunks(self.batch_size, len(self.support) * width, _ELEMENTS))

    def _log_weights(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Log of weight times the factors that are not 0, and how many are 0: (b, N) each."""
        which = self.which[rows].clamp(max=len(self._log_tables) - 1)
        total = self._log_tables[which]
        zeros = torch.zeros(total.shape, dtype=torch.int32, device=self.device)
        factors = self.factors[rows]
        zero = factors == 0
        logs = torch.where(zero, 1.0, factors).log()
        some = zero.any(0).any(-1).tolist()
        for i, tokens in enumerate(self.support.sequences.T):
            total += logs[:, i].index_select(1, tokens)
            if some[i]:
                zeros += zero[:, i].index_select(1, tokens)
        return total, zeros

    def _probabilities(self, rows: slice) -> Tensor:
        """Probability of every sequence of the support: (b, N); of no meaning in free rows."""
        total, zeros = self._log_weights(rows)
        log_weights = total.masked_fill(zeros > 0, -torch.inf)
        return normalised(exponentiated(log_weights)[0])

    def _by_token(self, weights: Tensor) -> Tensor:
        """Sums of weights (b, N) over the sequences with a token at a position: (b, L, v)."""
        out = weights.new_zeros(len(weights), self.length, self.tokens)
        for i, tokens in enumerate(self.support.sequences.T):
            out[:, i].index_add_(1, tokens, weights)
        return out

    def _sum(self) -> Tensor:
        out = self.factors.sum(-1).log().sum(-1)
        for rows in self._parts():
            total, zeros = self._log_weights(rows)
            inside = total.masked_fill(zeros > 0, -torch.inf).logsumexp(-1)
            out[rows] = torch.where(self._free[rows], out[rows], inside)
        return out

    # -- Law --------------------------------------------------------------------------------

    def marginals(self) -> Tensor:
        out = normalised(self.factors)
        for rows in self._parts():
            inside = self._by_token(self._probabilities(rows))
            out[rows] = torch.where(self._free[rows, None, None], out[rows], inside)
        return padded(out, self.vocab_size)

    def cavity(self) -> Tensor:
        out = torch.full_like(self.factors, 1 / self.tokens)
        for rows in self._parts():
            total, zeros = self._log_weights(rows)
            factors = self.factors[rows]
            # What is left without factor i: of a sequence without zeros, its weight over factor i;
            # of one whose only zero is at i, its weight.
            parts = []
            for count in (0, 1):
                log_weights = total.masked_fill(zeros != count, -torch.inf)
                weights, peak = exponentiated(log_weights)
                parts.append(self._by_token(weights).log() + peak[..., None])
            log_cavity = torch.where(factors > 0, parts[0] - factors.log(), parts[1])
            weights, _ = exponentiated(log_cavity)
            free = self._free[rows, None, None]
            out[rows] = torch.where(free, out[rows], normalised(weights))
        return out

    def log_weight(self, x: Tensor) -> Tensor:
        at, found = self.support.find(x)
        inside = self._log_tables[self.which.clamp(max=len(self._log_tables) - 1), at]
        return torch.where(self._free, 0.0, torch.where(found, inside, -torch.inf))

    def sample(self, generator: Generator = None) -> Tensor:
        # One number of each row is read by its law, whichever it is, so that rows stay apart.
        u = uniform((self.batch_size, self.length), generator, self.device)
        free = self._free
        out = torch.empty(self.batch_size, self.length, dtype=torch.int64, device=self.device)
        for rows in self._parts():
            weights = torch.where(free[rows, None], 1.0, self._probabilities(rows))
            out[rows] = self.support.sequences[invert_cdf(weights, u[rows, 0])]
        if bool(free.any()):
            alone = self.factors[free].flatten(0, 1)
            out[free] = invert_cdf(alone, u[free].flatten()).reshape(-1, self.length)
        return out

    def entropy(self) -> Tensor:
        alone = normalised(self.factors)
        out = -torch.xlogy(alone, alone).sum((1, 2))
        for rows in self._parts():
            p = self._probabilities(rows)
            out[rows] = torch.where(self._free[rows], out[rows], -torch.xlogy(p, p).sum(-1))
        return out

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> FiniteSupportLaw:
        """Sharpen the conditionals p(x₀ⁱ | x₀^{<i}, x_t), drawn from left to right.

        The result holds a weight for each row and sequence: (B, N).
        """
        if temperature == 1 and top_p == 1:
            return self
        # The sequences with the same tokens before position i are one group; a child of a group
        # has its next token too.
        children = []
        group = torch.zeros(len(self.support), dtype=torch.int64, device=self.device)
        for tokens in self.support.sequences.T:
            children.append(group * self.tokens + tokens)
            group = children[-1].unique(return_inverse=True)[1]
        shape = self.batch_size, len(self.support)
        log_tables = self.factors.new_zeros(shape)
        for rows in self._parts(self.tokens):
            p = self._probabilities(rows)
            for child in children:
                groups = int(child.max()) // self.tokens + 1
                sums = p.new_zeros(len(p), groups * self.tokens).index_add_(1, child, p)
                sums = sums.reshape(len(p), groups, self.tokens)
                # A prefix of probability 0 never occurs; any conditional will do.
                weights = torch.where(sums.sum(-1, keepdim=True) > 0, sums, 1.0)
                step = nucleus(weights.log(), temperature, top_p).log_softmax(-1)
                log_tables[rows] += step.flatten(1)[:, child]
        free = self._free
        alone = nucleus(normalised(self.factors).log(), temperature, top_p).softmax(-1)
        factors = torch.where(free[:, None, None], alone, 1.0)
        which = torch.arange(self.batch_size, device=self.device)
        which = torch.where(free, self.batch_size, which)
        return FiniteSupportLaw(self.support, log_tables, factors, self.vocab_size, which)
