"""Rows as Markdown tables: select, pivot, format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fewjump.evaluate.bootstrap import over_seeds

Row = Mapping[str, Any]
#: A column of an index: a key of the row, or a function of it.
Field = str | Callable[[Row], Any]

MISSING = "–"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def select(rows: Iterable[Row], columns: Mapping[str, Field]) -> str:
    """One line a row; ``columns`` are header → field."""
    return table(list(columns), [[_field(row, f) for f in columns.values()] for row in rows])


def pivot(
    rows: Sequence[Row],
    index: Mapping[str, Field],
    over: Field,
    cell: Callable[[list[Row]], str],
    head: Callable[[Any], str] = str,
    order: Sequence[Any] | None = None,
) -> str:
    """One line for each different index, one column for each different value of ``over``.

    Args:
        rows: in the order in which lines first appear.
        index: header → field.
        over: whose values become columns: increasing where they are numbers, else as they come.
        cell: of the rows that fall into one place, never none.
        head: a column's header.
        order: the columns, where it is another.
    """
    places: dict[tuple[Any, ...], dict[Any, list[Row]]] = {}
    for row in rows:
        line = places.setdefault(tuple(_field(row, f) for f in index.values()), {})
        line.setdefault(_field(row, over), []).append(row)
    if order is None:
        found = dict.fromkeys(_field(row, over) for row in rows)
        numbers = all(isinstance(value, int | float) for value in found)
        order = sorted(found) if numbers else list(found)
    lines = [
        (*key, *(cell(line[c]) if c in line else MISSING for c in order))
        for key, line in places.items()
    ]
    return table([*index, *map(head, order)], lines)


def where(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def code(key: str) -> Field:
    """A field in the type of code."""
    return lambda row: f"`{row[key]}`"


def form(key: str, spec: str, scale: float = 1.0) -> Field:
    """A field in a format, such as ``.3f``."""
    return lambda row: format(row[key] * scale if scale != 1 else row[key], spec)


def mean(rows: Sequence[Row], key: str) -> float:
    """Of a field."""
    return sum(row[key] for row in rows) / len(rows)


def steps_head(count: int) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count} step{'s' * (count > 1)}"


def plus_minus(row: Row, key: str, digits: int = 3) -> str:
    """A value and half of its interval, whose ends are ``key_low`` and ``key_high``."""
    half = (row[f"{key}_high"] - row[f"{key}_low"]) / 2
    return f"{row[key]:.{digits}f} ± {half:.{digits}f}"


def seeds_cell(rows: Sequence[Row], key: str) -> str:
    """A mean over seeds ± the wider of two 95% half-widths: over samples and over seeds.

    Rows without a value (None) are left out.
    """
    known = [r for r in rows if r[key] is not None]
    if not known:
        return MISSING
    value, _, high = over_seeds(known, key)
    return f"{value:.3f} ± {high - value:.3f}"


def _field(row: Row, field: Field) -> Any:
    return field(row) if callable(field) else row[field]
