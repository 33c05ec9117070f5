"""Sequences of which a part is given: prompts and infilling, in distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.law.base import Law
from fewjump.options.objectives import KnownName
from fewjump.process import Process
from fewjump.random import Generator, uniform


def draw_known(name: KnownName, share: float, x0: Tensor, generator: Generator = None) -> Tensor:
    """Which positions of a batch are given: boolean, (B, L). At least one of each row is not.

    * ``prefix``: the first p, p uniform on {0..m} with m = ⌊share·L⌋.
    * ``infill``: all but a stretch of L − p, p as above, which lies anywhere.
    * ``scattered``: each on its own, with a probability that is uniform on (0, share) by row.

    Args:
        name: the rule.
        share: largest share of positions that is given (``scattered``: on average).
        x0: (B, L), for its shape.
        generator: see :mod:`fewjump.random`.
    """
    batch, length = x0.shape
    place = torch.arange(length, device=x0.device)
    most = int(share * length)
    first = uniform((batch,), generator, x0.device)[:, None]
    if name == "scattered":
        known = uniform((batch, length), generator, x0.device) < share * first
        # Should all be given by chance, the last is not.
        return known & ~(known.all(-1, keepdim=True) & (place == length - 1))
    count = (first * (most + 1)).long().clamp_(max=most)
    if name == "prefix":
        return place < count
    second = uniform((batch,), generator, x0.device)[:, None]
    start = (second * (count + 1)).long().minimum(count)
    return (place < start) | (place >= start + length - count)


class Given:
    """The given positions of a batch, or none.

    Args:
        x0: (B, L) int64 clean tokens.
        known: (B, L) boolean; None where nothing is given.
        process: the forward process.
    """

    def __init__(self, x0: Tensor, known: Tensor | None, process: Process) -> None:
        self.x0, self.known = x0, known
        # Under a mask what is shown clean is certain to every law already.
        self.certain = known is None or process.absorbing

    @classmethod
    def draw(
        cls,
        name: KnownName | None,
        share: float,
        x0: Tensor,
        process: Process,
        generator: Generator = None,
    ) -> Given:
        """By rule (see :func:`draw_known`); without one nothing is given, and nothing is drawn."""
        known = None if name is None else draw_known(name, share, x0, generator)
        return cls(x0, known, process)

    def pin(self, x: Tensor) -> Tensor:
        """A state (..., B, L) with the given positions clean."""
        return x if self.known is None else torch.where(self.known, self.x0, x)

    def open(self, values: Tensor) -> Tensor:
        """Values (B, L) of the other positions; 0 (or False) at the given ones."""
        return values if self.known is None else values.masked_fill(self.known, 0)

    def condition(self, law: Law, rows: Tensor | None = None) -> Law:
        """The law of the batch (or of its ``rows``) given those positions."""
        if self.certain:
            return law
        assert self.known is not None
        if rows is None:
            return law.given(self.x0, self.known)
        return law.given(self.x0[rows], self.known[rows])
