"""A prior given as a function of time, integrated by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.process.adaptive import refine
from fewjump.process.prior_path import PriorPath, check_laws
from fewjump.schedule import Schedule

_NODES = 8
_WIDEST = 0.5
_MOST_PANELS = 1 << 14
_TABLE_LIMIT = 1 << 27
_CHUNK_ELEMENTS = 1 << 22


class SampledPriors(PriorPath):
    """Any π_t, by Gauss–Legendre quadrature in the noise level.

    Once, the noise from 0 to t = 1 is cut into panels on which one 8-point rule agrees with two
    (:func:`fewjump.process.adaptive.refine`), and β_{t|0} is kept at their edges. A kernel then
    costs one rule over the rest of a panel: O(V) for each time, with 8 calls of the function.
    Steps shorter than a panel are integrated directly, so that nothing cancels.

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
        panel = self._panel_of(last)
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

    def _panel_of(self, level: Tensor) -> Tensor:
        found = torch.searchsorted(self._edges, level, right=True) - 1
        return found.clamp(0, self._edges.shape[0] - 2)

    def _from_zero(self, level: Tensor) -> Tensor:
        """β at noise ``level`` (N,), from clean data: (N, V)."""
        panel = self._panel_of(level)
        edge = self._edges[panel]
        keep = torch.exp(-(level - edge))[:, None]
        return keep * self._table[panel] + self._integral(edge, level)

    def _integral(self, start: Tensor, end: Tensor) -> Tensor:
        """∫ e^{−(end − ℓ)}·π(ℓ) dℓ by one rule: (N,), (N,) → (N, V)."""
        out = torch.empty(start.shape[0], self.vocab_size, dtype=torch.float64)
        rows = max(1, _CHUNK_ELEMENTS // (_NODES * self.vocab_size))
        for begin in range(0, start.shape[0], rows):
            part = slice(begin, begin + rows)
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
        return check_laws(laws)
