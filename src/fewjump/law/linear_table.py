"""Rows of a table of logits that never exists as a whole: features times a head's weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.law.base import nucleus, row_chunks

if TYPE_CHECKING:
    from fewjump.law.linear import LinearLaw

# Entries of one chunk of logits. Fewer rows would read the whole weight too often: at a hidden
# width of 768 a chunk of 150 rows computes for ten times as long as it reads.
CHUNK_ELEMENTS = 1 << 23
# Tokens of one row whose logits are computed apart from the row, at once: (K, C, D) entries.
_ENTRY_ELEMENTS = 1 << 22


class LinearTable:
    """The (B·L, V) logits of a :class:`~fewjump.law.linear.LinearLaw`, computed as rows are read.

    No gradient flows through it. It has as much of a tensor's interface as samplers need.
    """

    def __init__(self, law: LinearLaw) -> None:
        def flat(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.reshape(-1)

        self.features = law.features.detach().flatten(0, 1).to(law.compute)
        self.weight, self.bias = (v.detach().to(law.compute) for v in (law.weight, law.bias))
        self.shown, self.tokens = flat(law.shown), flat(law.tokens)
        self.raised, self.gain = flat(law.raised), flat(law.gain)
        self.temperature, self.top_p, self.watch = law.temperature, law.top_p, law.watch
        self.shape = torch.Size((self.features.shape[0], self.weight.shape[0]))
        self.dtype = torch.promote_types(law.compute, torch.float32)
        self.device = self.features.device

    def index_select(self, dim: int, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The rows ``index`` (N,), fresh: (N, V) in at least float32. ``dim`` must be 0.

        ``out``, of that shape and dtype, is used instead of new memory.
        """
        if dim != 0:
            raise ValueError("a LinearTable is read by rows: dim must be 0")
        if self.shown is None:
            return self._open(index, out)
        shown = self.shown[index]
        certain = shown.nonzero()[:, 0]
        if not certain.numel():
            return self._open(index, out)
        assert self.tokens is not None
        shape = (index.shape[0], self.shape[1])
        rows = torch.empty(shape, dtype=self.dtype, device=self.device) if out is None else out
        rows.fill_(-torch.inf)
        rows[certain, self.tokens[index[certain]]] = 0.0
        left = (~shown).nonzero()[:, 0]
        if left.numel():
            rows[left] = self._open(index[left])
        return rows

    def _open(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        with self.watch(), torch.autocast(self.device.type, enabled=False), torch.no_grad():
            rows = linear_rows(self.features[index], self.weight, self.bias, self.dtype, out)
            if self.raised is not None and self.gain is not None:
                raise_logits(rows, self.raised[index], self.gain[index])
            if self.temperature != 1 or self.top_p != 1:
                rows = nucleus(rows, self.temperature, self.top_p)
            return rows

    def entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits at some columns of some rows: (K,), (K, C) int64 → (K, C)."""
        out = torch.empty(columns.shape, dtype=self.dtype, device=self.device)
        if self.temperature != 1 or self.top_p != 1:
            # What a nucleus holds depends on the whole row.
            for part in row_chunks(rows.shape[0], self.shape[1], CHUNK_ELEMENTS):
                out[part] = self.index_select(0, rows[part]).gather(1, columns[part])
            return out
        width = columns.shape[1] * self.features.shape[1]
        with self.watch(), torch.autocast(self.device.type, enabled=False):
            for part in row_chunks(rows.shape[0], width, _ENTRY_ELEMENTS):
                weight = self.weight[columns[part]]
                dots = torch.bmm(weight, self.features[rows[part], :, None])[..., 0]
                out[part] = (dots + self.bias[columns[part]]).to(self.dtype)
        if self.raised is not None and self.gain is not None:
            here = columns == self.raised[rows, None]
            out += here * self.gain[rows, None].to(out.dtype)
        if self.shown is not None:
            assert self.tokens is not None
            certain = torch.where(columns == self.tokens[rows, None], 0.0, -torch.inf)
            out = torch.where(self.shown[rows, None], certain.to(out.dtype), out)
        return out

    def rows_at_once(self) -> int:
        """How many rows to read together."""
        return max(1, CHUNK_ELEMENTS // self.shape[1])


def linear_rows(
    features: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """features·weightᵀ + bias, in ``dtype`` and in ``out`` if it is given; without gradients."""
    if out is None:
        return functional.linear(features, weight, bias).to(dtype)
    if features.dtype == dtype:
        return torch.addmm(bias, features, weight.T, out=out)
    return out.copy_(functional.linear(features, weight, bias))


def raise_logits(rows: Tensor, tokens: Tensor, gain: Tensor) -> None:
    """Add gain (N,) at the tokens (N,) of rows (N, V), in place."""
    rows.scatter_add_(1, tokens[:, None], gain[:, None].to(rows.dtype))
