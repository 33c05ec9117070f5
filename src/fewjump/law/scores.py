"""The concrete scores that a law was recovered from, for samplers that step by them.

An imperfect network's ratios say more than the nearest law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fewjump.inversion import row_chunks, rows_per_chunk
from fewjump.law.batched import SHARED, Batched
from fewjump.law.logits import Clock, Logits


@dataclass(eq=False)
class Ratios(Batched):
    """p_t(x with xⁱ→y)/p_t(x), (B, L, V), read by rows from what a network returned.

    Args:
        source: the ratios or their logarithms, whatever they are at the current token.
        x: (B, L) int64, the state.
        log: whether they are logarithms.
    """

    source: Logits
    x: Tensor
    log: bool = field(metadata=SHARED)

    def __post_init__(self) -> None:
        self.batch_size = self.source.batch_size

    def dense(self) -> Tensor:
        """All of them, (B, L, V), 1 at the current token, with gradients."""
        ratios = self.source.dense()
        if not self.log:
            return ratios.scatter(-1, self.x[..., None], 1.0)
        ratios = ratios.exp()
        if ratios.requires_grad:
            return ratios.scatter(-1, self.x[..., None], 1.0)
        return ratios.scatter_(-1, self.x[..., None], 1.0)

    def read(
        self, index: Tensor, change: Callable[[Tensor, slice], object] | None = None
    ) -> Tensor:
        """Those of some positions, 1 at the current token, without gradients: (N, V).

        Args:
            index: (N,) int64, counted row-major over (B, L).
            change: called with a few rows at a time, to change them in place while they are near
                the processor, and with which of the N they are.
        """
        rows = self.source.read(index)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        here = self.x.reshape(-1)[index, None]
        for part in row_chunks(rows.shape[0], 1, rows_per_chunk(rows.shape[1], rows.device)):
            few = rows[part]
            if self.log:
                few.exp_()
            few.scatter_(1, here[part], 1.0)
            if change is not None:
                change(few, part)
        return rows

    def timed(self, clock: Clock) -> Ratios:
        """The same with a clock around what is computed."""
        return self._with(source=self.source.timed(clock))


class Scores:
    """What samplers ask of concrete scores.

    Args:
        ratios: the scores; None where the sums are all that is asked for.
        clean_mass: computes what the closed form of a masked position sums to over clean tokens (1
            for exact scores, and at visible positions), (B, L) float64; None without a mask.
    """

    def __init__(
        self, ratios: Ratios | None, clean_mass: Callable[[], Tensor] | None = None
    ) -> None:
        self.ratios, self._clean_mass = ratios, clean_mass

    @cached_property
    def clean_mass(self) -> Tensor | None:
        """(B, L) float64; None without a mask."""
        return None if self._clean_mass is None else self._clean_mass()

    def expand(self, batch_size: int) -> Scores:
        """Those of one row for ``batch_size`` rows, computed once."""

        def mass() -> Tensor:
            assert self.clean_mass is not None
            return self.clean_mass.expand(batch_size, -1)

        ratios = None if self.ratios is None else self.ratios.expand(batch_size)
        return Scores(ratios, None if self._clean_mass is None else mass)

    def timed(self, clock: Clock) -> Scores:
        """The same with a clock around what is computed."""

        def mass() -> Tensor:
            with clock():
                assert self.clean_mass is not None
                return self.clean_mass

        ratios = None if self.ratios is None else self.ratios.timed(clock)
        return Scores(ratios, None if self._clean_mass is None else mass)
