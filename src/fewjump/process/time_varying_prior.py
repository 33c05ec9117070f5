"""Noise whose prior moves: masks and uniform noise in changing proportions, or any π_t."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fewjump.inversion import row_chunks
from fewjump.process.adaptive import panel_of, refine
from fewjump.process.base import check_laws, check_mask, mask_or_last
from fewjump.process.prior_path import (
    GIDDPriors,
    InterpolatedPriors,
    PriorPath,
    mask_and_uniform,
    prior_path_from_config,
)
from fewjump.process.rank_one import RankOne
from fewjump.process.redraw_law import RedrawLaw
from fewjump.schedule import Schedule, Time, as_time

# Of the quadrature: nodes a panel, and the widest panel to start from.
_NODES = 8
_WIDEST = 0.5
_MOST_PANELS = 1 << 14
_TABLE_LIMIT = 1 << 27


class TimeVaryingPrior(RankOne):
    """Redraw each position at rate σ(t) from a law π_t that changes with time.

    The generators σ(t)·(1π_tᵀ − I) of different times do not commute; the kernel is α·I + 1βᵀ all
    the same, in closed form for the paths of :mod:`fewjump.process.prior_path`. Every operation
    costs O(V).

    Generation starts from :meth:`prior`, the law at t = 1 of a position that was redrawn at all.

    Args:
        path: a :class:`~fewjump.process.prior_path.PriorPath`, or a function that maps times (N,)
            float64 to laws (N, V), which is integrated to ``tolerance``; with a function the
            process works, but cannot be saved.
        schedule: the noise schedule.
        mask: a state that no clean sequence holds, if there is one: denoisers then give it no
            probability, and the last state as mask is not counted among the clean tokens.
        tolerance: of β_{t|s} in the sum of absolute differences; for a function only.
        kept: tokens that are never noised, such as padding; the path must give them nothing.

    Raises:
        ValueError: if the path does not yield laws, or gives some probability to a kept token, or
            the mask is no state.
    """

    def __init__(
        self,
        path: PriorPath | Callable[[Tensor], Tensor],
        schedule: Schedule,
        mask: int | None = None,
        tolerance: float = 1e-10,
        kept: Iterable[int] = (),
    ) -> None:
        if not isinstance(path, PriorPath):
            path = SampledPriors(path, schedule, tolerance)
        self.path, self.schedule = path, schedule
        self.vocab_size = path.vocab_size
        self.mask = check_mask(mask, path.vocab_size)
        self._keep_tokens(kept)
        self._limit = self.kernel(0.0, 1.0).redrawn
        if bool((self.prior()[list(self.kept)] > 0).any()):
            raise ValueError(f"the path must give no probability to the kept tokens {self.kept}")

    @classmethod
    def from_config(cls, options: dict[str, Any]) -> Self:
        if isinstance(options.get("path"), dict):
            options["path"] = prior_path_from_config(options["path"])
        return cls(**options)

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        return cls(InterpolatedPriors([[0.7, 0.1, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]]), schedule)

    def config(self) -> dict[str, Any]:
        return self._described(path=self.path.config(), mask=self.mask, kept=list(self.kept))

    def limit(self) -> RedrawLaw:
        return self._limit

    def redrawn(self, s: Tensor, t: Tensor) -> RedrawLaw:
        level = self.schedule.level
        return RedrawLaw(self.path.redrawn(level(s), level(t), self.schedule.between(s, t)))

    def redraws_from(self, t: Time) -> RedrawLaw:
        return RedrawLaw(self.path.at(self.schedule.level(as_time(t).double())))


class SampledPriors(PriorPath):
    """Any π_t, by Gauss–Legendre quadrature in the noise level.

    Once, the noise from 0 to t = 1 is cut into panels on which one 8-point rule agrees with two
    (:func:`fewjump.process.adaptive.refine`), and β_{t|0} is kept at their edges. A kernel then
    costs one rule over the rest of a panel: O(V) for each time, with 8 calls of the function.

    Args:
        function: times (N,) float64 on the CPU → (N, V), rows non-negative and summing to 1
            within 1e-6. Jumps are allowed, and cost a few dozen panels each.
        schedule: the clock that turns its times into noise levels.
        tolerance: of β_{t|s}, in the sum of absolute differences.

    Attributes:
        error: the estimate that the panels ended with.

    Raises:
        ValueError: if the rows are not probability vectors, or if the function moves too fast for
            the tolerance to be met with 16,384 panels and 2²⁷ numbers.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        schedule: Schedule,
        tolerance: float = 1e-10,
    ) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {tolerance}")
        self.function, self.schedule, self.tolerance = function, schedule, tolerance
        self.vocab_size = self._call(torch.zeros(1, dtype=torch.float64)).shape[1]
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        self._nodes, self._node_weights = torch.tensor(nodes), torch.tensor(weights)
        last = float(schedule.level(1.0))
        count = max(8, round(last / _WIDEST))
        panels = refine(
            torch.linspace(0, last, count + 1, dtype=torch.float64),
            self._integral,
            lambda left, right, a, b: torch.exp(a - b)[:, None] * left + right,
            tolerance,
            min(_MOST_PANELS, max(64, _TABLE_LIMIT // self.vocab_size)),
        )
        self._edges, self.error = panels.edges, panels.error
        table = [torch.zeros(self.vocab_size, dtype=torch.float64)]
        for keep, part in zip(torch.exp(-panels.edges.diff()), panels.values, strict=True):
            table.append(keep * table[-1] + part)
        self._table = torch.stack(table)

    def config(self) -> dict[str, Any]:
        raise ValueError(
            "a prior given as a Python function cannot be written to a file; give the process "
            "InterpolatedPriors(laws, shares), which can (its values at enough times)"
        )

    def at(self, level: Tensor) -> Tensor:
        flat = level.reshape(-1).cpu().double()
        laws = self._call(self.schedule.time_of_sigma_bar(flat))
        return laws.reshape(*level.shape, self.vocab_size).to(level.device)

    def redrawn(self, start: Tensor, end: Tensor, gap: Tensor) -> Tensor:
        start, end, gap = torch.broadcast_tensors(start, end, gap)
        first, last = (v.reshape(-1).cpu().double() for v in (start, end))
        panel = panel_of(self._edges, last)
        edge = self._edges[panel]
        inner = torch.maximum(first, edge)
        total = self._integral(inner, last)
        # From before the panel's edge e: β_{t|s} = β_{t|e} + α_{t|e}·(β_{e|0} − α_{e|s}·β_{s|0}).
        crosses = first < edge
        if bool(crosses.any()):
            begin, middle = first[crosses], edge[crosses]
            before = self._table[panel[crosses]]
            partly = begin > 0
            if bool(partly.any()):
                keep = torch.exp(-(middle - begin))[partly, None]
                before[partly] -= keep * self._from_zero(begin[partly])
            total[crosses] += torch.exp(-(last[crosses] - middle))[:, None] * before.clamp(min=0)
        weight = total.sum(-1, keepdim=True)
        moved = weight > 0
        out = torch.where(moved, total / torch.where(moved, weight, 1.0), 0.0)
        if not bool(moved.all()):
            still = ~moved[:, 0]
            out[still] = self.at(last[still])
        return out.reshape(*end.shape, self.vocab_size).to(end.device)

    def _from_zero(self, level: Tensor) -> Tensor:
        """β at noise ``level`` (N,), from clean data: (N, V)."""
        panel = panel_of(self._edges, level)
        edge = self._edges[panel]
        keep = torch.exp(-(level - edge))[:, None]
        return keep * self._table[panel] + self._integral(edge, level)

    def _integral(self, start: Tensor, end: Tensor) -> Tensor:
        """∫ e^{−(end − ℓ)}·π(ℓ) dℓ by one rule: (N,), (N,) → (N, V)."""
        out = torch.empty(start.shape[0], self.vocab_size, dtype=torch.float64)
        for part in row_chunks(start.shape[0], _NODES * self.vocab_size):
            half = (end[part] - start[part])[:, None] / 2
            before_end = half * (1 - self._nodes)
            levels = end[part, None] - before_end
            laws = self._call(self.schedule.time_of_sigma_bar(levels.reshape(-1)))
            weights = half * self._node_weights * torch.exp(-before_end)
            out[part] = torch.einsum("nk,nkv->nv", weights, laws.reshape(*levels.shape, -1))
        return out

    def _call(self, times: Tensor) -> Tensor:
        laws = self.function(times)
        if not isinstance(laws, Tensor) or laws.dim() != 2 or laws.shape[0] != times.shape[0]:
            got = tuple(laws.shape) if isinstance(laws, Tensor) else type(laws).__name__
            raise ValueError(
                f"the prior function must map times (N,) to (N, V), one law a row; for "
                f"{times.shape[0]} times it gave {got}"
            )
        return check_laws(laws, "the prior function's laws")


def mask_to_uniform(
    vocab_size: int, schedule: Schedule, mask: int | None = None, kept: Iterable[int] = ()
) -> TimeVaryingPrior:
    """Masks near the data, uniform noise over the other tokens later, a straight line between.

    Args:
        vocab_size: number of states V, the mask included.
        schedule: the noise schedule.
        mask: index of the mask; the last state by default.
        kept: tokens that are never noised.
    """
    kept = tuple(kept)
    return _line(mask_and_uniform(vocab_size, mask, kept), schedule, mask, kept)


def uniform_to_mask(
    vocab_size: int, schedule: Schedule, mask: int | None = None, kept: Iterable[int] = ()
) -> TimeVaryingPrior:
    """Uniform noise over the tokens near the data, masks later; see :func:`mask_to_uniform`."""
    kept = tuple(kept)
    return _line(mask_and_uniform(vocab_size, mask, kept).flip(0), schedule, mask, kept)


def gidd(
    vocab_size: int,
    schedule: Schedule,
    peak: float = 0.1,
    mask: int | None = None,
    kept: Iterable[int] = (),
) -> TimeVaryingPrior:
    """GIDD's hybrid: see :class:`~fewjump.process.prior_path.GIDDPriors`."""
    kept = tuple(kept)
    path = GIDDPriors(vocab_size, peak, mask, kept)
    return TimeVaryingPrior(path, schedule, path.mask, kept=kept)


def _line(
    laws: Tensor, schedule: Schedule, mask: int | None, kept: tuple[int, ...]
) -> TimeVaryingPrior:
    mask = mask_or_last(mask, laws.shape[1])
    return TimeVaryingPrior(InterpolatedPriors(laws), schedule, mask, kept=kept)
