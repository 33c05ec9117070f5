"""Dataclasses of batched tensors: what laws, logits, chains and emissions are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

#: Metadata of a dataclass field of a :class:`Batched` that all rows have in common: a table, an
#: option.
SHARED = {"shared": True}


class Batched:
    """A dataclass of tensors whose first axis is the batch, or of other such dataclasses.

    Rows are picked and repeated in every field at once, but for those marked :data:`SHARED`
    and those that are None.
    """

    batch_size: int

    def _batched(self) -> dict[str, Tensor | Batched]:
        parts = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata}  # type: ignore[arg-type]
        return {name: part for name, part in parts.items() if part is not None}

    def _each(self, change: Callable[[Tensor | Batched], Tensor | Batched]) -> Self:
        return self._with(**{name: change(part) for name, part in self._batched().items()})

    def _with(self, **changes: Any) -> Self:
        return replace(self, **changes)  # type: ignore[type-var]

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(iter(self._batched().values())).device

    def select(self, rows: Tensor) -> Self:
        """The given batch rows: ``rows`` is an index or boolean tensor over B."""
        return self._each(lambda v: v[rows] if isinstance(v, Tensor) else v.select(rows))

    def expand(self, batch_size: int) -> Self:
        """A batch of one as ``batch_size`` rows, each drawn on its own.

        As with :meth:`torch.Tensor.expand` nothing of the law's size is copied, so the tensors of
        the result are not to be written to.

        Raises:
            ValueError: for a batch of more than one row.
        """
        if self.batch_size != 1:
            raise ValueError(f"only a batch of one row can be expanded, this has {self.batch_size}")
        return self._expanded(batch_size)

    def _expanded(self, batch_size: int) -> Self:
        if not is_dataclass(self):
            return self.select(torch.zeros(batch_size, dtype=torch.int64, device=self.device))

        def repeat(part: Tensor | Batched) -> Tensor | Batched:
            if isinstance(part, Tensor):
                return part.expand(batch_size, *part.shape[1:])
            return part.expand(batch_size)

        return self._each(repeat)
