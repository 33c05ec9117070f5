"""Axes of a chart: where a value falls, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A range with its ticks.

    Attributes:
        low, high: ends of the range, low < high.
        ticks: values to mark, ascending, inside the range.
        log: whether positions follow the logarithm.
    """

    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, start: float, end: float) -> Callable[[float], float]:
        """The map from values to pixels that puts ``low`` at ``start`` and ``high`` at ``end``."""
        forward = math.log if self.log else float
        low, span = forward(self.low), forward(self.high) - forward(self.low)
        return lambda value: start + (end - start) * (forward(value) - low) / span


def budget_axis(values: Iterable[float]) -> Axis:
    """A logarithmic axis that ticks exactly the budgets that were measured."""
    ticks = sorted(set(values))
    low, high = ticks[0], ticks[-1]
    if low == high:
        low, high = low / 2, high * 2
    while len(ticks) > 9:
        ticks = ticks[::2]
    return Axis(low / 1.08, high * 1.08, ticks, log=True)


def linear_axis(values: Iterable[float], count: int = 5, padded: bool = True) -> Axis:
    """A linear axis over ``values`` with round ticks; it starts at 0 when 0 is not far off.

    ``padded`` widens the range to whole ticks, as a value axis wants; a step axis does not.
    """
    values = list(values)
    low, high = min(values), max(values)
    if padded and 0 < low < 0.6 * high:
        low = 0.0
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _round_step((high - low) / count)
    first = math.floor(low / step + 1e-9) if padded else math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9) if padded else math.floor(high / step + 1e-9)
    ticks = [k * step for k in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks) if padded else Axis(low, high, ticks)


def log_axis(values: Iterable[float]) -> Axis:
    """A logarithmic value axis with ticks at 1, 2, 5 times powers of ten, thinned to few."""
    values = list(values)
    low, high = min(values), max(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
    below = max((v for v in fine if v <= low * 1.001), default=fine[0])
    above = min((v for v in fine if v >= high * 0.999), default=fine[-1])
    if below >= above:
        below, above = below / 2, above * 2
    ticks = [v for v in fine if below * 0.999 <= v <= above * 1.001]
    if len(ticks) > 9:
        ticks = [v for v in ticks if math.isclose(math.log10(v), round(math.log10(v)))]
    return Axis(below, above, ticks, log=True)


def short(value: float) -> str:
    """A number as a reader wants it: three significant digits, no trailing zeros."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _round_step(raw: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
