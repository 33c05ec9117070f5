"""What recovery from concrete scores leaves: a report of what it had to repair, and, under a mask
and a large vocabulary, a law whose logits and scores are computed when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

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

    def __init__(self, clipped_mass: Tensor, condition_number: Tensor) -> None:
        self.clipped_mass = clipped_mass
        self.condition_number = condition_number

    def mean_clipped_mass(self) -> Tensor:
        """Its mean, (): over positions spread evenly where computing all of them costs much."""
        return self.clipped_mass.mean()


class MaskedRecoveryReport(RecoveryReport):
    """Of a masked position's closed form; see :class:`ScoreLaw`.

    Only the mask's entry, 1 − (e^σ̄ − 1)·Σr, can be below zero.

    Args:
        law: what was recovered.
        shift: as for :class:`ScoreLaw`.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(self, law: LinearLaw, shift: Tensor, condition_number: Tensor) -> None:
        self.condition_number = condition_number
        # It outlives the training step, whose graph must not.
        self._law, self._shift = law.detach(), shift.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskedRecoveryReport:
        # A copied network need not copy its weights again for the sake of a report.
        return self

    @cached_property
    def clipped_mass(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L), computed when first asked for."""
        return (clean_mass(self._law, self._shift) - 1).clamp(min=0)

    def mean_clipped_mass(self) -> Tensor:
        count = self._law.batch_size * self._law.length
        if "clipped_mass" in vars(self) or count <= REPORTED_POSITIONS:
            return self.clipped_mass.mean()
        spread = torch.linspace(0, count - 1, REPORTED_POSITIONS, dtype=torch.float64)
        index = spread.round().long().to(self._law.device)
        return (clean_mass(self._law, self._shift, index) - 1).clamp(min=0).mean()


@torch.no_grad()
def clean_mass(law: LinearLaw, shift: Tensor, index: Tensor | None = None) -> Tensor:
    """Σ of the closed form over clean tokens, in chunks: (N,) float64, or (B, L) of all positions.

    Args:
        law, shift: as for :class:`ScoreLaw`.
        index: (N,) int64 positions, counted row-major; visible ones have 1.
    """
    assert law.shown is not None
    if index is None:
        every = torch.arange(law.batch_size * law.length, device=law.device)
        return clean_mass(law, shift, every).reshape(law.batch_size, law.length)
    out = torch.ones(index.shape[0], dtype=torch.float64, device=index.device)
    (left,) = (~law.shown.reshape(-1)[index]).nonzero(as_tuple=True)
    for part in row_chunks(left.shape[0], 1, law.rows.rows_at_once()):
        rows = index[left[part]]
        total = law.rows.index_select(0, rows).logsumexp(-1).double()
        out[left[part]] = torch.exp(total + shift.to(total.device)[rows // law.length])
    return out


class ScoreLaw(LinearLaw):
    """A deferred law that knows the concrete scores it was recovered from, under a mask.

    The closed form of a masked position is r(e^σ̄ − 1) at clean tokens and 1 less their sum at the
    mask; the law is its clean part, normalised. A visible position has certainty. Laws made from it
    (selected, tempered, conditioned) are plain ones, as those of a
    :class:`~fewjump.law.ProductLaw` with ``ratios`` are.

    Args:
        law: the law; its logits are log r at clean tokens but for a number per sequence.
        scores: computes its (B, L, V) concrete scores.
        shift: (B,), what makes log r(e^σ̄ − 1) of the logits.
        mass: (B, L), where :attr:`mass` is known already.
    """

    def __init__(
        self,
        law: LinearLaw,
        scores: Callable[[], Tensor],
        shift: Tensor,
        mass: Tensor | None = None,
    ) -> None:
        super().__init__(**law.parts())
        self._scores, self._shift, self._mass = scores, shift.detach().double(), mass

    @property
    def has_ratios(self) -> bool:
        return True

    @cached_property
    def ratios(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L, V), computed when first asked for, all at once."""
        with self.watch():
            return self._scores()

    @property
    def mass(self) -> Tensor:
        """Σ of the closed form over clean tokens; 1 for exact scores: (B, L) float64."""
        if self._mass is None:
            self._mass = clean_mass(self, self._shift)
        return self._mass

    def watched(self, watch: Callable[[], AbstractContextManager[object]]) -> LinearLaw:
        return ScoreLaw(super().watched(watch), lambda: self.ratios, self._shift, self._mass)

    def _expanded(self, batch_size: int) -> LinearLaw:
        # Rows that are alike are summed up once.
        return ScoreLaw(
            super()._expanded(batch_size),
            lambda: self.ratios.expand(batch_size, -1, -1),
            self._shift.expand(batch_size),
            self.mass.expand(batch_size, -1),
        )
