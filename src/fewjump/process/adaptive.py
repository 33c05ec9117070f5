"""Cut an interval into panels on which a formula is as exact as asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# No panel has to be more exact than this share of the whole tolerance: a jump of the integrand
# is then closed in on, by halving, in a few dozen panels.
_LEAST_SHARE = 1 / 4096


class Panels(NamedTuple):
    """An interval cut into N panels.

    Attributes:
        edges: (N + 1,) float64, increasing.
        values: (N, ...) the formula on each.
        error: sum of the errors estimated, an upper estimate for the whole interval.
    """

    edges: Tensor
    values: Tensor
    error: float


def panel_of(edges: Tensor, level: Tensor) -> Tensor:
    """The panel (...) int64 that each level lies in, the first or last for one outside."""
    found = torch.searchsorted(edges, level.contiguous(), right=True) - 1
    return found.clamp(0, edges.shape[0] - 2)


def refine(
    edges: Tensor,
    evaluate: Callable[[Tensor, Tensor], Tensor],
    combine: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    tolerance: float,
    limit: int,
    order: int = 0,
) -> Panels:
    """Halve panels until one step over each agrees with two steps over its halves.

    Args:
        edges: (N + 1,) float64, increasing: where the formula must not step across, and a start.
        evaluate: (a, b), each (N,) → (N, ..., V), the formula from a to b.
        combine: (left, right, middle, end) → the formula over both halves, the right one of
            which goes from middle to end.
        tolerance: allowed error of the whole, in the largest row sum of absolute differences.
            Each panel may use its share of it, by width.
        limit: largest number of panels.
        order: if given, two steps are taken to be 2^order − 1 times as exact as their difference
            from one, as they are where the formula has that order; at a jump they are less so.

    Raises:
        ValueError: if more panels would be needed.
    """
    span = float(edges[-1] - edges[0])
    start, end = edges[:-1], edges[1:]
    whole = evaluate(start, end)
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    count, total_error = 0, 0.0
    while start.numel():
        middle = (start + end) / 2
        left, right = evaluate(start, middle), evaluate(middle, end)
        difference = (combine(left, right, middle, end) - whole).abs().sum(-1)
        difference = difference / (2**order - 1 if order else 1)
        error = difference.flatten(1).amax(1) if difference.dim() > 1 else difference
        allowed = tolerance * ((end - start) / span).clamp(min=_LEAST_SHARE)
        # Where the midpoint is an end in floating point, there is nothing left to halve.
        fine = (error <= allowed) | (middle <= start) | (middle >= end)
        done += [(start[fine], middle[fine], left[fine]), (middle[fine], end[fine], right[fine])]
        total_error += float(error[fine].sum())
        count += 2 * int(fine.sum())
        rough = ~fine
        if count + 4 * int(rough.sum()) > limit:
            worst = int(error.argmax())
            raise ValueError(
                f"a tolerance of {tolerance:.1g} needs more than {limit} steps (near noise level "
                f"{float(middle[worst]):.4g} an error of {float(error[worst]):.2g} is left); the "
                "function of time given moves too fast there: smooth it, or raise the tolerance "
                "(a function that computes in float32 is rough at this scale)"
            )
        whole = torch.cat([left[rough], right[rough]])
        start, end = (
            torch.cat([start[rough], middle[rough]]),
            torch.cat([middle[rough], end[rough]]),
        )
    starts, ends, values = (torch.cat(parts) for parts in zip(*done, strict=True))
    sequence = starts.argsort()
    return Panels(torch.cat([starts[sequence], ends[sequence][-1:]]), values[sequence], total_error)
