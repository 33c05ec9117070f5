"""Tables of what the teacher adds, and of tokens that are summed out."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.pages.markdown import MISSING, Row, mean, table, where
from experiments.pages.road import load

#: Columns of a number of sequences: heads, and fields of a row.
_MEASURED = {"1 step": "nll", "4 steps": "bound"}


def sources(corpus: str, stopped: str) -> str:
    """Nats per token of unseen sequences, sources against numbers of sequences.

    Args:
        corpus: which of the three.
        stopped: ``last``, or ``validation``: which of each student's rows.
    """
    content = load(f"teacher_adds_{corpus}")
    rows = where(content["rows"], stopped=stopped)
    counts = sorted({r["sequences"] for r in rows}, reverse=True)
    lines = []
    for source in dict.fromkeys(r["source"] for r in rows):
        cells = [source]
        for count in counts:
            here = where(rows, source=source, sequences=count)
            cells += [_cell(here, key) for key in _MEASURED.values()]
        lines.append(cells)
    own = content["teacher"]
    lines.append([own["source"], *(f"{own[k]:.3f}" for k in _MEASURED.values())])
    lines[-1] += [MISSING] * (len(lines[0]) - len(lines[-1]))
    heads = [f"{count:,} sequences, {head}" for count in counts for head in _MEASURED]
    return table(["learned from", *heads], lines)


def _cell(rows: Sequence[Row], key: str) -> str:
    if not rows:
        return MISSING
    values = [r[key] for r in rows]
    # Of two or three seeds the range says more than an interval.
    spread = f" ({min(values):.3f}–{max(values):.3f})" if len(rows) > 1 else ""
    return f"{mean(rows, key):.3f}{spread}"


def spread(corpus: str) -> str:
    """The largest half-width over unseen sequences, of one evaluation."""
    rows = load(f"teacher_adds_{corpus}")["rows"]
    return f"{max((r['nll_high'] - r['nll_low']) / 2 for r in rows):.3f}"


def seeds(corpus: str) -> str:
    """Trainings of every student."""
    return str(len({r["seed"] for r in load(f"teacher_adds_{corpus}")["rows"]}))


def summed() -> str:
    """What the draw of tokens has of the gradient's variance, and what a sum leaves of it."""
    rows = load("summed_targets")["rows"]
    lines = []
    for drawn, other in zip(where(rows, way="drawn"), where(rows, way="summed"), strict=True):
        lines.append(
            (
                drawn["student"],
                f"{drawn['near']:g}·t",
                f"{100 * drawn['draw_variance'] / drawn['variance']:.0f}%",
                f"{100 * other['draw_variance'] / drawn['variance']:.0f}%",
                f"{100 * (1 - other['variance'] / drawn['variance']):.0f}%",
                f"{other['cpu_seconds'] / drawn['cpu_seconds']:.2f}×",
            )
        )
    header = (
        "student",
        "s",
        "noise of the draw",
        "left by the sum",
        "less variance",
        "time of a step",
    )
    return table(header, lines)
