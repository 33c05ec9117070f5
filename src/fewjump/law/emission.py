"""What a hidden state, or a component, says about its token: r categoricals at every position.

From 8,192 tokens or so on r·V numbers at each position do not fit; :class:`SharedFactorEmission`
and :class:`LowRankEmission` give the same law by factors, and never write that many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from fewjump.inversion import invert_logits, row_chunks
from fewjump.law.batched import SHARED, Batched
from fewjump.law.cross_entropy import token_log_prob
from fewjump.law.emission_normaliser import CHUNK, log_matmul_exp, low_rank_normaliser, tiles
from fewjump.law.log_weights import (
    at_least_float32,
    exponentiated,
    nucleus,
    outside_autocast,
    refuse_twice,
)
from fewjump.law.logits import pin_logits
from fewjump.random import Generator, categorical_from_logits, uniform


class Emission(Batched, ABC):
    """e_i(x|z): for each position and each of r hidden states a categorical over V tokens."""

    length: int
    states: int
    vocab_size: int

    @abstractmethod
    def log_likelihood(self, x0: Tensor) -> Tensor:
        """log e_i(x₀ⁱ|z) for every state: (B, L) → (B, L, r)."""

    @abstractmethod
    def logits_of(self, state: Tensor) -> Tensor:
        """Logits of one state at each position: (B, L) int64 → (B, L, V)."""

    @abstractmethod
    def marginals(self, weights: Tensor) -> Tensor:
        """Σ_z weights_i(z)·e_i(·|z): (B, L, r) → (B, L, V)."""

    @abstractmethod
    def tempered(self, temperature: float, top_p: float) -> Emission:
        """Every e_i(·|z) sharpened and truncated to its nucleus."""

    def sample(self, state: Tensor, generator: Generator = None) -> Tensor:
        """Draw tokens given (B, L) states: (B, L) int64."""
        return categorical_from_logits(self.logits_of(state), generator)

    def pinned(self, x0: Tensor, known: Tensor) -> Emission:
        """Known positions (B, L) emit their token for certain, whatever the state."""
        return PinnedEmission(self, torch.where(known, x0, 0), known)


@dataclass(eq=False)
class DenseEmission(Emission):
    """One categorical per position and state, from logits. For small vocabularies.

    Args:
        logits: (B, L, r, V), unnormalised; −inf marks impossible tokens. Kept, not copied.
    """

    logits: Tensor

    def __post_init__(self) -> None:
        if self.logits.dim() != 4:
            raise ValueError(f"logits must be (B, L, r, V), got shape {tuple(self.logits.shape)}")
        self.batch_size, self.length, self.states, self.vocab_size = self.logits.shape

    def log_likelihood(self, x0: Tensor) -> Tensor:
        # Read in the order in which they lie in memory.
        by_state = self.logits.transpose(1, 2)
        if by_state.is_contiguous():
            return token_log_prob(by_state, x0[:, None]).transpose(1, 2)
        return token_log_prob(self.logits, x0[..., None])

    def logits_of(self, state: Tensor) -> Tensor:
        index = state[..., None, None].expand(-1, -1, 1, self.vocab_size)
        return self.logits.gather(2, index)[:, :, 0]

    def marginals(self, weights: Tensor) -> Tensor:
        flat = self.logits.flatten(0, 1)
        weights = weights.reshape(-1, 1, self.states)
        out = []
        for rows in row_chunks(len(flat), self.states * self.vocab_size):
            each = at_least_float32(flat[rows]).softmax(-1)
            out.append(_product(weights[rows].to(each.dtype), each)[:, 0])
        return torch.cat(out).reshape(self.batch_size, self.length, self.vocab_size)

    def tempered(self, temperature: float, top_p: float) -> DenseEmission:
        return DenseEmission(nucleus(self.logits, temperature, top_p))


@dataclass(eq=False)
class PinnedEmission(Emission):
    """Another emission, with certainty at known positions.

    Args:
        inner: what holds at the other positions.
        x0: (B, L) int64; 0 where not ``known``.
        known: (B, L) boolean.
    """

    inner: Emission
    x0: Tensor
    known: Tensor

    def __post_init__(self) -> None:
        self.batch_size, self.length = self.inner.batch_size, self.inner.length
        self.states, self.vocab_size = self.inner.states, self.inner.vocab_size

    def log_likelihood(self, x0: Tensor) -> Tensor:
        free = self.inner.log_likelihood(x0)
        certain = torch.zeros_like(free[..., 0]).masked_fill(x0 != self.x0, -torch.inf)
        return torch.where(self.known[..., None], certain[..., None], free)

    def logits_of(self, state: Tensor) -> Tensor:
        return pin_logits(self.inner.logits_of(state), self.x0, self.known)

    def sample(self, state: Tensor, generator: Generator = None) -> Tensor:
        return torch.where(self.known, self.x0, self.inner.sample(state, generator))

    def marginals(self, weights: Tensor) -> Tensor:
        free = self.inner.marginals(weights)
        certain = torch.zeros_like(free).scatter_(-1, self.x0[..., None], 1.0)
        return torch.where(self.known[..., None], certain, free)

    def tempered(self, temperature: float, top_p: float) -> PinnedEmission:
        return replace(self, inner=self.inner.tempered(temperature, top_p))


@dataclass(eq=False)
class FactoredEmission(Emission):
    """Base of emissions e_i(z, x) ∝ exp(u_i(x) + s_i(z, x)) whose s is given by small factors.

    Args:
        base: (B, L, V) logits u, shared by the states; −inf marks impossible tokens.
        temperature, top_p: applied to every e_i(·|z); :meth:`tempered` sets them.
    """

    #: Fields in which the logits are linear together: a temperature divides these.
    scores: ClassVar[tuple[str, str]]

    base: Tensor
    temperature: float = field(default=1.0, kw_only=True, metadata=SHARED)
    top_p: float = field(default=1.0, kw_only=True, metadata=SHARED)

    def __post_init__(self) -> None:
        if self.base.dim() != 3:
            raise ValueError(f"base must be (B, L, V), got shape {tuple(self.base.shape)}")
        self.batch_size, self.length, self.vocab_size = self.base.shape

    @abstractmethod
    def _state_logits(self, rows: slice, state: Tensor) -> Tensor:
        """Logits of rows of the flattened (B·L) positions, one state each: (n, V)."""

    @abstractmethod
    def _log_likelihood(self, x0: Tensor) -> Tensor:
        """:meth:`log_likelihood` of the emissions as they were given, not tempered."""

    @property
    def _plain(self) -> bool:
        return self.temperature == 1 and self.top_p == 1

    def _flat_base(self) -> Tensor:
        return self.base.reshape(-1, self.vocab_size)

    def _shaped(self, rows: slice, state: Tensor) -> Tensor:
        return nucleus(self._state_logits(rows, state), self.temperature, self.top_p)

    def _rows(self) -> Iterator[slice]:
        return row_chunks(self.batch_size * self.length, self.vocab_size, CHUNK)

    def logits_of(self, state: Tensor) -> Tensor:
        return self._shaped(slice(None), state.reshape(-1)).reshape(self.base.shape)

    def sample(self, state: Tensor, generator: Generator = None) -> Tensor:
        flat = state.reshape(-1)
        u = uniform(state.shape, generator, self.device).reshape(-1)
        out = torch.empty_like(flat)
        for rows in self._rows():
            out[rows] = invert_logits(self._shaped(rows, flat[rows]), u[rows])
        return out.reshape(state.shape)

    def log_likelihood(self, x0: Tensor) -> Tensor:
        if self._plain:
            return self._log_likelihood(x0)
        flat = x0.reshape(-1)
        columns = []
        for z in range(self.states):
            parts = []
            for rows in self._rows():
                token = flat[rows]
                parts.append(token_log_prob(self._shaped(rows, torch.full_like(token, z)), token))
            columns.append(torch.cat(parts))
        return torch.stack(columns, -1).reshape(*x0.shape, self.states)

    def marginals(self, weights: Tensor) -> Tensor:
        flat = weights.reshape(-1, self.states)
        out = []
        for rows in self._rows():
            total = torch.zeros((), dtype=flat.dtype, device=self.device)
            for z in range(self.states):
                state = torch.full((len(flat[rows]),), z, device=self.device)
                each = at_least_float32(self._shaped(rows, state)).softmax(-1)
                total = total + flat[rows, z, None] * each
            out.append(total)
        return torch.cat(out).reshape(self.base.shape)

    def tempered(self, temperature: float, top_p: float) -> Self:
        refuse_twice(self.temperature, self.top_p)
        if temperature > 0 and top_p == 1:
            return replace(
                self, **{name: getattr(self, name) / temperature for name in self.scores}
            )
        return replace(self, temperature=temperature, top_p=top_p)


@dataclass(eq=False)
class SharedFactorEmission(FactoredEmission):
    """e_i(z, x) ∝ exp(u_i(x))·B_i[z, x], B a non-negative table shared by all rows.

    Normalisers are one matrix product exp(u)·Bᵀ (METHOD section 4), taken a few rows at a time.

    Args:
        base: (B, L, V) logits u.
        log_factor: the logarithm of B, −inf where it is 0: (r, V) for one table at all positions,
            or (L, r, V).
    """

    scores = "base", "log_factor"

    log_factor: Tensor = field(metadata=SHARED)

    def __post_init__(self) -> None:
        super().__post_init__()
        shape, (length, vocab_size) = self.log_factor.shape, self.base.shape[1:]
        if len(shape) not in (2, 3) or shape[-1] != vocab_size or shape[:-2] not in ((), (length,)):
            raise ValueError(
                f"log_factor must be (r, V) or (L, r, V) with (L, V) = {(length, vocab_size)}, "
                f"got shape {tuple(shape)}"
            )
        self.states = shape[-2]
        self.log_factor = at_least_float32(self.log_factor)

    def _grouped(self, value: Tensor) -> Tensor:
        """Numbers of each position (B, L, n), together with those of one table: (G, N, n)."""
        if self.log_factor.dim() == 3:
            return value.transpose(0, 1)
        return value.reshape(1, -1, value.shape[-1])

    def _ungrouped(self, value: Tensor) -> Tensor:
        if self.log_factor.dim() == 3:
            return value.transpose(0, 1)
        return value.reshape(self.batch_size, self.length, value.shape[-1])

    def _tables(self) -> Tensor:
        return self.log_factor.reshape(-1, self.states, self.vocab_size)

    @cached_property
    def log_normaliser(self) -> Tensor:
        """log Σ_x exp(u_i(x))·B[z, x]: (B, L, r); 0 for an empty sum."""
        return self._ungrouped(log_matmul_exp(self._grouped(self.base), self._tables()))

    def _log_likelihood(self, x0: Tensor) -> Tensor:
        chosen = at_least_float32(self.base.gather(-1, x0[..., None]))
        if self.log_factor.dim() == 2:
            return chosen + self.log_factor.T[x0] - self.log_normaliser
        return chosen + position_rows(self.log_factor, x0) - self.log_normaliser

    def _state_logits(self, rows: slice, state: Tensor) -> Tensor:
        if self.log_factor.dim() == 2:
            return self._flat_base()[rows] + self.log_factor[state]
        start, stop, _ = rows.indices(self.batch_size * self.length)
        position = torch.arange(start, stop, device=self.device) % self.length
        return self._flat_base()[rows] + self.log_factor[position, state]

    def marginals(self, weights: Tensor) -> Tensor:
        """Σ_z w(z)·e(z, x) = exp(u(x))·Σ_z (w(z)/normaliser(z))·B[z, x]: two matrix products."""
        if not self._plain:
            return super().marginals(weights)
        base, grouped = self._grouped(self.base), self._grouped(weights)
        tables, out = self._tables(), []
        for groups, rows in tiles(*base.shape):
            mixed = _mixed(base[groups, rows], tables[groups], grouped[groups, rows])
            if rows.start == 0:
                out.append([mixed])
            else:
                out[-1].append(mixed)
        return self._ungrouped(torch.cat([torch.cat(parts, 1) for parts in out]))


@outside_autocast
def _product(left: Tensor, right: Tensor) -> Tensor:
    return left @ right


@outside_autocast
def _mixed(base: Tensor, tables: Tensor, weights: Tensor) -> Tensor:
    """Marginals of some positions: (g, n, V), (g, r, V), (g, n, r) → (g, n, V)."""
    share, _ = exponentiated(at_least_float32(base))
    factor, _ = exponentiated(tables.to(share.dtype))
    total, weights = share @ factor.mT, weights.to(share.dtype)
    # A state is computed from its logits where products underflow, or where the gradient, which
    # divides by the square of the sum, would overflow.
    lost = total < torch.finfo(total.dtype).tiny ** 0.5
    mixed = share * ((weights / total.masked_fill(lost, 1.0)).masked_fill(lost, 0.0) @ factor)
    found = (lost & (weights > 0)).nonzero()
    for part in row_chunks(len(found), base.shape[-1], CHUNK):
        group, row, state = found[part].unbind(1)
        law = at_least_float32(base[group, row] + tables[group, state]).softmax(-1)
        value = weights[group, row, state, None] * law
        mixed = mixed.index_put((group, row), value.to(mixed.dtype), accumulate=True)
    return mixed


@dataclass(eq=False)
class LowRankEmission(FactoredEmission):
    """e_i(z, x) ∝ exp(u_i(x) + a_i(z)·W(x)), with per-position, per-state features a of rank d.

    Normalisers over V are computed over chunks of the vocabulary and again in the backward pass:
    what is kept is the target's logit and r normalisers per position.

    Args:
        base: (B, L, V) logits u.
        features: (B, L, r, d), the a.
        tokens: (V, d), the W.
    """

    scores = "base", "features"

    features: Tensor
    tokens: Tensor = field(metadata=SHARED)

    def __post_init__(self) -> None:
        super().__post_init__()
        features, base = self.features.shape, self.base.shape
        if len(features) != 4 or features[:2] != base[:2]:
            raise ValueError(
                f"features must be (B, L, r, d) with (B, L) = {tuple(base[:2])}, "
                f"got shape {tuple(features)}"
            )
        if self.tokens.shape != (base[-1], features[-1]):
            raise ValueError(
                f"tokens must be (V, d) = ({base[-1]}, {features[-1]}), "
                f"got shape {tuple(self.tokens.shape)}"
            )
        self.states = features[2]
        self.features = at_least_float32(self.features)
        self.tokens = at_least_float32(self.tokens)

    def _log_likelihood(self, x0: Tensor) -> Tensor:
        features = self.features.flatten(0, 1)
        normaliser = low_rank_normaliser(self._flat_base(), features, self.tokens)
        chosen = at_least_float32(self.base.gather(-1, x0[..., None]))
        chosen = chosen + _product(self.features, self.tokens[x0][..., None])[..., 0]
        return chosen - normaliser.reshape(chosen.shape)

    def _state_logits(self, rows: slice, state: Tensor) -> Tensor:
        features = self.features.flatten(0, 1)[rows]
        index = torch.arange(features.shape[0], device=self.device)
        base = at_least_float32(self._flat_base()[rows])
        return torch.addmm(base, features[index, state], self.tokens.T)


def position_rows(tables: Tensor, x: Tensor) -> Tensor:
    """tables[i, :, xⁱ]: (L, K, V), (B, L) → (B, L, K)."""
    length, _, size = tables.shape
    if len(x) < size and not tables.requires_grad:
        # Fewer entries than the tables have: a turned copy of these would cost more.
        return tables[torch.arange(length, device=x.device), :, x]
    rows = tables.transpose(1, 2).flatten(0, 1)
    return nn.functional.embedding(size * torch.arange(length, device=x.device) + x, rows)
