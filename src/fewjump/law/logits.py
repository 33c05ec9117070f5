"""Where the logits of a product law come from: a tensor, or a head's features times its weight.

At a vocabulary of 50,000 the logits of one training batch take more memory than the network, and
losses and samplers mostly ask for a sum over the vocabulary at some positions. Rows of logits are
therefore read, and a source may compute them as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.inversion import row_chunks, rows_per_chunk
from fewjump.law.batched import SHARED, Batched
from fewjump.law.log_weights import nucleus, refuse_twice
from fewjump.law.logit_pass import CHUNK_ELEMENTS, Gain, LinearHead, linear_rows, raise_logits

Clock: TypeAlias = Callable[[], AbstractContextManager[object]]

# Tokens of one row whose logits are computed apart from the row, at once: (K, C, D) entries.
_ENTRY_ELEMENTS = 1 << 22


class Guidance(NamedTuple):
    """Two logits and the scale γ (B,) of each row, whose guided combination a law is."""

    conditional: Logits
    unconditional: Logits
    scale: Tensor


class Logits(Batched, ABC):
    """Logits (B, L, V) of independent positions, −inf for impossible tokens.

    Positions are counted row-major over (B, L) where they are read by number.

    Attributes:
        visible: (B, L) boolean, the positions whose token is certain; None for none.
        tokens: (B, L) int64, that token; read only where ``visible`` holds.
        deferred: whether the logits are computed as they are read.
        dtype: of the rows that are read.
        recorded: whether gradients flow to what the logits are made of.
        clock: entered around what is computed as it is read.
        guidance: what guided logits are made of (:mod:`fewjump.law.guided`); None for others.
    """

    length: int
    vocab_size: int
    visible: Tensor | None
    tokens: Tensor | None
    dtype: torch.dtype
    deferred: ClassVar[bool]
    clock: Clock = nullcontext
    guidance: Guidance | None = None

    @property
    @abstractmethod
    def recorded(self) -> bool: ...

    @abstractmethod
    def dense(self) -> Tensor:
        """All of them, (B, L, V), with gradients."""

    @abstractmethod
    def read(self, index: Tensor | slice, out: Tensor | None = None) -> Tensor:
        """The logits of some positions, without gradients: (N, V).

        Args:
            index: (N,) int64, for fresh memory; or a slice, for what may be a view.
            out: (N, V) of :attr:`dtype`, used in place of new memory.
        """

    @abstractmethod
    def entries(self, index: Tensor, columns: Tensor) -> Tensor:
        """Logits at some tokens of some positions, fresh: (K,), (K, C) int64 → (K, C)."""

    def weights(self, index: Tensor) -> Tensor:
        """Probabilities of some positions but for a factor of each, without gradients, fresh.

        Args:
            index: (N,) int64.

        Returns:
            (N, V) in float32 or better.
        """
        rows = self.read(index)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        for part in row_chunks(rows.shape[0], 1, rows_per_chunk(rows.shape[1], rows.device)):
            few = rows[part]
            few.sub_(few.amax(-1, keepdim=True)).exp_()
        return rows

    @abstractmethod
    def rows_at_once(self) -> int:
        """How many positions to read together."""

    def head_at(self, index: Tensor) -> LinearHead | None:
        """The linear head whose rows, with gradients, are the logits of the positions ``index``.

        None where the logits exist, and where the head does not tell all: a token is certain, or
        something was cut from the law.
        """
        return None

    @abstractmethod
    def plus(self, features: Tensor, weight: Tensor) -> Logits:
        """These and features (B, L, r) times weight (V, r); certain positions stay so."""

    @abstractmethod
    def tempered(self, temperature: float, top_p: float) -> Logits:
        """As :meth:`fewjump.law.Law.tempered`."""

    @abstractmethod
    def given(self, x0: Tensor, known: Tensor) -> Logits:
        """As :meth:`fewjump.law.Law.given`."""

    @abstractmethod
    def detach(self) -> Logits:
        """The same without gradients."""

    @abstractmethod
    def replaced(self, rows: Tensor, other: Logits) -> Logits:
        """These with some batch rows (N,) taken from ``other`` (N rows) of the same kind."""

    def timed(self, clock: Clock) -> Logits:
        """The same with another :attr:`clock`."""
        return self

    def uncertain(self, index: Tensor | None = None) -> Tensor:
        """Those of the positions ``index`` (N,), by default all, that are not certain: (M,)."""
        if index is None:
            index = torch.arange(self.batch_size * self.length, device=self.device)
        return index if self.visible is None else index[~self.visible.reshape(-1)[index]]


@dataclass(eq=False)
class DenseLogits(Logits):
    """Logits that exist.

    Certainty is written into the visible rows when it is asked for, as samplers read masked
    positions only.

    Args:
        values: (B, L, V) floating point. Kept, not copied.
        visible, tokens: see :class:`Logits`. Only for values without gradients, which are then
            overwritten; they mean nothing there.
    """

    values: Tensor
    visible: Tensor | None = None
    tokens: Tensor | None = None
    deferred = False

    def __post_init__(self) -> None:
        if self.values.dim() != 3:
            raise ValueError(f"logits must be (B, L, V), got shape {tuple(self.values.shape)}")
        self.batch_size, self.length, self.vocab_size = self.values.shape
        self.dtype = self.values.dtype
        self._written = self.visible is None

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def recorded(self) -> bool:
        return torch.is_grad_enabled() and self.values.requires_grad

    def dense(self) -> Tensor:
        if not self._written:
            assert self.visible is not None
            assert self.tokens is not None
            # Whole rows, and only the visible ones: half the cost of a masked fill, or less.
            self.values[self.visible] = -torch.inf
            row, position = self.visible.nonzero(as_tuple=True)
            self.values[row, position, self.tokens[row, position]] = 0.0
            self._written = True
        return self.values

    def _batched(self) -> dict[str, Tensor | Batched]:
        return {"values": self.dense()}

    def _with(self, **changes: Tensor) -> DenseLogits:
        return DenseLogits(**changes)

    def read(self, index: Tensor | slice, out: Tensor | None = None) -> Tensor:
        if isinstance(index, slice):
            return self.dense().detach().flatten(0, 1)[index]
        rows = torch.index_select(self.values.detach().flatten(0, 1), 0, index, out=out)
        if not self._written:
            _write_certain(rows, index, self)
        return rows

    def entries(self, index: Tensor, columns: Tensor) -> Tensor:
        out = self.values.detach().flatten(0, 1)[index[:, None], columns]
        return out if self._written else _certain_entries(out, index, columns, self)

    def rows_at_once(self) -> int:
        return rows_per_chunk(self.vocab_size, self.device)

    def plus(self, features: Tensor, weight: Tensor) -> DenseLogits:
        return DenseLogits(self.dense() + functional.linear(features, weight))

    def tempered(self, temperature: float, top_p: float) -> DenseLogits:
        return DenseLogits(nucleus(self.dense(), temperature, top_p))

    def given(self, x0: Tensor, known: Tensor) -> DenseLogits:
        return DenseLogits(pin_logits(self.dense(), x0, known))

    def detach(self) -> DenseLogits:
        return DenseLogits(self.dense().detach())

    def replaced(self, rows: Tensor, other: Logits) -> DenseLogits:
        return DenseLogits(self.dense().index_put((rows,), other.dense()))


@dataclass(eq=False)
class LinearLogits(Logits):
    """featuresᵢ·weightᵀ + bias, computed as it is read, except where the token is certain.

    Args:
        features: (B, L, D) floating point.
        weight: (V, D); kept, not copied.
        bias: (V,); −inf marks a token that is impossible wherever it is not certain.
        visible, tokens: see :class:`Logits`.
        raised: (B, L) int64, a token of each position whose logit is higher by ``gain`` than the
            features say (what a noisy token tells about itself); None for none.
        gain: (B, L).
        compute: dtype of the products with the weight; the features' own by default.
        temperature, top_p: as in :meth:`fewjump.law.Law.tempered`, applied to each row when it is
            computed.
        clock: entered around the computation of rows.

    Raises:
        ValueError: for shapes that do not fit.
    """

    features: Tensor
    weight: Tensor = field(metadata=SHARED)
    bias: Tensor = field(metadata=SHARED)
    visible: Tensor | None = None
    tokens: Tensor | None = None
    raised: Tensor | None = None
    gain: Tensor | None = None
    compute: torch.dtype = field(default=None, metadata=SHARED)  # type: ignore[assignment]
    temperature: float = field(default=1.0, metadata=SHARED)
    top_p: float = field(default=1.0, metadata=SHARED)
    clock: Clock = field(default=nullcontext, metadata=SHARED)
    deferred = True

    def __post_init__(self) -> None:
        if self.features.dim() != 3:
            raise ValueError(f"features must be (B, L, D), got shape {tuple(self.features.shape)}")
        self.batch_size, self.length, width = self.features.shape
        self.vocab_size = self.bias.shape[0]
        if self.weight.shape != (self.vocab_size, width):
            raise ValueError(
                f"weight must be (V, D) = {(self.vocab_size, width)}, got "
                f"{tuple(self.weight.shape)}"
            )
        self.compute = self.compute or self.features.dtype
        self.dtype = torch.promote_types(self.compute, torch.float32)
        self._dense: dict[bool, Tensor] = {}

    @property
    def recorded(self) -> bool:
        parts = (self.features, self.weight, self.bias)
        return torch.is_grad_enabled() and any(part.requires_grad for part in parts)

    @property
    def _shaped(self) -> bool:
        return self.temperature != 1 or self.top_p != 1

    def dense(self) -> Tensor:
        """As for every source, in the precision of the products; kept."""
        # What was computed without gradients must not stand in for what has them.
        recorded = self.recorded
        if recorded not in self._dense:
            self._dense[recorded] = self._all()
        return self._dense[recorded]

    def _all(self) -> Tensor:
        with self.clock(), torch.autocast(self.device.type, enabled=False):
            parts = (v.to(self.compute) for v in (self.features, self.weight, self.bias))
            logits = functional.linear(*parts)
        if self.raised is not None and self.gain is not None:
            gain = self.gain[..., None].to(logits.dtype)
            logits = logits.scatter_add_(-1, self.raised[..., None], gain)
        if self._shaped:
            logits = nucleus(logits, self.temperature, self.top_p)
        if self.visible is None:
            return logits
        assert self.tokens is not None
        # The backward pass of a linear layer does not read its output: it may be overwritten.
        row, position = self.visible.nonzero(as_tuple=True)
        logits = logits.masked_fill_(self.visible[..., None], -torch.inf)
        logits[row, position, self.tokens[row, position]] = 0.0
        return logits

    # -- rows -------------------------------------------------------------------------------

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B·L, D), weight and bias without gradients, in the products' precision."""
        features = self.features.detach().flatten(0, 1)
        weight, bias = self.weight.detach(), self.bias.detach()
        return features.to(self.compute), weight.to(self.compute), bias.to(self.compute)

    def read(self, index: Tensor | slice, out: Tensor | None = None) -> Tensor:
        if isinstance(index, slice):
            every = torch.arange(self.batch_size * self.length, device=self.device)
            index = every[index]
        left = self.uncertain(index)
        if left.shape[0] == index.shape[0]:
            return self._computed(index, out)
        shape = (index.shape[0], self.vocab_size)
        rows = torch.empty(shape, dtype=self.dtype, device=self.device) if out is None else out
        where = _write_certain(rows, index, self)
        if left.numel():
            rows[where] = self._computed(left)
        return rows

    def _computed(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        features, weight, bias = self._parts
        with self.clock(), torch.autocast(self.device.type, enabled=False), torch.no_grad():
            rows = linear_rows(features[index], weight, bias, self.dtype, out)
            gain = self._gain(index)
            if gain is not None:
                raise_logits(rows, gain)
            return nucleus(rows, self.temperature, self.top_p) if self._shaped else rows

    def entries(self, index: Tensor, columns: Tensor) -> Tensor:
        out = torch.empty(columns.shape, dtype=self.dtype, device=self.device)
        if self._shaped:
            # What a nucleus holds depends on the whole row.
            for part in row_chunks(index.shape[0], self.vocab_size, CHUNK_ELEMENTS):
                out[part] = self.read(index[part]).gather(1, columns[part])
            return out
        features, weight, bias = self._parts
        with self.clock(), torch.autocast(self.device.type, enabled=False):
            for part in row_chunks(
                index.shape[0], columns.shape[1] * features.shape[1], _ENTRY_ELEMENTS
            ):
                chosen = weight[columns[part]]
                dots = torch.bmm(chosen, features[index[part], :, None])[..., 0]
                out[part] = (dots + bias[columns[part]]).to(self.dtype)
        gain = self._gain(index)
        if gain is not None:
            out += (columns == gain.tokens[:, None]) * gain.amount[:, None].to(out.dtype)
        return out if self.visible is None else _certain_entries(out, index, columns, self)

    def rows_at_once(self) -> int:
        return max(1, CHUNK_ELEMENTS // self.vocab_size)

    def _gain(self, index: Tensor) -> Gain | None:
        if self.raised is None or self.gain is None:
            return None
        return Gain(self.raised.reshape(-1)[index], self.gain.reshape(-1)[index])

    def head_at(self, index: Tensor) -> LinearHead | None:
        if self._shaped or self.uncertain(index).shape[0] != index.shape[0]:
            return None
        features = self.features.flatten(0, 1)[index]
        return LinearHead(features, self.weight, self.bias, self.compute, self._gain(index))

    # -- others -----------------------------------------------------------------------------

    def plus(self, features: Tensor, weight: Tensor) -> LinearLogits:
        refuse_twice(self.temperature, self.top_p)
        return replace(
            self,
            features=torch.cat([self.features, features.to(self.features.dtype)], -1),
            weight=torch.cat([self.weight, weight.to(self.weight.dtype)], -1),
        )

    def tempered(self, temperature: float, top_p: float) -> LinearLogits:
        refuse_twice(self.temperature, self.top_p)
        if temperature == 0 or top_p < 1:
            return replace(self, temperature=temperature, top_p=top_p)
        return replace(
            self,
            features=self.features / temperature,
            bias=self.bias / temperature,
            gain=None if self.gain is None else self.gain / temperature,
        )

    def given(self, x0: Tensor, known: Tensor) -> LinearLogits:
        if self.visible is None or self.tokens is None:
            return replace(self, visible=known, tokens=x0)
        tokens = torch.where(known, x0, self.tokens)
        return replace(self, visible=self.visible | known, tokens=tokens)

    def detach(self) -> LinearLogits:
        parts = {name: getattr(self, name).detach() for name in ("features", "weight", "bias")}
        return replace(self, **parts)

    def timed(self, clock: Clock) -> LinearLogits:
        return replace(self, clock=clock)

    def replaced(self, rows: Tensor, other: Logits) -> Self:
        changes = {}
        for name in ("features", "visible", "tokens", "raised", "gain"):
            mine, theirs = getattr(self, name), getattr(other, name, None)
            if (mine is None) != (theirs is None):
                raise ValueError(f"only one of the two laws has {name}; they are of two heads")
            changes[name] = None if mine is None else mine.index_put((rows,), theirs)
        return replace(self, **changes)


def _write_certain(rows: Tensor, index: Tensor, source: Logits) -> Tensor:
    """Write certainty into those of the rows (N, V) of positions ``index`` that are visible.

    Returns:
        (N,) boolean, the rows that are not.
    """
    assert source.visible is not None
    assert source.tokens is not None
    visible = source.visible.reshape(-1)[index]
    certain = visible.nonzero()[:, 0]
    if certain.numel():
        rows[certain] = -torch.inf
        rows[certain, source.tokens.reshape(-1)[index[certain]]] = 0.0
    return ~visible


def _certain_entries(entries: Tensor, index: Tensor, columns: Tensor, source: Logits) -> Tensor:
    """Entries (K, C), where those of visible positions say what is certain."""
    assert source.visible is not None
    assert source.tokens is not None
    here = columns == source.tokens.reshape(-1)[index, None]
    certain = torch.where(here, 0.0, -torch.inf).to(entries.dtype)
    return torch.where(source.visible.reshape(-1)[index, None], certain, entries)


def pin_logits(logits: Tensor, x0: Tensor, known: Tensor) -> Tensor:
    """Logits with the known positions replaced by certainty at ``x0``: (B, L, V)."""
    pinned = torch.where(known[..., None], -torch.inf, logits)
    at = pinned.gather(-1, x0[..., None])
    return pinned.scatter(-1, x0[..., None], torch.where(known[..., None], 0.0, at))
