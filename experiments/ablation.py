"""A table of what matters: kind of student × size × source of x_s × s, at several steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fewjump.evaluate.bootstrap import half_width

_MISSING = "–"


class Variant(NamedTuple):
    """What distinguishes one student from the next.

    Attributes:
        student: kind of law.
        size: in words, such as ``r=32`` or ``K=16``.
        source: how x_s was drawn: ``forward``, ``teacher-rollout`` or ``student``.
        near: where s lay: ``zero``, ``uniform``, ``adaptive`` or the share s/t.
    """

    student: str
    size: str
    source: str
    near: str


def ablation_table(rows: Sequence[Mapping[str, Any]], metric: str, digits: int = 3) -> str:
    """Markdown: one line a variant, one column a number of steps; less of the metric is better.

    A cell is the mean over seeds, with the half-width of Student's 95% interval where there are
    two seeds or more; the best mean of a column is bold. Lines come in the order in which their
    variants first appear, columns in increasing steps.

    Args:
        rows: with ``student``, ``size``, ``source``, ``near``, ``steps``, ``seed`` and the metric.
        metric: its name.
        digits: after the decimal point.

    Raises:
        ValueError: for no rows, a row that lacks a field, or a seed that occurs twice in a cell.
    """
    cells = _cells(rows, metric)
    variants = list(dict.fromkeys(variant for variant, _ in cells))
    columns = sorted({steps for _, steps in cells})
    means = {key: sum(seeds.values()) / len(seeds) for key, seeds in cells.items()}
    best = {s: min(m for (_, steps), m in means.items() if steps == s) for s in columns}

    def cell(variant: Variant, steps: int) -> str:
        if (variant, steps) not in cells:
            return _MISSING
        mean, values = means[variant, steps], list(cells[variant, steps].values())
        text = f"{mean:.{digits}f}"
        text = f"**{text}**" if mean == best[steps] else text
        return f"{text} ± {half_width(values):.{digits}f}" if len(values) > 1 else text

    heads = [f"{s} step{'s' * (s != 1)}" for s in columns]
    lines = [
        f"| student | size | x_s from | s | {' | '.join(heads)} |",
        f"|---|---|---|---|{'---:|' * len(columns)}",
    ]
    for variant in variants:
        numbers = " | ".join(cell(variant, steps) for steps in columns)
        lines.append(f"| {' | '.join(variant)} | {numbers} |")
    return "\n".join(lines) + "\n"


def _cells(
    rows: Sequence[Mapping[str, Any]], metric: str
) -> dict[tuple[Variant, int], dict[int, float]]:
    """Value by seed of each (variant, steps)."""
    if not rows:
        raise ValueError("an ablation table needs at least one row")
    cells: dict[tuple[Variant, int], dict[int, float]] = {}
    for row in rows:
        missing = [k for k in (*Variant._fields, "steps", "seed", metric) if row.get(k) is None]
        if missing:
            raise ValueError(f"a row of the ablation lacks {', '.join(missing)}: {dict(row)}")
        variant = Variant(*(_words(name, row[name]) for name in Variant._fields))
        seeds = cells.setdefault((variant, int(row["steps"])), {})
        if row["seed"] in seeds:
            raise ValueError(
                f"two rows for {', '.join(variant)} at {row['steps']} steps and seed "
                f"{row['seed']}: name what differs between them in 'size'"
            )
        seeds[row["seed"]] = float(row[metric])
    return cells


def _words(name: str, value: Any) -> str:
    return f"{value:g}·t" if name == "near" and isinstance(value, float) else str(value)
