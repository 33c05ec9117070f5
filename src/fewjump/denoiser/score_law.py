"""What recovery from concrete scores leaves: a report of what it had to repair, and, under a mask
and a large vocabulary, a law whose logits and scores are computed when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from torch import Tensor

from fewjump.law.base import row_chunks
from fewjump.law.linear import LinearLaw

# Positions of a deferred law that the mean of a training step's report is taken over, at most.
REPORTED_POSITIONS = 256


class RecoveryReport:
    """What the last recovery had to repair.

    Args:
        clipped_mass: (B, L) probability that the closed form put below zero, without gradients.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(self, clipped_mass: Tensor | None, condition_number: Tensor) -> None:
        self._clipped_mass = clipped_mass
        self.condition_number = condition_number

    @property
    def clipped_mass(self) -> Tensor:
        """Probability that the closed form put below zero: (B, L)."""
        if self._clipped_mass is None:
            self._clipped_mass = self._computed()
        return self._clipped_mass

    def _computed(self) -> Tensor:
        """:attr:`clipped_mass` where it was left to be computed."""
        raise NotImplementedError

    def mean_clipped_mass(self) -> Tensor:
        """Its mean, (): over positions spread evenly where computing all of them costs much."""
        return self.clipped_mass.mean()


class MaskedRecoveryReport(RecoveryReport):
    """Of a masked position's closed form: r(e^σ̄ − 1) at clean tokens, and the rest at the mask.

    Only the mask's entry, 1 − (e^σ̄ − 1)·Σr, can be below zero. A visible position has certainty.

    Args:
        law: its logits are log r + ``offset`` at clean tokens.
        offset: (B,).
        sigma_bar: (B,) noise level.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(
        self, law: LinearLaw, offset: Tensor, sigma_bar: Tensor, condition_number: Tensor
    ) -> None:
        super().__init__(None, condition_number)
        self._law = law.detach()
        self._shift = (torch.expm1(sigma_bar.double()).log() - offset.double()).detach()

    def _computed(self) -> Tensor:
        shape = (self._law.batch_size, self._law.length)
        return self._at(torch.arange(shape[0] * shape[1], device=self._law.device)).reshape(shape)

    def mean_clipped_mass(self) -> Tensor:
        count = self._law.batch_size * self._law.length
        if self._clipped_mass is not None or count <= REPORTED_POSITIONS:
            return self.clipped_mass.mean()
        spread = torch.linspace(0, count - 1, REPORTED_POSITIONS, dtype=torch.float64)
        return self._at(spread.round().long().to(self._law.device)).mean()

    def _at(self, index: Tensor) -> Tensor:
        """Clipped mass at positions (N,), counted row-major: (N,) float64."""
        shown, table = self._law.shown, self._law.table
        assert shown is not None
        out = torch.zeros(index.shape[0], dtype=torch.float64, device=index.device)
        (left,) = (~shown.reshape(-1)[index]).nonzero(as_tuple=True)
        for part in row_chunks(left.shape[0], 1, table.rows_at_once()):
            rows = index[left[part]]
            total = table.index_select(0, rows).logsumexp(-1).double()
            total += self._shift.to(total.device)[rows // self._law.length]
            out[left[part]] = torch.expm1(total).clamp(min=0)
        return out


class ScoreLaw(LinearLaw):
    """A deferred law that knows the concrete scores it was recovered from.

    Laws made from it (selected, tempered, conditioned) are plain ones, as those of a
    :class:`~fewjump.law.ProductLaw` with ``ratios`` are.

    Args:
        law: the law.
        scores: computes its (B, L, V) concrete scores.
    """

    def __init__(self, law: LinearLaw, scores: Callable[[], Tensor]) -> None:
        super().__init__(**law.parts())
        self._scores = scores

    @cached_property
    def ratios(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L, V), computed when first asked for, all at once."""
        with self.watch():
            return self._scores()

    def watched(self, watch: Callable[[], AbstractContextManager[object]]) -> LinearLaw:
        return ScoreLaw(super().watched(watch), lambda: self.ratios)

    def _expanded(self, batch_size: int) -> LinearLaw:
        return ScoreLaw(
            super()._expanded(batch_size), lambda: self.ratios.expand(batch_size, -1, -1)
        )
