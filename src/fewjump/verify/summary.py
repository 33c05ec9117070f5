"""From tidy rows to a check's tables and charts: selection, means over seeds, pivots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fewjump.report import Chart, Reference, Role, Series, Table, short

Rows = Sequence[Mapping[str, Any]]
#: Rows of one point → their mean and the ends of its 95% interval.
Measure = Callable[[Rows], tuple[float, float, float]]


def pick(rows: Rows, **where: Any) -> list[Mapping[str, Any]]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]


def distinct(rows: Rows, key: str) -> list[Any]:
    """The values of a key, in the order of their first rows, without None."""
    return list(dict.fromkeys(row[key] for row in rows if row.get(key) is not None))


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean."""
    found = list(values)
    return sum(found) / len(found)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of Student's 95% interval."""
    from fewjump.evaluate.bootstrap import half_width

    return mean(values), half_width(values)


def plus_minus(values: Sequence[float]) -> str:
    """``mean ± half-width`` over seeds."""
    centre, half = interval(values)
    return f"{short(centre)} ± {short(half)}"


def of_seeds(key: str, at_least: float = -math.inf) -> Measure:
    """Mean of a key over rows, one a seed; the interval's lower end is ``at_least`` or more."""

    def measure(rows: Rows) -> tuple[float, float, float]:
        centre, half = interval([row[key] for row in rows])
        return centre, max(at_least, centre - half), centre + half

    return measure


def line(rows: Rows, x: str, y: Measure, label: str, role: Role = "other") -> Series:
    """A line with a band: at each ``x``, ascending, what ``y`` makes of the rows there."""
    xs = sorted(distinct(rows, x))
    points = [y(pick(rows, **{x: value})) for value in xs]
    middle, low, high = ([point[k] for point in points] for k in range(3))
    return Series(label, xs, middle, low, high, role)


def chart(
    title: str,
    series: Iterable[Series],
    x: str,
    y: str,
    log: str = "",
    marks: Mapping[str, float] = MappingProxyType({}),
    caption: str = "",
) -> Chart:
    """A chart of numbers of which less is better.

    Args:
        title, caption: of the chart.
        series: its lines.
        x, y: names of the axes, with units.
        log: which axes are logarithmic: ``""``, ``"x"`` or ``"xy"``.
        marks: label → horizontal line.
    """
    return Chart(
        title,
        list(series),
        [Reference(label, value) for label, value in marks.items()],
        x_label=x,
        y_label=y,
        log_x="x" in log,
        log_y="y" in log,
        better="lower",
        caption=caption,
    )


def pivot(
    title: str,
    rows: Rows,
    index: str,
    lines: Mapping[Any, str],
    columns: Mapping[str, Mapping[str, Any]],
    cell: Callable[[Rows], Any],
    corner: str,
    caption: str = "",
) -> Table:
    """A table of cells: a line for each value of ``index``, a column for each selection.

    Args:
        title: of the table.
        rows: tidy.
        index: a key of the rows.
        lines: its values, and what the table calls them.
        columns: heading → what the rows of that column have.
        cell: the rows of one cell → what it shows.
        corner: heading of the first column.
        caption: below the table.
    """
    body = [
        (name, *(cell(pick(rows, **{index: value}, **where)) for where in columns.values()))
        for value, name in lines.items()
    ]
    return Table(title, (corner, *columns), body, caption)
